"""How programs are compiled, and that it is counted."""

import jax
import jax.numpy as jnp

from simcse_jax.compilation_cache import compilations


def test_compilations_are_counted():
    totals = compilations()
    before = totals.large + totals.small, totals.seconds
    jax.jit(lambda x: x * 3.25 + 1)(jnp.arange(7.0))
    assert totals.large + totals.small > before[0]
    assert totals.seconds > before[1]
    assert "compiling took" in str(totals)
    assert compilations() is totals
