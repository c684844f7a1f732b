"""A tiny encoder with dropout, and batches made of the step's number alone."""

from typing import NamedTuple

import jax
import numpy as np

from simcse_jax import hub
from simcse_jax.data.packing import pack_rows, packed_batch
from simcse_jax.models import Batch, BertConfig
from simcse_jax.training import (
    MaskingTokens,
    SiameseBatch,
    TrainSettings,
    TrainState,
    create_state,
    make_optimizer,
)

MASKING = MaskingTokens(mask_id=4, special_ids=(0, 1, 2, 3, 4))


class Tiny(NamedTuple):
    config: BertConfig
    params: dict

    def state(self, settings: TrainSettings, total_steps: int = 10) -> TrainState:
        optimizer = make_optimizer(settings, total_steps)
        return create_state(self.config, settings, self.params, optimizer, jax.random.key(7))


def load_tiny(folder) -> Tiny:
    # One layer: what is tested here does not depend on the depth, and compiles faster.
    return Tiny(*hub.load_params(folder, hub.read_config(folder), num_layers=1))


def make_batch(step: int = 0, size: int = 16, columns: int = 1, length: int = 8) -> Batch:
    random = np.random.default_rng(step)
    ids = random.integers(5, 64, (size, columns, length), dtype=np.int32)
    mask = np.arange(length) < random.integers(4, length + 1, (size, columns, 1))
    ids[..., 0] = 2
    return Batch(np.where(mask, ids, 0).astype(np.int32), mask)


def packed(batch: Batch, devices: int = 1) -> SiameseBatch:
    """The same sentences, several to a row, and at least one empty row."""
    size, columns, length = batch.input_ids.shape
    flat = jax.tree.map(lambda x: x.reshape(size * columns, length), batch)
    ids = [row[mask] for row, mask in zip(flat.input_ids, flat.attention_mask, strict=True)]
    rows = pack_rows([len(i) for i in ids], 24)
    count = len(rows) // devices * devices + devices
    packed, order = packed_batch(ids, rows, (count, 24))
    sentences = np.empty(len(ids), np.int32)
    sentences[order] = np.arange(1, len(ids) + 1)
    return SiameseBatch(sentences.reshape(size, columns), packed)


def make_batches(size: int = 16, columns: int = 1):
    def batches(start: int):
        step = start
        while True:
            yield make_batch(step, size, columns)
            step += 1

    return batches
