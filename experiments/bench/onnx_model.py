"""MiniLM as ONNX with mean pooling, and the loop around a session, for the benchmarks of encoding.

Imports stand inside the functions, since the process of another library should load little else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.bench.workload import padded

Encode = Callable[[Sequence[str]], np.ndarray]


def export(file: Path) -> None:
    """Write MiniLM with mean pooling and unit vectors as ONNX: from ``ids`` and ``mask``."""
    import torch
    from transformers import BertModel

    from simcse_jax.data.embedded import minilm_folder

    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(minilm_folder(), attn_implementation="eager")

        def forward(self, ids, mask):
            hidden = self.bert(ids, mask).last_hidden_state
            weights = mask[..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(pooled)

    example = (torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))
    torch.onnx.export(
        Mean().eval(),
        example,
        str(file),
        input_names=["ids", "mask"],
        dynamic_axes={"ids": {0: "b", 1: "l"}, "mask": {0: "b", 1: "l"}},
        dynamo=False,
    )


def onnx_runtime(file: Path, threads: int) -> Encode:
    """Return the encoding by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return in_batches(lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0])


def in_batches(run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Encode:
    """Return the encoding in sentence-transformers' order: sorted by length, batches of 32.

    Args:
        run: from token ids and mask to vectors.
    """
    from simcse_jax.data.embedded import minilm_folder
    from simcse_jax.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(minilm_folder())

    def encode(sentences: Sequence[str]) -> np.ndarray:
        ids, _ = tokenizer(sentences, 256)
        order = np.argsort([-len(i) for i in ids], kind="stable")
        result = np.empty((len(ids), 384), np.float32)
        for start in range(0, len(ids), 32):
            chosen = order[start : start + 32]
            result[chosen] = run(*padded([ids[i] for i in chosen]))
        return result

    return encode
