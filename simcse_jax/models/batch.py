"""The one type of a batch of tokens, everywhere in the library."""

from __future__ import annotations

import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Int

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
