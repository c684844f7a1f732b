"""Fill the tables of README.md and of the docs, from the files in experiments/results.

    python docs/fill_tables.py           # writes them between the pages' markers

A marker is a line `<!-- table: NAME -->` or `<!-- file: PATH -->`, and `<!-- end -->` closes it.
The README's tables are made here, the others in result_tables.py. The demo's rows come from
experiments/results/demo.json, which is what `make demo` writes to demo/demo.json. A test keeps
every page as it is written here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import result_tables as tables  # noqa: E402

from experiments.report import markdown, mean_and_deviation  # noqa: E402
from simcse_jax.encoder import DTYPES  # noqa: E402

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
SPEED = {
    "train": ("bench_train.json", "a step of SimCSE, 64 sentences"),
    "start": ("bench_cold_start.json", "from the process' start to the first vector"),
}
LIBRARIES = ("torch", "torch.compile", "sentence-transformers", "onnxruntime", "openvino")
_TRAIN = "simcse-jax train experiments/configs"
_FIT = (
    "python -m experiments.tables.postprocess --method {} --num-layers 4 --pooling cls "
    "--fit target --eval-data DATA"
)
COMMANDS = {
    "BERT-avg": "simcse-jax evaluate --num-layers 4 --pooling mean --data DATA",
    "BERT-whitening": f"{_FIT} --k 256".format("whitening"),
    "BERT-flow": f"{_FIT} --seeds 0 1 2".format("flow"),
    "Sentence-BERT": f"{_TRAIN}/sbert_stsb_minilm.py --eval-data DATA",
    "SimCSE, supervised": f"{_TRAIN}/sup_simcse_minilm.py --train-files snli_dev.jsonl "
    "mnli_dev.jsonl --eval-data DATA",
    "SimCSE, unsupervised": f"{_TRAIN}/unsup_simcse_minilm.py --train-files wiki1m_head.txt "
    "--eval-data DATA",
}
"""The command of each method; its settings are in the configuration that it names."""


def cells(table: str) -> dict[str, dict[str, str]]:
    """Return a Markdown table's cells by the first cell of their row, and their column."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, _, *rows = ([c.strip() for c in line.strip("| ").split(" | ")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=False)) for row in rows}


def methods() -> str:
    """Return every method with its score before and after, and the command that makes it."""
    read = lambda name: [tables.read(path) for path in tables.files(name)]  # noqa: E731
    raw = cells(tables.every_method(*read("every-method")))
    fitted = cells(tables.postprocess(*read("postprocess")))
    unsup, sup = (
        mean_and_deviation([row[value["columns"].index("test_best")] for row in value["per_seed"]])
        for value in read("simcse")[:2]
    )
    sbert = read("sbert")[1]["runs"]
    stsb = mean_and_deviation([run["best"]["tasks"]["STS-B"]["all"] for run in sbert])
    start, mean = fitted["raw"]["4 layers"], raw["mean"]["STS-B"]
    whitening, flow = (fitted[row]["4 layers"] for row in ("whitening, k=256", "flow, code"))
    rows = [
        ("BERT-avg", "bert_avg", "mean", "–", mean),
        ("BERT-whitening", "whitening", "cls", start, whitening),
        ("BERT-flow", "bert_flow", "cls", start, flow),
        ("Sentence-BERT", "sentence_bert", "mean", mean, stsb),
        ("SimCSE, supervised", "simcse", "mean", mean, sup),
        ("SimCSE, unsupervised", "simcse", "cls, all layers", fitted["raw"]["6 layers"], unsup),
    ]
    linked = [
        [f"[{name}](docs/methods/{page}.md)", of, before, after, f"`{COMMANDS[name]}`"]
        for name, page, of, before, after in rows
    ]
    return markdown(["method", "vectors", "before", "after", "command"], linked)


def speed() -> str:
    """Return how much longer other libraries take."""
    low = tables.read(tables.RESULTS / "bench_low_precision.json")
    jax = ".".join(low["machine"]["versions"]["jax"].split(".")[:2])
    rows = []
    for dtype in DTYPES:
        median = {
            library: row["median_s"]
            for name, row in low["rows"].items()
            for library, _, of in [name.partition(" ")]
            if (of or "float32") == dtype
        }
        what = f"encode ({low['sentences']:,} sentences, jax {jax})"
        name = what if dtype == "float32" else f"the same in {dtype}"
        rows.append([name, *beside_ours(median)])
    for job, (file, what) in SPEED.items():
        found = tables.read(tables.RESULTS / file)["rows"]
        median = {
            name: row["median_s"]["total"] if job == "start" else row["median_s"]
            for name, row in found.items()
        }
        rows.append([f"{job} ({what})", *beside_ours(median)])
    return markdown(["", "simcse_jax", *LIBRARIES], rows)


def beside_ours(median: dict[str, float]) -> list[str]:
    """Return our seconds, and how many times longer each library takes that was measured."""
    ours = median["simcse_jax"]
    ratios = [f"{median[x] / ours:.2f} ×" if x in median else "" for x in LIBRARIES]
    return [f"{ours:.2f} s", *ratios]


def demo() -> str:
    """Return what the demo printed."""
    return tables.demo(tables.read(tables.RESULTS / "demo.json"))


README_TABLES = {"methods": methods, "speed": speed, "demo-rows": demo}
MARKED = re.compile(r"(<!-- (table|file): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def content(kind: str, name: str) -> str:
    """Return what a marker names: a table, or a file that a script has written, from docs/."""
    if kind == "file":
        return (ROOT / "docs" / name).read_text("utf-8").rstrip()
    return README_TABLES[name]() if name in README_TABLES else tables.table(name).rstrip()


def filled(text: str) -> str:
    """Return a page with its tables and files as they are now."""
    return MARKED.sub(lambda m: f"{m[1]}{content(m[2], m[3])}\n{m[4]}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
