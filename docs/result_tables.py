"""The tables of the docs and of the README, from the files in experiments/results.

Each is a function of those files alone; fill_tables.py writes it where a page names it. What was
measured where, and by which command, stands below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.report import markdown, mean_and_deviation
from simcse_jax.encoder import DTYPES
from simcse_jax.io import read_json
from tests.campaign.table import table as campaign_table

RESULTS = Path(__file__).resolve().parents[1] / "experiments" / "results"
TASKS = ("STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R", "average")
CONFIGS = "experiments/configs"


class Made(NamedTuple):
    """How a table is made.

    Attributes:
        body: returns it, from the contents of its files.
        files: in experiments/results.
        command: measures it again.
    """

    body: Callable[..., str]
    files: tuple[str, ...]
    command: str


def files(name: str) -> list[Path]:
    """Return the files that a table is made from."""
    return [RESULTS / file for file in TABLES[name].files]


def table(name: str) -> str:
    """Return a table with its hardware and command, as Markdown."""
    made = TABLES[name]
    contents = [read(path) for path in files(name)]
    body = made.body(*contents)
    places = sorted(set().union(*map(hardware, contents)))
    where = "" if "jax 0." in body else "; ".join(places) or "A CPU, which was not recorded"
    where = where and f"{where}. "
    sources = ", ".join(f"`{file}`" for file in made.files)
    below = f"{where}Numbers: {sources}. Command:\n\n```sh\n{made.command}\n```\n"
    return f"{body}\n\n{below}"


def read(path: Path) -> Any:
    """Return a file's content: JSON, or the text of a table that a script wrote."""
    return read_json(path) if path.suffix == ".json" else path.read_text("utf-8")


def hardware(value: Any) -> set[str]:
    """Return where the numbers of a file were measured, as far as it says so."""
    if isinstance(value, str):
        return set(re.findall(r"\| measured[^|;]*; ([^|]*) \|", value))
    if "runs" in value:
        return {run["hardware"] for run in value["runs"]}
    if "matmul_flops_per_second" in value:
        speed = value["matmul_flops_per_second"] / 1e9
        cores = f"{value['cpu_cores']} cores, {speed:.0f} GFLOP/s in a float32 matmul"
        return {f"{cores}, jax {value['jax']}, torch {value['torch']}"}
    return {value["hardware"]} if "hardware" in value else set()


def as_written(text: str) -> str:
    """Return a table as its script wrote it."""
    return text.strip()


def mean_cells(runs: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the cells of several runs: mean ± standard deviation."""
    return [mean_and_deviation([run[task] for run in runs]) for task in TASKS]


def demo(value: Any) -> str:
    """What the demo printed."""
    rows = [
        [row["method"]]
        + [f"{row[name]:.2f}" for name in ("lee_pearson", "lee_spearman", "sections")]
        for row in value["rows"]
    ]
    seconds = sum(row["seconds"] for row in value["rows"])
    head = ["method", "Lee Pearson", "Lee Spearman", "sections"]
    return f"{markdown(head, rows)}\n\nAll rows together took {seconds:.0f} s."


def sts_protocols(mean: Any, cls: Any) -> str:
    """MiniLM on the seven tasks in the three protocols."""
    rows = [
        [f"{name}, {protocol}"]
        + [f"{value['tasks'][task][protocol]:.2f}" for task in TASKS[:-1]]
        + [f"{value['average'][protocol]:.2f}"]
        for name, value in (("mean", mean), ("cls", cls))
        for protocol in ("all", "mean", "wmean")
    ]
    return markdown(["pooling, protocol", *TASKS], rows)


def sts_by_dtype(*results: Any) -> str:
    """MiniLM's mean on the seven tasks by compute type, protocol "all"."""
    rows = [
        [
            dtype,
            *(f"{value['tasks'][task]['all']:.2f}" for task in TASKS[:-1]),
            f"{value['average']['all']:.2f}",
        ]
        for dtype, value in zip(DTYPES, results, strict=True)
    ]
    return markdown(["compute type", *TASKS], rows)


def section(text: str, heading: str) -> str:
    """Return the first table below a heading of a file of tables."""
    below = text.partition(f"## {heading}")[2].strip().splitlines()
    start = next(i for i, line in enumerate(below) if line.startswith("|"))
    stop = next((i for i in range(start, len(below)) if not below[i].startswith("|")), len(below))
    return "\n".join(below[start:stop])


def postprocess(text: str, record: Any) -> str:
    """What is fitted to frozen vectors, on STS-B test."""
    return section(text, "STS-B test, fitted on its own sentences")


def retrieval(cls: Any, mean: Any) -> str:
    """Search by whitened vectors of several sizes."""
    rows = []
    for a, b in zip(cls["rows"], mean["rows"], strict=True):
        name = f"{a['method'].split(',')[0]}, {a['dimensions']}"
        rows.append(
            [
                name,
                f"{a['mrr_at_10']:.2f}",
                f"{a['memory_mb']:.1f}",
                f"{a['batch_ms']:.3f}",
                f"{b['mrr_at_10']:.2f}",
                f"{b['batch_ms']:.3f}",
            ]
        )
    head = ["vectors", "`cls`: MRR@10", "MB", "ms a query", "`mean`: MRR@10", "ms a query"]
    return markdown(head, rows)


def info_nce(value: Any) -> str:
    """Loss and gradient of InfoNCE in its forms, beside torch."""
    found = {(row["d"], row["n"], row["version"]): row for row in value["rows"]}
    seconds = lambda row: f"{row['seconds']:.3f}" if row.get("seconds") else "not run"  # noqa: E731
    gigabytes = lambda row: f"{row['temporaries_bytes'] / 1e9:.3f}"  # noqa: E731
    rows = []
    for d in value["settings"]["dims"]:
        for n in value["settings"]["sizes"]:
            dense, block, torch = (
                found.get((d, n, v), {}) for v in ("dense", "blockwise", "torch")
            )
            known = torch.get("seconds")
            ratio = f"{torch['seconds'] / block['seconds']:.2f} ×" if known else ""
            rows.append(
                [
                    f"{n:,}",
                    str(d),
                    seconds(dense),
                    seconds(block),
                    seconds(torch),
                    ratio,
                    gigabytes(dense),
                    gigabytes(block),
                    f"{block['share_of_matmul_6n2d']:.2f}",
                ]
            )
    head = ["N", "D", "dense s", "blockwise s", "torch s", "torch / blockwise"]
    head += ["dense temporaries, GB", "blockwise, GB", "share of the matmul rate"]
    return markdown(head, rows)


def simcse(unsup: Any, sup: Any, before: Any, four_layers: str) -> str:
    """The two runs of SimCSE: STS-B before and after."""
    lines = [line.split(" | ") for line in every_method(four_layers).splitlines()]
    mean = dict(zip(lines[0], next(line for line in lines if line[0] == "| mean"), strict=True))
    rows = []
    for name, value, start in (
        ("unsupervised, `cls`, 100 steps", unsup, f"{before['tasks']['STS-B']['all']:.2f}"),
        ("supervised, 4 layers, `mean`, 120 steps", sup, mean["STS-B"]),
    ):
        columns = dict(zip(value["columns"], zip(*value["per_seed"], strict=True), strict=True))
        best = [mean_and_deviation(columns[name]) for name in ("dev_best", "test_best")]
        rows.append([name, f"{columns['dev_before'][0]:.2f}", start, *best])
    return markdown(["run", "start, dev", "start, test", "dev", "test"], rows)


SBERT = {
    "sbert_stsb_1_epoch.json": "STS-B regression, 1 epoch",
    "sbert_stsb_4_epochs.json": "STS-B regression, 4 epochs (the paper's)",
    "sbert_nli_paper.json": "NLI softmax, the paper's settings",
    "sbert_nli_2e-4.json": "the same, learning rate 2e-4 (ours)",
    "sbert_nli_two_labels.json": "entailment and contradiction only, 1e-4 (ours)",
    "sbert_nli_diff.json": "softmax over \\|u − v\\| alone, 1e-4, 400 steps (ours)",
}


def run_scores(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of the seven tasks in the protocol "all", and their average."""
    own = {task: value["all"] for task, value in record["tasks"].items()}
    return own | {"average": record["average"]["all"]}


def sbert(*values: Any) -> str:
    """Sentence-BERT's objectives on the seven tasks, of the models at the end of their runs.

    Not of those that STS-B dev chose: with the paper's settings NLI makes it fall, and it chooses
    an early one.
    """
    rows = [["before", *mean_cells([run_scores(values[0]["runs"][0]["before"])]), ""]]
    for name, value in zip(SBERT.values(), values, strict=True):
        runs = [run["last"] for run in value["runs"]]
        seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
        nli = mean_and_deviation([run["nli"] for run in runs]) if "nli" in runs[0] else ""
        rows.append([f"{name}, {seeds}", *mean_cells([run_scores(run) for run in runs]), nli])
    return markdown(["run", *TASKS, "NLI accuracy"], rows)


def sections(value: Any) -> str:
    """Sentence-BERT's triplets of Wikipedia sections."""
    names = {
        "sections": "held-out articles, Euclidean",
        "sections_cosine": "held-out articles, cosine",
        "sections_all": "held-out articles, all their triplets, Euclidean",
    }
    runs = value["runs"]
    rows = [
        [n, f"{runs[0]['before'][k]:.2f}", mean_and_deviation([run["best"][k] for run in runs])]
        for k, n in names.items()
    ]
    return markdown(["the positive is nearer, %", "before", "after"], rows)


def pair_search(value: Any) -> str:
    """The most similar pair of n sentences, by a cross-encoder and by a bi-encoder."""
    rows = []
    for row in value["measured"]:
        n, cross = row["n"], row.get("cross_s")
        own = row["encode_s"] + row["search_s"]
        rows.append(
            [
                f"{n:,}",
                f"{n * (n - 1) // 2:,}",
                f"{cross:.2f}" if cross else "not run",
                f"{row['encode_s']:.2f} + {row['search_s']:.3f}",
                f"{cross / own:.0f} ×" if cross else "",
            ]
        )
    row = value["extrapolated"]
    n, own = row["n"], row["encode_s"] + row["search_s"]
    days = row["cross_s"] / 86400
    rows.append(
        [
            f"{n:,}, extrapolated",
            f"{n * (n - 1) // 2:,}",
            f"{row['cross_s']:,.0f} ({days:.1f} days)",
            f"{row['encode_s']:.0f} + {row['search_s']:.1f}",
            f"{row['cross_s'] / own:,.0f} ×",
        ]
    )
    return markdown(["n", "pairs", "cross-encoder, s", "encode + search, s", "ratio"], rows)


def every_method(text: str) -> str:
    """Every method on the seven tasks, protocol "all", without the papers' rows."""
    lines = section(text, text.partition("## ")[2].partition("\n")[0]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    kept = [row[:-1] for row in rows[2:] if row[-1].startswith("measured")]
    return markdown(rows[0][:-1], kept)


def ablation(text: str, record: Any) -> str:
    """SimCSE's positives beside the paper's numbers."""
    return section(text, "augmentation")


def raw_ablations(text: str, record: Any) -> str:
    """SimCSE's ablations from a raw start, and how far their order is the paper's."""
    tables = text.partition("## ")[1:]  # above is how they were made
    return re.sub(r"^## (.*)$", r"\1:", "".join(tables).strip(), flags=re.MULTILINE)


def fuzz_seeds(*campaigns: Any) -> str:
    """What came of hostile input, a row for each seed."""
    rows = []
    for campaign in campaigns:
        counts = [row.values() for row in campaign["families"].values()]
        totals = map(sum, zip(*counts, strict=True))
        rows.append([str(campaign["seed"]), *(f"{total:,}" for total in totals)])
    return markdown(["seed", *next(iter(campaigns[0]["families"].values()))], rows)


def campaign_sums(*campaigns: Any) -> str:
    """What came of several campaigns together, by family or moment."""
    return campaign_table(campaigns)


def campaigns_of(kind: str) -> tuple[str, ...]:
    """Return the files of a kind's campaigns, by ascending seed."""
    files = RESULTS.glob(f"reliability_{kind}_*.json")
    return tuple(sorted((file.name for file in files), key=lambda name: (len(name), name)))


def commands_of(kind: str, last: int) -> str:
    """Return the commands of a kind's last campaigns."""
    seeds = [re.findall(r"\d+", name)[0] for name in campaigns_of(kind)[-last:]]
    return "\n".join(f"make {kind} SEED={seed}" for seed in seeds)


def sbert_nli(name: str, changes: str, folder: str = "") -> str:
    """Return the command of Sentence-BERT on NLI with other settings, or files of a folder."""
    return (
        f"simcse-jax train {CONFIGS}/sbert_nli_minilm.py{changes} \\\n"
        f"    --train-files {folder}snli_dev.jsonl {folder}mnli_dev.jsonl \\\n"
        f"    --test-files {folder}snli_test --eval-data DATA --output-dir runs/{name}"
    )


def raw_ablation(name: str, presets: str, vectors: str, text: str) -> str:
    """Return the command of ablations from the raw start."""
    return (
        f"python -m experiments.tables.ablations --model runs/raw/seed-0/last {vectors} \\\n"
        f"    --presets {presets} --steps 60 --every 30 --seeds 0 1 2 \\\n"
        f"    --eval-data DATA {text} \\\n    --output-dir runs/{name}"
    )


BENCH = ".venv-oracle/bin/python -m experiments.bench"
STS_TABLE = (
    "python -m experiments.tables.sts --num-layers 4 --pooling mean "
    "--nli snli_dev.jsonl mnli_dev.jsonl \\\n    --sup runs/sup --sbert runs/nli --eval-data DATA "
    "--output-dir runs/table"
)
RAW_TABLE = (
    "simcse-jax train unsup_simcse --model runs/raw/seed-0/last --pooling mean --max-steps 100 "
    "\\\n    --eval-every 50 --seeds 0 1 2 --train-files wiki1m_head.txt --eval-data DATA "
    "--output-dir runs/raw_unsup\n"
    "simcse-jax train sup_simcse --model runs/raw/seed-0/last --pooling mean --head none "
    "\\\n    --batch-size 128 --learning-rate 1e-4 --max-steps 120 --eval-every 60 --seeds 0 1 2 "
    "\\\n    --train-files snli_dev.jsonl mnli_dev.jsonl --eval-data DATA "
    "--output-dir runs/raw_sup\n"
    "simcse-jax train experiments/configs/sbert_nli_minilm.py --model runs/raw/seed-0/last "
    "\\\n    --num-layers None --seeds 0 1 2 --train-files snli_dev.jsonl mnli_dev.jsonl "
    "\\\n    --test-files snli_test --eval-data DATA --output-dir runs/raw_sbert\n"
    "simcse-jax train whitened_cse --model runs/raw/seed-0/last --pooling mean --batch-size 64 "
    "\\\n    --learning-rate 3e-5 --max-steps 100 --eval-every 50 --seeds 0 1 2 "
    "--train-files wiki1m_head.txt \\\n    --eval-data DATA --output-dir runs/raw_whitened\n"
    "simcse-jax train simcse_plus_plus --model runs/raw/seed-0/last --pooling mean "
    "\\\n    --max-steps 100 --eval-every 50 --seeds 0 1 2 --train-files wiki1m_head.txt "
    "\\\n    --eval-data DATA --output-dir runs/raw_plus_plus\n"
    "simcse-jax train esimcse --model runs/raw/seed-0/last --pooling mean --max-steps 100 "
    "\\\n    --eval-every 50 --seeds 0 1 2 --train-files wiki1m_head.txt --eval-data DATA "
    "--output-dir runs/raw_esimcse\n"
    "python -m experiments.tables.sts --model runs/raw/seed-0/last --nli snli_dev.jsonl "
    "mnli_dev.jsonl \\\n    --unsup runs/raw_unsup --sup runs/raw_sup --sbert runs/raw_sbert "
    "\\\n    --whitened-cse runs/raw_whitened --simcse-plus-plus runs/raw_plus_plus "
    "\\\n    --esimcse runs/raw_esimcse --eval-data DATA --output-dir runs/raw_table"
)
TABLES: dict[str, Made] = {
    "demo": Made(demo, ("demo.json",), "make demo"),
    "encode": Made(as_written, ("bench_encode.md",), f"{BENCH}.encode --data DATA"),
    "train": Made(as_written, ("bench_train.md",), f"{BENCH}.train --train-file wiki1m_head.txt"),
    "masked-lm": Made(
        as_written,
        ("bench_masked_lm.md",),
        f"{BENCH}.masked_lm --train-file wiki1m_head.txt",
    ),
    "sts-low-precision": Made(
        sts_by_dtype,
        tuple(f"sts_minilm_mean_{dtype}.json" for dtype in DTYPES),
        "\n".join(
            "simcse-jax evaluate --model minilm --pooling mean --data DATA "
            f"--dtype {dtype} --output {dtype}.json"
            for dtype in DTYPES
        ),
    ),
    "low-precision": Made(
        as_written,
        ("bench_low_precision.md",),
        "python -m experiments.bench.low_precision --data DATA",
    ),
    "train-bfloat16": Made(
        as_written,
        ("bench_train_bfloat16.md",),
        "python -m experiments.bench.train --train-file wiki1m_head.txt --dtype bfloat16 \\\n"
        "    --output experiments/results/bench_train_bfloat16.json",
    ),
    "options-old": Made(
        as_written,
        ("compiler_options_jax_0.10.2.md",),
        "python -m experiments.bench.compiler_options --data DATA",
    ),
    "options-new": Made(
        as_written,
        ("compiler_options_jax_0.12.0.1.md",),
        "python -m experiments.bench.compiler_options --data DATA",
    ),
    "batch-invariance": Made(
        as_written,
        ("batch_invariance.md",),
        "python -m experiments.bench.batch_invariance --data DATA",
    ),
    "cold-start": Made(as_written, ("bench_cold_start.md",), f"{BENCH}.cold_start"),
    "growth": Made(as_written, ("bench_growth.md",), f"{BENCH}.growth --data DATA"),
    "bfloat16": Made(
        as_written,
        ("bfloat16.md",),
        f"{BENCH}.bfloat16 --data DATA --train-file wiki1m_head.txt",
    ),
    "info-nce": Made(
        info_nce,
        ("bench_info_nce.json",),
        f"{BENCH}.info_nce --sizes 1024 2048 4096 8192 16384 --repeats 3",
    ),
    "info-nce-large": Made(
        as_written,
        ("bench_info_nce_32768.md",),
        f"{BENCH}.info_nce --sizes 2048 4096 32768 --dims 768 --repeats 2 \\\n"
        "    --memory-share 0.3 --output experiments/results/bench_info_nce_32768.json",
    ),
    "sts": Made(
        sts_protocols,
        ("sts_minilm_mean.json", "sts_minilm_cls.json"),
        "simcse-jax evaluate --model minilm --pooling mean --data DATA --output results.json\n"
        "simcse-jax evaluate --model minilm --pooling cls --data DATA --output results_cls.json",
    ),
    "postprocess": Made(
        postprocess,
        ("postprocess.md", "postprocess.json"),
        "python -m experiments.tables.postprocess_grid --eval-data DATA "
        "--nli snli_dev.jsonl mnli_dev.jsonl",
    ),
    "retrieval": Made(
        retrieval,
        ("retrieval_cls.json", "retrieval_mean.json"),
        "python -m experiments.tables.retrieval --pooling cls --output-dir experiments/results\n"
        "python -m experiments.tables.retrieval --pooling mean --output-dir experiments/results",
    ),
    "simcse": Made(
        simcse,
        (
            *("unsup_simcse_minilm.json", "sup_simcse_minilm.json"),
            *("sts_minilm_cls.json", "sts_table_minilm_4_layers_mean.md"),
        ),
        f"simcse-jax train {CONFIGS}/unsup_simcse_minilm.py \\\n"
        "    --train-files wiki1m_head.txt --eval-data DATA --output-dir runs/unsup\n"
        f"simcse-jax train {CONFIGS}/sup_simcse_minilm.py \\\n"
        "    --train-files snli_dev.jsonl mnli_dev.jsonl --eval-data DATA --output-dir runs/sup",
    ),
    "sbert": Made(
        sbert,
        tuple(SBERT),
        f"simcse-jax train {CONFIGS}/sbert_stsb_minilm.py --eval-data DATA "
        "--output-dir runs/stsb_4\n"
        f"simcse-jax train {CONFIGS}/sbert_stsb_minilm.py --epochs 1 --eval-every 125 \\\n"
        "    --eval-data DATA --output-dir runs/stsb\n"
        + "\n".join(
            sbert_nli(*how)
            for how in (
                ("nli", ""),
                ("nli_2e-4", " --learning-rate 2e-4"),
                ("nli_two_labels", " --learning-rate 1e-4", "two_labels/"),
                (
                    "nli_diff",
                    " --concatenation diff \\\n"
                    "    --learning-rate 1e-4 --max-steps 400 --eval-every 200",
                ),
            )
        ),
    ),
    "sections": Made(
        sections,
        ("sbert_wikisections.json",),
        f"simcse-jax train {CONFIGS}/sbert_wikisections_minilm.py --output-dir runs/sections",
    ),
    "pair-search": Made(
        pair_search, ("pair_search.json",), "python -m experiments.tables.pair_search"
    ),
    "every-method": Made(every_method, ("sts_table_minilm_4_layers_mean.md",), STS_TABLE),
    "raw-start": Made(
        as_written,
        ("raw_start.md",),
        "python -m experiments.tables.raw_start --train-files wiki1m_head.txt wiki_split_15k.txt "
        "\\\n    --eval-data DATA --dtype bfloat16 --seeds 0 1 2 --output-dir runs/raw",
    ),
    "raw-ablations": Made(
        raw_ablations,
        ("ablations_raw.md", "ablations_raw.json"),
        raw_ablation(
            "raw_ablations",
            "augmentation objective dropout",
            "--pooling mean",
            "--train-files wiki1m_head.txt",
        ),
    ),
    "raw-ablations-nli": Made(
        raw_ablations,
        ("ablations_raw_nli.md", "ablations_raw_nli.json"),
        raw_ablation(
            "raw_ablations_nli",
            "temperature hard-negative",
            "--pooling mean --head train_only",
            "--nli snli_dev.jsonl mnli_dev.jsonl",
        ),
    ),
    "raw-ablations-poolers": Made(
        raw_ablations,
        ("ablations_raw_poolers.md", "ablations_raw_poolers.json"),
        raw_ablation(
            "raw_ablations_poolers",
            "pooler pooler-nli",
            "--pooling cls",
            "--train-files wiki1m_head.txt --nli snli_dev.jsonl mnli_dev.jsonl",
        ),
    ),
    "ditto": Made(
        as_written,
        ("ditto.md",),
        "python -m experiments.tables.ditto --models minilm runs/raw/seed-{0,1,2}/last "
        '\\\n    --labels MiniLM "raw MiniLM, seed "{0,1,2} --eval-data DATA '
        "--output-dir runs/ditto",
    ),
    "seeds": Made(
        as_written,
        ("seeds.md",),
        "simcse-jax train unsup_simcse --model runs/raw/seed-0/last --pooling mean --max-steps 60 "
        "\\\n    --eval-every 30 --seeds {0..29} --train-files wiki1m_head.txt --eval-data DATA "
        "\\\n    --output-dir runs/seeds\n"
        "python -m experiments.tables.postprocess --num-layers 4 --pooling cls --method flow "
        "\\\n    --epochs 7 --seeds {0..29} --tasks STS-B --eval-data DATA "
        "--output-dir runs/flow_seeds\n"
        'python -m experiments.tables.seeds --runs "SimCSE, 60 steps" runs/seeds '
        '\\\n    "flow, 7 epochs" runs/flow_seeds',
    ),
    "raw-methods": Made(every_method, ("sts_table_raw_minilm.md",), RAW_TABLE),
    "fuzz-seeds": Made(fuzz_seeds, campaigns_of("fuzz"), commands_of("fuzz", 1)),
    "fuzz": Made(campaign_sums, campaigns_of("fuzz")[-2:], commands_of("fuzz", 2)),
    "kill": Made(campaign_sums, campaigns_of("kill"), commands_of("kill", 3)),
    "ablation": Made(
        ablation,
        ("ablations.md", "ablations.json"),
        "python -m experiments.tables.ablations --presets augmentation "
        "--eval-data DATA \\\n    --train-files wiki1m_head.txt --steps 30 --every 30 "
        "--output-dir runs/ablations",
    ),
}
