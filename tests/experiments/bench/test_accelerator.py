"""The benchmark for accelerators: it works in small on a CPU, and its sums are right."""

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest
import tyro

from experiments.bench import (
    accelerator,
    attention,
    flow,
    info_nce,
    low_precision,
    train,
    workload,
)
from experiments.bench.accelerator import AcceleratorBenchmark, parts, table
from experiments.bench.turns import busy_share


def plane(name, **lines):
    """A device of a profile: lines of events, each from and to a number of nanoseconds."""
    events = {
        line: [SimpleNamespace(start_ns=a, duration_ns=b - a) for a, b in spans]
        for line, spans in lines.items()
    }
    return SimpleNamespace(
        name=name,
        lines=[
            SimpleNamespace(name=line.replace("_", " "), events=found)
            for line, found in events.items()
        ],
    )


def test_overlapping_streams_are_busy_once():
    gpu = plane("/device:GPU:0", Stream_1=[(0, 10), (20, 30)], Stream_2=[(5, 12), (22, 25)])
    other = plane("/device:GPU:1", Stream_1=[(0, 100)])
    host = plane("/host:CPU", python=[(0, 100)])
    assert busy_share([host, other, gpu], 100e-9) == pytest.approx(0.22)
    tpu = plane("/device:TPU:0", Steps=[(0, 100)], XLA_Ops=[(10, 60)])
    assert busy_share([tpu], 100e-9) == pytest.approx(0.5)
    assert busy_share([host], 1.0) is None


def test_the_operations_of_a_step():
    """Of one sentence of a token and two layers, product by product."""
    d, f = 3, 5
    layer = 4 * d * d + 2 * d * f + 2 * d  # q, k, v, output; two of the feed-forward; attention
    assert workload.step_operations([1], 2, d, f) == 3 * 2 * 2 * layer
    # Of a second token the last layer needs key and value alone.
    first = 2 * (4 * d * d + 2 * d * f + 2 * 2 * d) + 2 * d * d
    last = 2 * 2 * d * d + 2 * d * d + 2 * d * f + 2 * 2 * d
    assert workload.step_operations([2], 2, d, f) == 3 * 2 * (first + last - 2 * d * d)
    # BERT-base's layers have 85 million weights: six operations for each and a token, nearly.
    many = workload.step_operations([32] * 128, 12, 768, 3072)
    assert 0.9 < many / (6 * 85e6 * 32 * 128) < 1.0


@pytest.mark.parametrize("small", [False, True])
def test_every_part_is_a_command_that_exists(small, tmp_path):
    kinds = {
        "experiments.bench.low_precision": low_precision.LowPrecisionBenchmark,
        "experiments.bench.attention": attention.AttentionBenchmark,
        "experiments.bench.train": train.TrainBenchmark,
        "experiments.bench.info_nce": info_nce.InfoNceBenchmark,
        "experiments.bench.flow": flow.FlowBenchmark,
    }
    for module, *options in parts(AcceleratorBenchmark(), small).values():
        settings = tyro.cli(kinds[module], args=[*options, "--output", str(tmp_path / "x.json")])
        if module.endswith("train"):
            assert settings.dtype == "bfloat16"
            assert settings.batch_size % settings.grad_cache_chunks == 0
            libraries = {name.partition(".")[0] for name in settings.libraries}
            both = {"simcse_jax", "sentence-transformers"}
            assert libraries == (both if settings.grad_cache_chunks > 1 else both | {"torch"})
            assert any(name.endswith(".compile") for name in settings.libraries) != small


def test_a_part_that_fails_is_told_of_beside_the_others(tmp_path):
    command = ["json.tool", str(tmp_path / "no.json")]
    failed = accelerator.run_part("loss", command, tmp_path / "out.json")
    assert failed["error"].startswith("ended with exit code")
    how = {"vectors": 64, "width": 16}
    fit = {"settings": how, "steps": 2, "first_s": 3.0, "median_s": 0.5, "seconds": 4.0}
    value = {"small": True, "seconds": 60.0, "parts": {"loss": failed, "flow": fit}}
    rows = table(value).rows
    assert rows[0][:2] == ["loss", "failed"]
    assert rows[1] == [
        *("an epoch of the flow, 64 vectors of 16", "0.50 s", "none", "", "250.00 ms a step", ""),
    ]


def test_ours_is_compared_with_the_fastest():
    rows = {
        "simcse_jax bfloat16": {"median_s": 1.0},
        "sentence-transformers": {"median_s": 1.5},
        "sentence-transformers bfloat16": {"median_s": 3.0},
        "onnxruntime bfloat16": {"median_s": 0.1},
    }
    found = accelerator.fastest_torch(rows, rows["simcse_jax bfloat16"], "bfloat16")
    assert found == ["sentence-transformers bfloat16, 3.0000 s", "3.00 ×"]
    assert accelerator.fastest_torch({}, {"median_s": 1.0}) == ["not installed", ""]


def test_encoding_is_told_by_type():
    """int8 beside the others' bfloat16, which is the lowest that they have."""
    seconds = {"simcse_jax": 2.0, "simcse_jax bfloat16": 1.0, "simcse_jax int8": 0.5}
    seconds |= {"sentence-transformers": 6.0, "sentence-transformers bfloat16": 3.0}
    rows = {name: {"median_s": s, "per_s": 10 / s} for name, s in seconds.items()}
    encode = {"rows": rows, "sentences": 10}
    value = {"small": False, "seconds": 60.0}
    value["parts"] = {"encode": encode, "busy in encoding": {"seconds": 1.0, "busy": 0.91}}
    found = table(value).rows
    assert [row[3] for row in found] == ["3.00 ×", "3.00 ×", "6.00 ×"]
    assert [row[4] for row in found] == [
        *("5 sentences/s", "10 sentences/s; device busy 91 %", "20 sentences/s"),
    ]


def test_attentions_are_compared_at_each_length():
    def row(length, attention, seconds):
        numbers = {"first_s": 9.0, "median_s": seconds, "min_s": seconds, "max_s": seconds}
        return {"length": length, "attention": attention, "tokens_per_s": 8 / seconds, **numbers}

    rows = [
        *(row(128, "dense", 2.0), row(128, "cudnn", 4.0)),
        *(row(512, "dense", 3.0), {"length": 512, "attention": "cudnn", "missing": "no GPU"}),
    ]
    how = {"shape": "bert-base", "batches": 8, "tokens": 32_768, "rounds": 5}
    value = {"small": False, "seconds": 60.0, "parts": {"attention": {**how, "rows": rows}}}
    found = table(value).rows
    assert found[1][0] == "encode rows of 128, bert-base, bfloat16, cudnn attention"
    assert [row[1] for row in found] == ["2.0000 s", "4.0000 s", "3.0000 s", "not on this device"]
    assert [row[4] for row in found] == [
        *("4 tokens/s", "2 tokens/s; 0.50 × as fast as dense", "3 tokens/s", ""),
    ]
    own = attention.table({**how, "rows": rows})
    assert own.title.endswith("5 rounds (no GPU)")
    assert [row[5] for row in own.rows] == ["1.00 ×", "0.50 ×", "1.00 ×", ""]


@pytest.mark.slow
def test_it_works_in_small_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # and put back afterwards
    only = ("attention", "step of 8", "loss", "flow", "busy in encoding")
    settings = AcceleratorBenchmark(
        tmp_path / "none", only=only, threads=1, output_dir=tmp_path / "out"
    )
    accelerator.main(settings)
    value = json.loads((tmp_path / "out" / "accelerator.json").read_text())
    assert value["small"]
    assert tuple(value["parts"]) == only
    assert not any("error" in part for part in value["parts"].values())
    assert value["parts"]["busy in encoding"]["busy"] is None
    text = (tmp_path / "out" / "accelerator.md").read_text()
    assert text.count("\n| ") == len(table(value).rows) + 2 == 9
    assert text.count("| not on this device |") == 2  # cuDNN's attention, at two lengths
    assert "SimCSE, minilm, step of 8, bfloat16" in text
    assert sys.executable not in text
    with pytest.raises(
        ValueError, match="there is no part 'step'; they are encode, attention, step of 8"
    ):
        accelerator.main(dataclasses.replace(settings, only=("step",)))
