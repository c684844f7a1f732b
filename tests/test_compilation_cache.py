"""How long programs are compiled."""

import jax
import jax.numpy as jnp

from simcse_jax.compilation_cache import Compilations, compilations


def test_compilations_are_timed():
    total = compilations()
    before = total.seconds
    jax.jit(lambda x: x * 3.25 + 1)(jnp.arange(7.0))
    assert total.seconds > before
    assert compilations() is total
    assert str(Compilations(17.04)) == "compiling took 17.0 s"
