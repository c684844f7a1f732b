"""The one type of a batch of tokens, everywhere in the library: sentences packed into rows."""

from __future__ import annotations

from typing import no_type_check

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from simcse_jax.arrays import AnyArray
from simcse_jax.checks import check_array


@no_type_check  # at run time: JAX rebuilds it of shapes, of None, of arrays with one more axis
@flax.struct.dataclass
class Batch:
    """Tokenised sentences, one or several to a row; a sentence a row is the case of one.

    Attributes:
        input_ids: token ids.
        segment_ids: the number 1, 2, … of the sentence that each token belongs to, counted through
            the whole batch in any order; 0 at padding. Tokens attend within their sentence only.
        position_ids: the place of each token within its sentence, from 0.
        token_type_ids: the part of a sentence that a token belongs to, for cross-encoders; None is
            all zero.
    """

    input_ids: Int[AnyArray, "R L"]
    segment_ids: Int[AnyArray, "R L"]
    position_ids: Int[AnyArray, "R L"]
    token_type_ids: Int[AnyArray, "R L"] | None = None

    @property
    def attention_mask(self) -> Bool[AnyArray, "R L"]:
        """True where there is a token."""
        return self.segment_ids > 0


def one_a_row(
    input_ids: Int[AnyArray, "S L"],
    attention_mask: Shaped[AnyArray, "S L"],
    token_type_ids: Int[AnyArray, "S L"] | None = None,
) -> Batch:
    """Make a batch of sentences that lie one a row, padded on the right, as tokenizers give them.

    Args:
        input_ids: token ids.
        attention_mask: true (or 1) where there is a token.
        token_type_ids: see `Batch`.
    """
    input_ids = check_array("input_ids", input_ids, 2, whole=True)
    rows, length = input_ids.shape
    number = jnp.arange(1, rows + 1, dtype=jnp.int32)[:, None]
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    segments = jnp.where(jnp.asarray(attention_mask).astype(bool), number, 0)
    return Batch(input_ids, segments, positions, token_type_ids)


def same_segment(segments: Int[AnyArray, "R L"]) -> Bool[Array, "R 1 Q K"]:
    """Tell which keys each query sees: those of its sentence, and at padding those at padding."""
    segments = jnp.asarray(segments)
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def first_token_indices(batch: Batch, num_sentences: int) -> Int[Array, "S"]:
    """Find the first token of each sentence among all ``R·L`` tokens.

    Returns:
        ``[S]``; ``R·L`` itself, which is out of range, for a sentence that is not there.
    """
    segments = jnp.asarray(batch.segment_ids).reshape(-1)
    first = (segments > 0) & (jnp.asarray(batch.position_ids).reshape(-1) == 0)
    # All other tokens go to slot 0, which is cut off.
    index = jnp.full(num_sentences + 1, len(segments))
    return index.at[jnp.where(first, segments, 0)].set(jnp.arange(len(segments)))[1:]


def take_or_zero(x: Shaped[AnyArray, "N *D"], index: Int[Array, "M"]) -> Shaped[Array, "M *D"]:
    """Take rows of ``x``; zeros where the index is not below N."""
    return jnp.asarray(x).at[index].get(mode="fill", fill_value=0)
