"""In-batch InfoNCE, the loss of SimCSE: one equation, four ways to compute it.

- ``reference``: the equation as written, on one device; what the others are tested against.
- ``dense``: the same for the rows of one of several devices; holds the ``B x C`` logits.
- ``blockwise``: a block of rows at a time, memory ``O(block * C)``; the gradient is formed in the
  same pass, so forward and backward together cost three matrix products, ``6 B C D`` operations.
- dense and blockwise with ``axis_name``: rows stay on their device, candidates are gathered once.
- ``ring``: candidates travel from device to device and are never held together; the logits are
  recomputed on the way back, so it costs four products, ``8 B C D`` operations.

All give the same loss, accuracy and gradients to rounding. `info_nce` chooses among them.
"""

from simcse_jax.losses.info_nce.api import Implementation, info_nce, info_nce_loss
from simcse_jax.losses.info_nce.reference import InfoNCE, Similarity, info_nce_reference

__all__ = [
    "Implementation",
    "InfoNCE",
    "Similarity",
    "info_nce",
    "info_nce_loss",
    "info_nce_reference",
]
