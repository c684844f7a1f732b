"""A corpus to a file of vectors, a piece at a time: what ``simcse-jax encode`` does.

A source reads rows of text in pieces of a fixed number, so that what a piece holds follows from the
input alone, and with it the bits of its vectors. They are appended to a file in a folder beside the
output, where the progress is kept as well. A later process that continues reads the input again,
finds that the rows which are done are still the same, and goes on with the next piece.
"""

from __future__ import annotations

from simcse_jax.encoder import fingerprint
from simcse_jax.streaming.corpus import encode_source, rate_writer, shard_of, share_of
from simcse_jax.streaming.output import PartialOutput, partial_output
from simcse_jax.streaming.sinks import check_ending
from simcse_jax.streaming.sources import Source, open_source

__all__ = [
    "PartialOutput",
    "Source",
    "check_ending",
    "encode_source",
    "fingerprint",
    "open_source",
    "partial_output",
    "rate_writer",
    "shard_of",
    "share_of",
]
