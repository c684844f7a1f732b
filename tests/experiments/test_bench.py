"""What the benchmarks share; no test here depends on a time."""

import json

import numpy as np
import pytest

from experiments import bench, bench_growth, bench_info_nce

WORKER = """
import sys
from experiments.bench import serve

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


def test_workers_take_turns_and_a_broken_one_is_left_out(workers, capsys):
    names = [bench.OURS, "broken", "other"]
    reports = bench.take_turns(workers, names, ["--size", "3"], rounds=2, threads=1)
    assert list(reports) == [bench.OURS, "other"]
    for name, report in reports.items():
        assert report["name"] == name
        assert report["size"] == "3"
        assert len(report["times"]) == 2
        assert all(seconds >= 0 for seconds in report["times"])
        assert report["peak_gib"] > 0
    assert "broken is left out, it stopped: no such accelerator" in capsys.readouterr().out


def test_without_ours_there_is_nothing_to_compare(workers):
    with pytest.raises(RuntimeError, match="simcse_jax stopped"):
        bench.take_turns("no_such_module", [bench.OURS], [], rounds=1, threads=1)


def test_what_is_not_installed_is_named(capsys):
    needs = {bench.OURS: ("json",), "another": ("json", "no_such_module")}
    assert bench.installed(needs) == [bench.OURS]
    assert "another is left out: no_such_module is not installed" in capsys.readouterr().out


def test_medians_and_ratios():
    facts = {"first": 5.0, "peak_gib": 1.0}
    reports = {
        bench.OURS: {"times": [2.0, 9.0, 1.0], **facts},
        "other": {"times": [3.0, 3.0, 8.0], **facts},
    }
    rows = bench.summary(reports, work=6)
    assert rows[bench.OURS]["median_s"] == 2
    assert rows[bench.OURS]["per_s"] == 3
    assert rows["other"]["ratio_to_ours"] == 1.5
    assert (rows["other"]["min_s"], rows["other"]["max_s"]) == (3, 8)


def test_the_table_lies_beside_the_numbers(tmp_path):
    value = {"machine": MACHINE, "rows": {}}
    rows = [["ours", "1.0"], ["theirs", "2.0"]]
    bench.publish(tmp_path / "bench.json", value, "A title", ("library", "s"), rows)
    assert json.loads((tmp_path / "bench.json").read_text()) == value
    text = (tmp_path / "bench.md").read_text()
    assert text.startswith("A title; a processor, 2 threads, 100 GFLOP/s in a float32 matmul")
    assert text.endswith("| library | s |\n| --- | --- |\n| ours | 1.0 |\n| theirs | 2.0 |\n")


def test_an_accelerator_is_named_with_its_ceilings():
    assert bench.describe(MACHINE).startswith("a processor, 2 threads, 100 GFLOP/s")
    device = {"accelerator": "a card", **bench.device_ceilings(size=128)}
    assert min(v for v in device.values() if not isinstance(v, str)) > 0
    assert bench.describe(MACHINE | device).startswith("a card, ")


def test_versions_of_the_loss_take_turns_and_agree(tmp_path):
    output = tmp_path / "info_nce.json"
    versions = ("dense", "blockwise", "auto")
    settings = bench_info_nce.Settings(
        sizes=(64,), dims=(16,), versions=versions, repeats=2, output=output
    )
    bench_info_nce.main(settings)
    rows = json.loads(output.read_text())["rows"]
    assert [row["version"] for row in rows] == list(versions)
    assert all(row["seconds"] > 0 and row["temporaries_bytes"] > 0 for row in rows)
    np.testing.assert_allclose([row["loss"] for row in rows], rows[0]["loss"], rtol=1e-6)
    assert output.with_suffix(".md").read_text().count("| 64 | 16 |") == 3


def test_what_does_not_fit_is_skipped_and_said(monkeypatch):
    monkeypatch.setattr(bench_info_nce, "free_bytes", lambda: 10)
    facts, call = bench_info_nce.prepare_jax(bench_info_nce.Settings(), "dense", 64, 16)
    assert call is None
    assert "of temporaries" in facts["skipped"]


def test_sentences_of_the_growth_are_distinct_and_alike(tiny_data):
    few, many = (bench_growth.make_sentences(tiny_data, n) for n in (10, 500))
    assert many[:10] == few
    assert len(set(many)) == 500
