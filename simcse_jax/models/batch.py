"""The one type of a batch of tokens, everywhere in the library."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

# Batches are made on the host and used on the device.
AnyArray = Array | np.ndarray


@flax.struct.dataclass
class Batch:
    """Tokenised sentences, one a row, padded on the right; or several packed into a row.

    Attributes:
        input_ids: token ids.
        attention_mask: True where there is a token.
        token_type_ids: the sentence a token belongs to, for cross-encoders; None is all zero.
        segment_ids: for packed rows, the number 1, 2, … of the sentence each token belongs to,
            counted through the whole batch, 0 at padding. Tokens attend within their segment
            only. None means a sentence a row.
        position_ids: the place of each token within its sentence, needed for packed rows.
    """

    input_ids: Int[AnyArray, "B L"]
    attention_mask: Bool[AnyArray, "B L"]
    token_type_ids: Int[AnyArray, "B L"] | None = None
    segment_ids: Int[AnyArray, "B L"] | None = None
    position_ids: Int[AnyArray, "B L"] | None = None


def first_token_indices(batch: Batch, num_segments: int) -> Int[Array, "S"]:
    """Where the first token of each segment of packed rows is, among all ``B·L`` tokens.

    ``B·L`` itself, which is out of range, for a segment that is not there.
    """
    assert batch.segment_ids is not None
    assert batch.position_ids is not None
    segments = jnp.asarray(batch.segment_ids).reshape(-1)
    first = (segments > 0) & (jnp.asarray(batch.position_ids).reshape(-1) == 0)
    # All other tokens go to slot 0, which is cut off.
    index = jnp.full(num_segments + 1, len(segments))
    return index.at[jnp.where(first, segments, 0)].set(jnp.arange(len(segments)))[1:]


def take_or_zero(x: Shaped[Array, "N *D"], index: Int[Array, "M"]) -> Shaped[Array, "M *D"]:
    """Rows of ``x``; zeros where the index is not below N."""
    return jnp.asarray(x).at[index].get(mode="fill", fill_value=0)
