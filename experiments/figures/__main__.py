r"""The papers' figures: the plane of alignment and uniformity, spectra, cosines, norms, the bound.

    python -m experiments.figures --eval-data SENTEVAL/data/downstream \
        --trained "SimCSE unsup" runs/unsup "SimCSE sup" runs/sup

Each figure is measured, its numbers are written to NAME.json, and NAME.png and NAME.pdf are drawn
from that file alone; --redraw draws again without measuring, --figures takes some of

* plane: every method by alignment and uniformity on the whole of STS-B, coloured by its score on
  STS-B test (SimCSE, figure 3), with average cosine, IsoScore and I(W) in the JSON;
* path: training runs in that plane (SimCSE, figure 2), short runs of --steps steps under four kinds
  of positives, measured on STS-B dev, and the batches of the runs given by --trained;
* spectrum: singular values before and after whitening, flow and training (SimCSE, section 5);
* cosines: densities of the cosines of STS-B pairs by band of gold score (SimCSE, figure G.1);
* frequency: norm and nearest neighbours of word embeddings by frequency (BERT-flow, table 1);
* bound: sum(WWᵀ) and the eigenvalue it bounds during the first run of "path" (SimCSE, section 5).

Whitening and flow are fitted to all sentences of STS-B without their scores ("target"). --trained
takes model folders, or run folders as `simcse-jax train` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments import report
from experiments.figures.measure import (
    NAMES,
    Embeddings,
    Figures,
    measure_cosines,
    measure_frequency,
    measure_plane,
    measure_spectrum,
)
from experiments.figures.training import measure_runs
from experiments.script import run_script
from simcse_jax import hub
from simcse_jax.io import read_json, write_json
from simcse_jax.models.pooling import check_pooling

OF_METHODS = {
    "plane": measure_plane,
    "spectrum": measure_spectrum,
    "cosines": measure_cosines,
}


def measure(settings: Figures) -> None:
    """Measure the figures' numbers; each is written as soon as it is known."""

    def done(name: str, value: dict[str, Any]) -> None:
        how = report.results_record(settings)
        write_json(settings.output_dir / f"{name}.json", value | how, indent=None)

    if set(OF_METHODS) & set(settings.figures):
        known = Embeddings(settings)
        for name, function in OF_METHODS.items():
            if name in settings.figures:
                done(name, function(known))
    if "frequency" in settings.figures:
        done("frequency", measure_frequency(settings))
    if {"path", "bound"} & set(settings.figures):
        for name, value in measure_runs(settings).items():
            if name in settings.figures:
                done(name, value)


def draw(name: str, folder: Path) -> None:
    """Draw NAME.png and NAME.pdf from NAME.json."""
    from experiments.figures.draw import DRAW, plt

    figure = DRAW[name](read_json(folder / f"{name}.json"))
    for kind in ("png", "pdf"):
        report.write_figure(folder / f"{name}.{kind}", figure, dpi=160)
    plt.close(figure)


def print_plane(plane: Mapping[str, Any]) -> None:
    """Print the plane as numbers."""
    numbers = [[row[k] for k in row if k not in ("method", "kind")] for row in plane["methods"]]
    report.print_table(
        f"Whole of STS-B, {plane['sentences']:,} distinct sentences",
        ["method", "STS-B test", "alignment", "uniformity", "mean cosine", "IsoScore", "I(W)"],
        [
            [row["method"], f"{own[0]:.2f}", *(f"{n:.3f}" for n in own[1:])]
            for row, own in zip(plane["methods"], numbers, strict=True)
        ],
    )


def main(settings: Figures) -> None:
    """Measure, write, draw."""
    report.pyplot()  # where it is missing, said at once
    if not settings.figures:
        raise ValueError(f"--figures needs one or more of {', '.join(NAMES)}")
    if settings.every < 1 or settings.steps < 1 or not settings.positives:
        raise ValueError("--steps, --every and --positives need one step and one kind or more")
    if not settings.redraw:
        check_pooling(settings.pooling, hub.read_config(hub.find_model(settings.model)))
        measure(settings)
    for name in tqdm(settings.figures, desc="draw", unit="figure"):
        draw(name, settings.output_dir)
    if "plane" in settings.figures:
        print_plane(read_json(settings.output_dir / "plane.json"))
    files = ", ".join(f"{name}.png" for name in settings.figures)
    report.console.print(f"{settings.output_dir}: {files}, each with its .pdf and .json")


if __name__ == "__main__":
    run_script(main, Figures, __doc__)
