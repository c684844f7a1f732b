"""What the benchmarks share; no test here depends on a time."""

import json
import os

import numpy as np
import pytest

from experiments.bench import (
    batch_invariance,
    bfloat16,
    cold_start,
    compiler_options,
    encode,
    growth,
    info_nce,
    low_precision,
    train,
    turns,
    whitening,
)
from simcse_jax import SentenceEncoder, encoder

WORKER = """
import sys
from experiments.bench.turns import serve

name = sys.argv[sys.argv.index("--worker") + 1]
calls = []

def prepare():
    if name == "broken":
        raise SystemExit("no such accelerator")
    print("a library talks", "to both" * 100)
    print("and talks" * 20_000, file=sys.stderr)
    return lambda: calls.append(1), {"name": name, "size": sys.argv[-1]}

serve(prepare)
"""


MACHINE = {
    "processor": "a processor",
    "threads": 2,
    "python": "3.11",
    "versions": {"jax": "0.10"},
    "matmul_gflops": 100.0,
    "copy_gb_per_s": 20.0,
}


@pytest.fixture
def workers(tmp_path, monkeypatch):
    (tmp_path / "fake_bench.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")
    return "fake_bench"


@pytest.mark.slow
def test_workers_take_turns_and_a_broken_one_is_left_out(workers, capsys):
    names = [turns.OURS, "broken", "other"]
    reports = turns.take_turns(workers, names, ["--size", "3"], rounds=2, threads=1)
    assert list(reports) == [turns.OURS, "other"]
    for name, report in reports.items():
        assert report["name"] == name
        assert report["size"] == "3"
        assert len(report["times"]) == 2
        assert all(seconds >= 0 for seconds in report["times"])
        assert report["peak_gib"] > 0
    assert len(reports[turns.OURS]["moments"]) == 2
    assert turns.machine(1, reports)["moments"] == reports[turns.OURS]["moments"]
    assert "broken is left out, it stopped: no such accelerator" in capsys.readouterr().out


def test_without_ours_there_is_nothing_to_compare(workers):
    with pytest.raises(RuntimeError, match="simcse_jax stopped"):
        turns.take_turns("no_such_module", [turns.OURS], [], rounds=1, threads=1)


def test_what_is_not_installed_is_named(capsys):
    needs = {turns.OURS: ("json",), "another": ("json", "no_such_module")}
    assert turns.installed(needs) == [turns.OURS]
    assert "another is left out: no_such_module is not installed" in capsys.readouterr().out


def test_medians_and_ratios():
    facts = {"first": 5.0, "peak_gib": 1.0}
    reports = {
        turns.OURS: {"times": [2.0, 9.0, 1.0], **facts},
        "other": {"times": [3.0, 3.0, 8.0], **facts},
    }
    rows = turns.summary(reports, work=6)
    assert rows[turns.OURS]["median_s"] == 2
    assert rows[turns.OURS]["per_s"] == 3
    assert rows["other"]["ratio_to_ours"] == 1.5
    assert (rows["other"]["min_s"], rows["other"]["max_s"]) == (3, 8)


def test_the_table_lies_beside_the_numbers(tmp_path):
    value = {"machine": MACHINE, "rows": {}}
    rows = [["ours", "1.0"], ["theirs", "2.0"]]
    table = turns.BenchTable("A title", ("library", "s"), rows)
    turns.publish(tmp_path / "bench.json", value, table)
    assert json.loads((tmp_path / "bench.json").read_text()) == value
    text = (tmp_path / "bench.md").read_text()
    assert text.startswith("A title; a processor, 2 threads, 100 GFLOP/s in a float32 matmul")
    assert text.endswith("| library | s |\n| --- | --- |\n| ours | 1.0 |\n| theirs | 2.0 |\n")


def test_a_run_in_noise_says_so_in_its_table():
    quiet = [{"others_cores": 0.0, "matmul_gflops": r} for r in (100.0, 119.0)]
    loud = [*quiet, {"others_cores": 1.25, "matmul_gflops": 70.0}]
    said = turns.describe(MACHINE | {"moments": quiet})
    assert said.endswith("Python 3.11; others kept 0.0 to 0.0 cores busy between the rounds")
    said = turns.describe(MACHINE | {"moments": loud})
    assert "0.0 to 1.2 cores busy" in said
    assert said.endswith(
        "NOT A QUIET RUN: the matmul rate went from 70 to 119 GFLOP/s between the rounds"
    )


def test_what_others_keep_busy_is_seen():
    busy = turns.moment()
    assert 0 <= busy["others_cores"] <= os.cpu_count()
    assert busy["matmul_gflops"] > 0


def test_an_accelerator_is_named_with_its_ceilings():
    assert turns.describe(MACHINE).startswith("a processor, 2 threads, 100 GFLOP/s")
    device = {"accelerator": "a card", **turns.device_ceilings(size=128)}
    assert min(v for v in device.values() if not isinstance(v, str)) > 0
    assert turns.describe(MACHINE | device).startswith("a card, ")


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("batch_invariance", batch_invariance),
        ("bench_cold_start", cold_start),
        ("bench_encode", encode),
        ("bench_growth", growth),
        ("bench_info_nce_32768", info_nce),
        ("bench_train", train),
        ("bench_low_precision", low_precision),
        ("bench_train_bfloat16", train),
        ("bfloat16", bfloat16),
        ("compiler_options_jax_0.10.2", compiler_options),
        ("compiler_options_jax_0.12.0.1", compiler_options),
    ],
)
def test_the_committed_tables_are_drawn_from_their_numbers(results_folder, name, script):
    value = json.loads((results_folder / f"{name}.json").read_text())
    text = (results_folder / f"{name}.md").read_text()
    assert turns.markdown(value, script.table(value)) == text


def test_whitening_beside_numpy(tmp_path, monkeypatch):
    monkeypatch.setattr(whitening, "machine", lambda threads: MACHINE)
    output = tmp_path / "whitening.json"
    settings = whitening.WhiteningBenchmark(rows=(50,), dims=(8,), repeats=1, output=output)
    whitening.main(settings)
    (row,) = json.loads(output.read_text())["results"]
    assert (row["rows"], row["dim"]) == (50, 8)
    assert min(row["ours_s"], row["numpy_s"]) > 0
    assert "| 50 | 8 |" in output.with_suffix(".md").read_text()


def test_sentences_of_the_growth_are_distinct_and_alike(tiny_data):
    few, many = (growth.make_sentences(tiny_data, n) for n in (10, 500))
    assert many[:10] == few
    assert len(set(many)) == 500


def test_no_option_of_xla_is_faster_than_its_own(results_folder):
    """So that the library gives none; a machine where one is would be a reason to give it."""
    files = sorted(results_folder.glob("compiler_options_jax_*.json"))
    assert len(files) >= 2  # both ends
    for file in files:
        rows = json.loads(file.read_text())["rows"]
        own = {row["dtype"]: row["ratio_to_fastest"] for row in rows if not row["options"]}
        assert set(own) == set(compiler_options.DTYPES)
        assert max(own.values()) < 1.02


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_variant_of_ours_encodes_and_is_scored(dtype, tiny_data, monkeypatch, golden):
    small = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", dtype=dtype)
    monkeypatch.setattr(SentenceEncoder, "from_pretrained", lambda *_, dtype: small)
    name = f"simcse_jax {dtype}".removesuffix(" float32")
    settings = low_precision.LowPrecisionBenchmark(data=tiny_data, worker=name)
    work, facts = low_precision.prepare(settings)
    assert -100 <= facts["score"] <= 100
    assert work().dtype == np.float32
    monkeypatch.setattr(encoder, "_embed_jit", encoder._embed_jit)  # put back afterwards
    options = compiler_options.OptionsBenchmark(data=tiny_data, worker=f"{dtype}, XLA's own")
    work, facts = compiler_options.prepare(options)
    np.testing.assert_allclose(work()[:50], facts["head"], atol=1e-6)


@pytest.mark.slow
def test_vectors_depend_on_their_company_by_rounding_alone(tiny_data, golden, tmp_path):
    output = tmp_path / "invariance.json"
    model = str(golden / "tiny-bert")
    batch_invariance.main(batch_invariance.BatchInvariance(model, tiny_data, 40, output))
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 3 * 6
    bounds = {"float32": 2e-6, "bfloat16": 0.02, "int8": 0.1}
    for row in rows:
        # The same shapes: in float32 the same bits, in whatever order.
        same = row["company"] == "the same call again" or (
            row["dtype"] == "float32" and row["company"] == "shuffled"
        )
        assert row["largest"] <= (0 if same else bounds[row["dtype"]]), row
