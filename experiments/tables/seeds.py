r"""Seeds as distributions: how far a score depends on the seed, and what the best of k is worth.

    simcse-jax train unsup_simcse --seeds 0 1 2 3 4 5 6 7 8 9 --output-dir runs/seeds ...
    python -m experiments.tables.seeds --runs "SimCSE" runs/seeds --output-dir runs/seeds_table

It reads what is finished: folders of `simcse-jax train` with several --seeds, which score STS-B dev
too, and folders of experiments.tables.postprocess, which do not. Of k seeds the one that is best on
dev is chosen, as one may, or the one that is best on the test itself, as one may not; what it then
scores on the test is averaged over all choices of k of the seeds, exactly. Writes seeds.json,
seeds.md and seeds.png.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.special import comb

from experiments import report
from experiments.script import run_script
from simcse_jax.checks import check_count, first_twice
from simcse_jax.evaluation.sts import spearman
from simcse_jax.io import read_json, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALLOWED, FORBIDDEN = "#0072B2", "#D55E00"


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Read the scores of many seeds, and draw them."""

    runs: tuple[tuple[str, Path], ...]
    """Names, each with the folder of a run with several seeds."""
    k: int = 5
    """The table says what the best of so many seeds is worth; the picture, of any number."""
    output_dir: Path = Path("runs/seeds_table")
    """The folder that gets seeds.json, seeds.md and seeds.png."""


def read_scores(folder: Path) -> dict[str, Any]:
    """Return the scores of a run's seeds on STS-B test, and on dev where it was scored.

    Raises:
        FileNotFoundError: there is no run of several seeds.
        ValueError: it has other scores than those of STS-B, of one seed only, or not finite ones.
    """
    try:
        found = scores_in(folder)
        scores = np.array([found[name] for name in ("dev", "test") if name in found], float)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder} has no scores as they are written there: {error!r}") from error
    if scores.shape[1] < 2:
        raise ValueError(f"{folder} is of one seed; a distribution needs two or more")
    if not np.isfinite(scores).all() or scores.shape[1] != len(found["seeds"]):
        raise ValueError(f"{folder} has scores that are not finite, or not one for each seed")
    return found


def scores_in(folder: Path) -> dict[str, Any]:
    """Return what `read_scores` does, as it stands in the run's file."""
    if (file := folder / "summary.json").is_file():
        found = read_json(file)
        # Not those of the Lee corpus, or of pairs of one's own.
        of_stsb = found["settings"].get("dev_metric") == "stsb_dev"
        if not of_stsb or not {"dev_best", "test_best"} <= set(found["columns"]):
            raise ValueError(f"{file} has no scores of STS-B dev and test; train with --eval-data")
        seeds = found["seeds"]
        columns = dict(zip(found["columns"], zip(*found["per_seed"], strict=True), strict=True))
        scores = {"dev": list(columns["dev_best"]), "test": list(columns["test_best"])}
    elif (file := folder / "results.json").is_file():
        found = read_json(file)
        runs = found.get("runs", {})
        if not runs or any("STS-B" not in run["tasks"] for run in runs.values()):
            raise ValueError(f"{file} has no scores of STS-B by seed")
        seeds = [int(seed) for seed in runs]
        scores = {"test": [run["tasks"]["STS-B"]["all"] for run in runs.values()]}
    else:
        raise FileNotFoundError(
            f"{folder} has neither the summary.json of a training with several --seeds nor the "
            "results.json of experiments.tables.postprocess"
        )
    about = {"settings": found["settings"], "hardware": found["hardware"]}
    return {"seeds": seeds, **scores, **about}


def best_of(
    chosen_by: Float[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Return the expected score of the best of 1, 2, ... n seeds, drawn without replacement.

    Of all choices of k of n seeds, those in which the seed of rank r (from 0) is the best are the
    choices of the k-1 others among the r below it: C(r, k-1) of C(n, k).

    Args:
        chosen_by: by which the best is told; of equal ones the later.
        scores: which is averaged.
    """
    n = len(scores)
    rank, k = np.arange(n), np.arange(1, n + 1)[:, None]
    shares = comb(rank, k - 1) / comb(n, k)
    return shares @ scores[np.argsort(chosen_by, kind="stable")]


def measured(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's record: its scores, and the curves of the best of k."""
    test = np.asarray(scores["test"], float)
    found = {**scores, "best_by_test": best_of(test, test).tolist()}
    if "dev" in scores:
        dev = np.asarray(scores["dev"], float)
        found["best_by_dev"] = best_of(dev, test).tolist()
        if np.ptp(dev) > 0 and np.ptp(test) > 0:
            found["dev_and_test"] = spearman(dev, test)
    return found


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows."""
    wanted = results["settings"]["k"]
    columns = [
        "run",
        "seeds",
        "STS-B dev",
        "STS-B test",
        "lowest to highest",
        f"best of {wanted} by dev",
        f"best of {wanted} by test",
        "ρ of dev and test",
    ]
    rows = []
    for name, run in results["runs"].items():
        test = run["test"]

        def cell(curve: str, run: Mapping[str, Any] = run) -> str:
            known = curve in run and wanted <= len(run["test"])
            return f"{run[curve][wanted - 1]:.2f}" if known else ""

        rows.append(
            [
                name,
                str(len(test)),
                report.mean_and_deviation(run["dev"]) if "dev" in run else "",
                report.mean_and_deviation(test),
                f"{min(test):.2f} to {max(test):.2f}",
                cell("best_by_dev"),
                cell("best_by_test"),
                f"{run['dev_and_test']:.2f}" if "dev_and_test" in run else "",
            ]
        )
    return columns, rows


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table in Markdown, drawn from the results alone."""
    where = sorted({run["hardware"] for run in results["runs"].values()})
    return f"Spearman × 100; {'; '.join(where)}.\n\n{report.markdown(*table(results))}\n"


def bins_of(scores: Sequence[float]) -> int:
    """Return the number of bins by Freedman and Diaconis' rule, of few scores at most as many."""
    quarter, three = np.percentile(scores, (25, 75))
    width = 2 * (three - quarter) / len(scores) ** (1 / 3)
    return len(scores) if width * len(scores) <= np.ptp(scores) else ceil(np.ptp(scores) / width)


def draw_histogram(axes: Axes, name: str, run: Mapping[str, Any]) -> None:
    """Draw how the seeds' scores are spread, each of them as a stroke below."""
    test = run["test"]
    axes.hist(test, bins=bins_of(test), color=ALLOWED, alpha=0.6)
    axes.plot(test, [0] * len(test), "|", color="black", ms=9, clip_on=False)
    axes.axvline(float(np.mean(test)), color="black", lw=1, ls="--", label="mean")
    axes.set_title(f"{name}: {len(test)} seeds", fontsize=10)
    axes.set_xlabel("STS-B test, Spearman × 100")
    axes.set_ylabel("number of seeds")
    axes.legend(fontsize=8, frameon=False)


def draw_best_of(axes: Axes, run: Mapping[str, Any]) -> None:
    """Draw what the best of k seeds scores on the test."""
    k = np.arange(1, len(run["test"]) + 1)
    axes.plot(k, run["best_by_test"], color=FORBIDDEN, ls="--", label="best on the test itself")
    if "best_by_dev" in run:
        axes.plot(k, run["best_by_dev"], color=ALLOWED, label="best on dev")
    axes.axhline(float(np.mean(run["test"])), color="black", lw=1, ls=":", label="mean of all")
    axes.set_xlabel("seeds tried, of which one is kept")
    axes.set_ylabel("its STS-B test score, expected")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


def draw(results: Mapping[str, Any]) -> Figure:
    """Draw a row of two panels for each run."""
    runs = results["runs"]
    figure, panels = report.pyplot().subplots(
        len(runs), 2, figsize=(8.6, 3.2 * len(runs)), squeeze=False, layout="constrained"
    )
    for (left, right), (name, run) in zip(panels, runs.items(), strict=True):
        draw_histogram(left, name, run)
        draw_best_of(right, run)
    return figure


def main(settings: Seeds) -> None:
    """Read every run, write the files, and print the table."""
    plt = report.pyplot()  # where it is missing, said at once
    check_count("k", settings.k)
    if not settings.runs:
        raise ValueError("--runs needs a name and a folder")
    if twice := first_twice([name for name, _ in settings.runs]):
        raise ValueError(f"two runs are called {twice!r}; give each a name of its own")
    runs = {name: measured(read_scores(folder)) for name, folder in settings.runs}
    folders = {name: folder.name for name, folder in settings.runs}
    results = report.results_record(settings, runs=folders) | {"runs": runs}
    write_json(settings.output_dir / "seeds.json", results)
    write_text(settings.output_dir / "seeds.md", markdown(results))
    figure = draw(results)
    report.write_figure(settings.output_dir / "seeds.png", figure)
    plt.close(figure)
    report.print_table("Spearman × 100", *table(results))
    report.console.print(f"{settings.output_dir}: seeds.json, seeds.md and seeds.png")


if __name__ == "__main__":
    run_script(main, Seeds, __doc__)
