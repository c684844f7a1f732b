r"""Sentence-BERT's ablations (Reimers & Gurevych 2019, section 6, table 6).

    python -m experiments.sbert_ablation --poolings mean max cls --train-file NLI ... \
        --eval-data SENTEVAL/data/downstream --output-dir runs/sbert_poolings
    python -m experiments.sbert_ablation --concatenations --train-file NLI ... \
        --eval-data SENTEVAL/data/downstream --output-dir runs/sbert_concatenations
    python -m experiments.sbert_ablation --objective stsb --poolings mean max cls \
        --eval-data SENTEVAL/data/downstream --output-dir runs/sbert_stsb_poolings

Every pooling with every concatenation is a run of experiments.sbert_nli, or of
experiments.sbert_stsb with --objective stsb, in a folder of its own; --concatenations without a
name is all seven. The other options are those of sbert_nli. As in the paper's table, what is
compared is STS-B dev.
"""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.table import Table

from experiments import runs, sbert_nli, sbert_stsb
from simcse_jax.cli import run_or_explain
from simcse_jax.io import write_json
from simcse_jax.losses.nli_softmax import CONCATENATIONS, Concatenation


@dataclasses.dataclass(frozen=True)
class Settings(sbert_nli.Settings):
    """Sentence-BERT's ablations."""

    objective: Literal["nli", "stsb"] = "nli"
    """The run to repeat."""
    poolings: tuple[str, ...] | None = None
    """mean, max, cls or others. Default: --pooling alone."""
    concatenations: tuple[Concatenation, ...] | None = None
    """Of the NLI objective; no name for all. Default: --concatenation alone."""
    epochs: float | None = None  # type: ignore[assignment]
    """Default: the run's."""
    output_dir: Path = Path("runs/sbert_ablation")
    """Holds a folder for each run, and ablation.json."""


def variants(settings: Settings) -> list[tuple[str, str]]:
    """The pooling and concatenation of every run."""
    poolings = settings.poolings or (settings.pooling,)
    concatenations: tuple[str, ...] = (settings.concatenation,)
    if settings.concatenations is not None:
        if settings.objective != "nli":
            raise ValueError("--concatenations are of the softmax; they need --objective nli")
        concatenations = settings.concatenations or CONCATENATIONS
    return list(itertools.product(poolings, concatenations))


def run_settings(settings: Settings, pooling: str, concatenation: str) -> Any:
    """The settings of one run."""
    kind = sbert_nli.Settings if settings.objective == "nli" else sbert_stsb.Settings
    own = {
        f.name: getattr(settings, f.name)
        for f in dataclasses.fields(kind)
        if hasattr(settings, f.name)
    }
    if settings.epochs is None:
        del own["epochs"]
    name = pooling if settings.objective == "stsb" else f"{pooling}_{concatenation}"
    changes: dict[str, Any] = {"pooling": pooling, "output_dir": settings.output_dir / name}
    if settings.objective == "nli":
        changes["concatenation"] = concatenation
    return kind(**{**own, **changes})


def main(settings: Settings) -> None:
    """Train every variant and close with a table."""
    rows = []
    run = sbert_nli.main if settings.objective == "nli" else sbert_stsb.main
    for pooling, concatenation in variants(settings):
        scores = run(run_settings(settings, pooling, concatenation))
        rows.append({"pooling": pooling, "concatenation": concatenation, **scores})
        write_json(settings.output_dir / "ablation.json", rows)
    dev = "Lee" if settings.eval_data is None else "STS-B"
    table = Table(title=f"{settings.output_dir}: Spearman × 100, mean of the seeds")
    names = {"dev_best": f"{dev} dev", "test_best": f"{dev} test", "nli_best": "NLI accuracy"}
    shown = {name: heading for name, heading in names.items() if name in rows[0]}
    for heading in ("pooling", "concatenation"):
        table.add_column(heading)
    for heading in shown.values():
        table.add_column(heading, justify="right")
    for row in rows:
        cells = [f"{row[name]:.2f}" for name in shown]
        table.add_row(row["pooling"], row["concatenation"] if "nli_best" in row else "", *cells)
    runs.console.print(table)
    runs.console.print(f"runs and ablation.json: {settings.output_dir}")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
