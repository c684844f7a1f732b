"""The loss of a row keeps its digits."""

import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.losses.info_nce.logits import row_loss


@pytest.mark.parametrize("loss", [1e-30, 1e-12, 1e-6, 1.0, 50.0])
def test_nothing_cancels(loss):
    """One negative at logit 0 beside a positive at -log(e^loss - 1), far above or far below it."""
    with np.errstate(over="ignore"):
        positive = jnp.array([-np.log(np.expm1(loss))], jnp.float32)
    max_negative = jnp.zeros(1)
    negatives = jnp.exp(max_negative - jnp.maximum(positive, max_negative))
    found, total = row_loss(positive, max_negative, negatives)
    np.testing.assert_allclose(found, [loss], rtol=1e-5)
    top = jnp.maximum(positive, 0)
    np.testing.assert_allclose(total, jnp.exp(-top) + jnp.exp(positive - top), rtol=1e-6)
