"""The encoders that the benchmarks of encoding compare, all of MiniLM with mean pooling.

Imports stand inside the functions, since the process of another library should load little else.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.bench.workload import padded

Encode = Callable[[Sequence[str]], np.ndarray]


def ours(dtype: str, threads: int) -> Encode:
    """Return this library's encoder; XLA takes the process's cores, which the script has set."""
    from simcse_jax import SentenceEncoder

    return SentenceEncoder.from_pretrained("minilm", dtype=dtype).encode


def sentence_transformers(dtype: str, threads: int) -> Encode:
    """Return sentence-transformers' encoder, eager, with its defaults; on a GPU, larger batches."""
    import torch
    from sentence_transformers import SentenceTransformer

    from simcse_jax.data.embedded import minilm_folder

    torch.set_num_threads(threads)
    kwargs = {"dtype": getattr(torch, dtype)}
    if not torch.cuda.is_available():
        return SentenceTransformer(str(minilm_folder()), device="cpu", model_kwargs=kwargs).encode
    model = SentenceTransformer(str(minilm_folder()), device="cuda", model_kwargs=kwargs)
    return functools.partial(model.encode, batch_size=512)


def onnx_runtime(dtype: str, threads: int) -> Encode:
    """Return ONNX Runtime's encoder, of float32 or of dynamically quantised weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "minilm.onnx"
        export(file)
        if dtype == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic

            whole, file = file, Path(folder) / "int8.onnx"
            quantize_dynamic(whole, file, weight_type=QuantType.QInt8)
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    return in_batches(lambda ids, mask: session.run(None, {"ids": ids, "mask": mask})[0])


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
