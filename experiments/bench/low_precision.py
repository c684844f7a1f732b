"""Encoding in bfloat16 and int8 beside the other libraries' fastest on a CPU.

    python -m experiments.bench.low_precision        (with torch, onnxruntime, openvino and nncf)

all-MiniLM-L6-v2, mean pooling, from strings to vectors, on STS-B test's sentences (the embedded
Wikipedia's where there is no SentEval folder). Every variant in a process of its own, and the
processes take turns. The others' int8: ONNX Runtime's `quantize_dynamic` with int8 weights and its
defaults, and OpenVINO's static quantisation by NNCF for transformers, calibrated on 300 sentences
of the embedded Wikipedia. Scores are Spearman × 100 on STS-B test.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import encoders
from experiments.bench.encoders import Encode
from experiments.bench.turns import (
    BenchTable,
    device_busy,
    installed,
    machine,
    publish,
    serve,
    summary,
    take_turns,
)
from experiments.bench.workload import benchmark_sentences, padded
from experiments.script import run_script
from simcse_jax.io import write_json

_TORCH = ("sentence_transformers", "torch")
_ONNX = ("onnxruntime", "torch", "onnx")
NEEDS = {
    "simcse_jax": ("jax",),
    "simcse_jax bfloat16": ("jax",),
    "simcse_jax int8": ("jax",),
    "sentence-transformers": _TORCH,
    "sentence-transformers bfloat16": _TORCH,
    "onnxruntime": _ONNX,
    "onnxruntime int8": _ONNX,
    "openvino": ("openvino", *_ONNX),
    "openvino int8": ("openvino", "nncf", *_ONNX),
}
CALIBRATION = 300


@dataclasses.dataclass(frozen=True)
class LowPrecisionBenchmark:
    """Time encoding in low precision beside other libraries."""

    data: Path = Path("../shared/data/senteval")
    """SentEval's folder, or a file of sentences, which are not scored; without either the embedded
    Wikipedia is encoded."""
    sentences: int | None = None
    """Encode only the first so many sentences, and score nothing."""
    rounds: int = 5
    """The variants take turns so often."""
    threads: int = os.cpu_count() or 1
    """Each variant may use so many threads."""
    output: Path = Path("experiments/results/bench_low_precision.json")
    """The JSON file that gets the numbers; the table is written beside it."""
    profile: bool = False
    """Measure in which share of our encoder's time in bfloat16 the device is busy, and nothing
    else."""
    worker: str | None = None
    """Used by the script itself: be the process of this variant."""


def prepare(settings: LowPrecisionBenchmark):
    """Load a variant, compile it, and return the encoding of all sentences."""
    library, _, dtype = str(settings.worker).partition(" ")
    sentences, _ = benchmark_sentences(settings.data, settings.sentences)
    load: Callable[[str, int], Encode] = {
        "simcse_jax": encoders.ours,
        "sentence-transformers": encoders.sentence_transformers,
        "onnxruntime": encoders.onnx_runtime,
        "openvino": openvino,
    }[library]
    encode = load(dtype or "float32", settings.threads)
    vectors = np.asarray(encode(sentences), np.float32)
    scored = settings.data if settings.sentences is None else Path()
    return lambda: encode(sentences), {"score": score(scored, vectors)}


def score(data: Path, vectors: np.ndarray) -> float | None:
    """Return Spearman × 100 on STS-B test; None without SentEval's folder."""
    from simcse_jax.data.senteval import read_stsb
    from simcse_jax.evaluation.sts import paired_similarity, spearman

    if not (data / "STS").is_dir():
        return None
    half = len(vectors) // 2
    cosines = paired_similarity(vectors[:half], vectors[half:])
    return 100 * spearman(cosines, read_stsb(data, "test").scores)


def openvino(dtype: str, threads: int) -> Encode:
    """Return OpenVINO's encoding, of float32 or of a model that NNCF has quantised."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        encoders.export(Path(folder) / "minilm.onnx")
        model = ov.Core().read_model(Path(folder) / "minilm.onnx")
        hints: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if dtype == "int8":
            model = calibrated(model)  # the rest in what OpenVINO thinks best
        else:
            hints["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = ov.compile_model(model, "CPU", hints)
    return encoders.in_batches(lambda ids, mask: compiled({"ids": ids, "mask": mask})[0])


def calibrated(model: Any) -> Any:
    """Return OpenVINO's model with layers in int8, calibrated on sentences of Wikipedia."""
    import nncf

    from simcse_jax.data.embedded import minilm_folder
    from simcse_jax.data.tokenizer import Tokenizer
    from simcse_jax.data.wikipedia import embedded_wikipedia, sentences

    text = sentences(embedded_wikipedia())[:CALIBRATION]
    ids, _ = Tokenizer.from_folder(minilm_folder())(text, 256)

    def inputs(sentence: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(("ids", "mask"), padded([sentence]), strict=True))

    return nncf.quantize(
        model,
        nncf.Dataset(ids, inputs),
        subset_size=CALIBRATION,
        model_type=nncf.ModelType.TRANSFORMER,
    )


def variants_of(platform: str) -> dict[str, tuple[str, ...]]:
    """Return the variants that run there, with the modules they need: some know a CPU alone."""
    everywhere = ("simcse_jax", "sentence-transformers")
    return {n: needs for n, needs in NEEDS.items() if platform == "cpu" or n.startswith(everywhere)}


def table(value: dict[str, Any]) -> BenchTable:
    """Return the numbers as people read them."""
    columns = (
        *("variant", "median s", "range s", "sentences/s"),
        *("as fast as sentence-transformers in float32", "STS-B test"),
        *("load, compile and first pass, s", "peak GiB"),
    )
    peer = value["rows"].get("sentence-transformers")
    rows = [
        [
            *(name, f"{row['median_s']:.2f}", f"{row['min_s']:.2f} to {row['max_s']:.2f}"),
            f"{row['per_s']:.0f}",
            f"{peer['median_s'] / row['median_s']:.2f} ×" if peer else "",
            f"{row['score']:.2f}" if row["score"] is not None else "",
            *(f"{row['first_s']:.1f}", f"{row['peak_gib']:.2f}"),
        ]
        for name, row in value["rows"].items()
    ]
    title = f"{value['sentences']:,} sentences ({value['source']}), all-MiniLM-L6-v2"
    return BenchTable(f"{title}, {value['rounds']} rounds", columns, rows)


def main(settings: LowPrecisionBenchmark) -> None:
    """Let the variants take turns, print a table and write it."""
    if settings.profile:
        mine = dataclasses.replace(settings, worker="simcse_jax bfloat16")
        write_json(settings.output, device_busy(prepare(mine)[0]))
        return
    import jax  # not in the other libraries' processes

    sentences, source = benchmark_sentences(settings.data, settings.sentences)
    arguments = ["--data", str(settings.data), "--threads", str(settings.threads)]
    if settings.sentences is not None:
        arguments += ["--sentences", str(settings.sentences)]
    module = "experiments.bench.low_precision"
    variants = installed(variants_of(jax.default_backend()))
    answers = take_turns(module, variants, arguments, settings.rounds, settings.threads)
    rows = summary(answers, len(sentences))
    for name, row in rows.items():
        row["score"] = answers[name]["score"]
    value = {
        "machine": machine(settings.threads, answers),
        "source": source,
        "sentences": len(sentences),
        "rounds": settings.rounds,
        "rows": rows,
    }
    publish(settings.output, value, table(value))


def run(settings: LowPrecisionBenchmark) -> None:
    """Measure, or be one of the processes that are measured."""
    if settings.worker:
        serve(lambda: prepare(settings))
    else:
        main(settings)


if __name__ == "__main__":
    run_script(run, LowPrecisionBenchmark, __doc__)
