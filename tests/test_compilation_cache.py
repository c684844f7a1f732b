"""How programs are compiled, and that it is counted."""

import jax
import jax.numpy as jnp

from simcse_jax import compilation_cache
from simcse_jax.compilation_cache import compilations, encoding_options


def test_options_are_for_the_cpu_and_only_where_xla_knows_them(monkeypatch):
    assert encoding_options("gpu") == {}
    options = encoding_options("cpu")
    assert jax.jit(jnp.sin, compiler_options=options)(0.0) == 0

    encoding_options.cache_clear()
    real = jax.jit

    def unknown(function, compiler_options=None):
        if compiler_options:
            raise ValueError("No such compile option")
        return real(function)

    monkeypatch.setattr(compilation_cache.jax, "jit", unknown)
    assert encoding_options("cpu") == {}
    encoding_options.cache_clear()


def test_compilations_are_counted():
    totals = compilations()
    before = totals.large + totals.small, totals.seconds
    jax.jit(lambda x: x * 3.25 + 1)(jnp.arange(7.0))
    assert totals.large + totals.small > before[0]
    assert totals.seconds > before[1]
    assert "compiling took" in str(totals)
    assert compilations() is totals
