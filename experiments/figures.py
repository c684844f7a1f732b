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
takes model folders, or run folders as experiments.unsup_simcse and sup_simcse write them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from scipy.stats import gaussian_kde
from tqdm import tqdm

from experiments.ablations import (
    Documents,
    Variant,
    augmented,
    read_documents,
    train_variant,
    training_text,
)
from experiments.figures_draw import DRAW
from experiments.postprocess import fit_transform, plain_encoder
from experiments.runs import hardware
from simcse_jax import SentenceEncoder, hub
from simcse_jax.cli import run_or_explain
from simcse_jax.data.augmentation import delete_one_word
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import TrainingText, read_sentences
from simcse_jax.data.wikipedia import embedded_wikipedia, sentences
from simcse_jax.evaluation.geometry import alignment_uniformity, checked_unit_rows
from simcse_jax.evaluation.isotropy import (
    average_cosine,
    frequency_bins,
    gram_bounds,
    isoscore,
    partition_isotropy,
    singular_spectrum,
)
from simcse_jax.evaluation.sts import cosine, spearman
from simcse_jax.io import read_json, read_json_lines, write_json, written_file

Name = Literal["plane", "path", "spectrum", "cosines", "frequency", "bound"]
NAMES: tuple[Name, ...] = get_args(Name)
Positives = Literal["dropout", "delete-one", "fixed-mask", "no-dropout"]
POSITIVES: dict[str, Variant] = {
    "dropout": Variant("dropout"),
    "delete-one": Variant("delete-one", positives=augmented(delete_one_word)),
    "fixed-mask": Variant("fixed-mask", change={"shared_dropout": True}),
    "no-dropout": Variant("no-dropout", dropout=0.0),
}
SPLITS = ("train", "dev", "test")
BANDS = tuple(itertools.pairwise(range(6)))
WINDOW = 10
console = Console(width=110)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure and draw."""

    eval_data: Path | None = None
    """The folder that holds SentEval's STS/; every figure but frequency needs it."""
    figures: tuple[Name, ...] = NAMES
    """Which ones."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id: the start of every method."""
    depths: tuple[int, ...] = (5, 4)
    """Its first so many layers are methods too; whitening and flow also start from the last."""
    flow: str = "code"
    """The flow's configuration: code, paper or modern."""
    trained: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Names and folders of trained models or runs."""
    corpus: tuple[Path, ...] = ()
    """Files from which words are counted; default: the embedded Wikipedia."""
    edges: tuple[int, ...] = (0, 100, 500, 5_000, 10_000)
    """The borders of the bins of frequency ranks."""
    train_file: tuple[Path, ...] = ()
    """What the short runs train on; default: the embedded Wikipedia."""
    positives: tuple[Positives, ...] = get_args(Positives)
    """A short run for each of these; the first is the one of the figure "bound"."""
    run_layers: int | None = None
    """The short runs start from the model's first so many layers; default: all. From MiniLM's first
    four nothing moves in so few steps."""
    steps: int = 40
    """Of the short runs."""
    every: int = 5
    """So many steps between two measurements of a short run."""
    batch_size: int = 64
    """Of the short runs."""
    learning_rate: float = 3e-5
    """Of the short runs, falling linearly to 0."""
    seed: int = 0
    """Of the short runs and the flow."""
    redraw: bool = False
    """Draw from the JSON files that are there."""
    output_dir: Path = Path("experiments/results/figures")
    """Gets NAME.json, NAME.png and NAME.pdf."""


# ---------------------------------------------------------------------------------------------
# The methods and their embeddings
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """A point of the plane: a label and how its embeddings are made.

    Attributes:
        label: in the figures.
        kind: pooling, layers, whitening, flow or trained.
        model, pooling, num_layers: as `SentenceEncoder.from_pretrained` takes them.
    """

    label: str
    kind: str
    model: str
    pooling: str | None = None
    num_layers: int | None = None


def model_folder(folder: Path) -> Path:
    """A model folder itself, or the best model of a run, or of the first seed of several.

    Raises:
        FileNotFoundError: it is none of these.
    """
    for place in (folder, folder / "best", *sorted(folder.glob("seed-*/best"))):
        if (place / "config.json").is_file():
            return place
    raise FileNotFoundError(
        f"{folder} is neither a model folder nor a run's: no config.json there, in best/ or in "
        "seed-*/best/"
    )


def methods(settings: Settings) -> list[Method]:
    """All of them, in the order of the tables."""
    model = settings.model
    rows = [Method(p, "pooling", model, p) for p in ("cls", "mean", "first-last")]
    rows += [Method(f"cls, {n} layers", "layers", model, "cls", n) for n in settings.depths]
    for depth in (None, *settings.depths[-1:]):
        start = "cls" if depth is None else f"cls, {depth} layers"
        rows += [
            Method(f"{start} + {kind}", kind, model, "cls", depth) for kind in ("whitening", "flow")
        ]
    whole = hub.read_config(hub.find_model(model)).num_hidden_layers
    for label, folder in settings.trained.items():
        place = model_folder(folder)
        depth = hub.read_config(place).num_hidden_layers
        rows.append(Method(label, "trained", str(place), None, None if depth == whole else depth))
    return rows


class Embeddings:
    """Embeddings of STS-B's distinct sentences by every method, each computed once."""

    def __init__(self, settings: Settings):
        """Read STS-B; nothing is encoded yet."""
        if settings.eval_data is None:
            raise ValueError("these figures are measured on STS-B: give --eval-data")
        self.settings = settings
        self.pairs: dict[str, Pairs] = {s: read_stsb(settings.eval_data, s) for s in SPLITS}  # type: ignore[arg-type]
        columns = [c for p in self.pairs.values() for c in (p.sentences1, p.sentences2)]
        self.sentences = list(itertools.chain(*columns))  # repeated ones as often as they stand
        self.row = {s: i for i, s in enumerate(dict.fromkeys(self.sentences))}
        self.methods = methods(settings)
        self._raw = functools.cache(self._encode)
        self.of = functools.cache(self._of)

    def _encode(self, model: str, pooling: str | None, num_layers: int | None) -> np.ndarray:
        encoder = plain_encoder(model, pooling, num_layers)
        return encoder.encode(list(self.row), normalize=False)

    def _of(self, method: Method) -> Float[np.ndarray, "n D"]:
        vectors = self._raw(method.model, method.pooling, method.num_layers)
        if method.kind not in ("whitening", "flow"):
            return vectors
        transform = fit_transform(
            method.kind,  # type: ignore[arg-type]
            vectors[[self.row[s] for s in self.sentences]],
            flow=self.settings.flow,
            seed=self.settings.seed,
        )
        return transform(vectors)

    def cosines(self, method: Method, pairs: Pairs) -> Float[np.ndarray, "n"]:
        """The cosine of every pair."""
        vectors = self.of(method)
        first, second = (
            vectors[[self.row[s] for s in column]]
            for column in (pairs.sentences1, pairs.sentences2)
        )
        return cosine(first, second)


def score(cosines: Float[np.ndarray, "n"], pairs: Pairs) -> float:
    """Spearman × 100."""
    return 100 * spearman(cosines, pairs.scores)


# ---------------------------------------------------------------------------------------------
# The figures' numbers
# ---------------------------------------------------------------------------------------------


def measure_plane(known: Embeddings) -> dict[str, Any]:
    """Alignment, uniformity and isotropy of every method."""
    rows = []
    for method in tqdm(known.methods, desc="plane", unit="method"):
        vectors = known.of(method)
        plane = alignment_uniformity(
            lambda sentences: vectors[[known.row[s] for s in sentences]],  # noqa: B023
            known.pairs.values(),
        )
        rows.append(
            {
                "method": method.label,
                "kind": method.kind,
                "stsb_test": score(known.cosines(method, known.pairs["test"]), known.pairs["test"]),
                "alignment": plane.alignment,
                "uniformity": plane.uniformity,
                "average_cosine": average_cosine(vectors),
                "isoscore": isoscore(vectors),
                "partition_isotropy_of_unit_rows": partition_isotropy(checked_unit_rows(vectors)),
            }
        )
    return {"methods": rows, "positive_pairs": plane.positive_pairs, "sentences": len(known.row)}


def measure_spectrum(known: Embeddings) -> dict[str, Any]:
    """Spectra of the unit embeddings: a panel of all layers, and one of the first few."""

    def row(method: Method) -> dict[str, Any]:
        vectors = known.of(method)
        spectrum = singular_spectrum(checked_unit_rows(vectors))
        return {
            "method": method.label,
            "isoscore": isoscore(vectors),
            "spectrum": [float(f"{value:.4g}") for value in spectrum],
        }

    def panel(title: str, depth: int | None) -> dict[str, Any]:
        chosen = [
            m
            for m in known.methods
            if m.num_layers == depth and (m.pooling == "cls" or m.kind == "trained")
        ]
        return {"title": title, "methods": [row(m) for m in tqdm(chosen, desc=title)]}

    panels = [panel("all layers", None)]
    panels += [panel(f"first {n} layers", n) for n in known.settings.depths[-1:]]
    return {"panels": panels, "sentences": len(known.row)}


def measure_cosines(known: Embeddings) -> dict[str, Any]:
    """Kernel densities of the cosines by band of gold score, over the whole of STS-B."""
    parts = list(known.pairs.values())
    everything = Pairs(
        "all",
        tuple(s for p in parts for s in p.sentences1),
        tuple(s for p in parts for s in p.sentences2),
        np.concatenate([p.scores for p in parts]),
    )
    cosines_of = {
        method.label: known.cosines(method, everything)
        for method in tqdm(known.methods, desc="cosines", unit="method")
    }
    lowest = min(cosines.min() for cosines in cosines_of.values())
    grid = np.linspace(max(-1, np.floor(10 * lowest) / 10), 1, 151)
    rows = []
    for label, cosines in cosines_of.items():
        bands = []
        for low, high in BANDS:
            # A score on a border belongs to the band above, the highest to the last.
            inside = (everything.scores >= low) & (everything.scores < high)
            if high == BANDS[-1][1]:
                inside |= everything.scores == high
            if np.count_nonzero(inside) < 2 or np.ptp(cosines[inside]) == 0:
                raise ValueError(
                    f"STS-B has {np.count_nonzero(inside)} pairs scored {low} to {high}, or all of "
                    "one cosine: a density needs more"
                )
            density = gaussian_kde(cosines[inside])
            # No cosine is above 1: what the kernel puts there is folded back.
            bands.append(
                {
                    "pairs": int(np.count_nonzero(inside)),
                    "median": float(np.median(cosines[inside])),
                    "density": np.round(density(grid) + density(2 - grid), 4).tolist(),
                }
            )
        rows.append({"method": label, "stsb_all": score(cosines, everything), "bands": bands})
    return {"methods": rows, "bands": BANDS, "grid": np.round(grid, 4).tolist()}


def corpus_sentences(files: Sequence[Path]) -> list[str]:
    """The sentences of files, or of the embedded Wikipedia."""
    return read_sentences(files) if files else sentences(embedded_wikipedia(progress=True))


def measure_frequency(settings: Settings) -> dict[str, Any]:
    """BERT-flow's Table 1 of the model's static word embeddings."""
    folder = hub.find_model(settings.model)
    _, params = hub.load_params(folder, hub.read_config(folder))
    embeddings = np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])  # [V, D]
    tokenizer = Tokenizer.from_folder(folder, hub.read_settings(folder).do_lower_case)
    ids, _ = tokenizer(corpus_sentences(settings.corpus))
    counts = np.bincount(np.concatenate(ids), minlength=len(embeddings))
    # Special and never used tokens are no words.
    words = np.ones(len(embeddings), bool)
    words[tokenizer.special_ids()] = False
    for i in range(len(embeddings)):
        token = tokenizer.backend.id_to_token(i)
        if token is None or re.fullmatch(r"\[unused\d+\]", token):
            words[i] = False
    embeddings, counts = embeddings[words], counts[words]
    bins = frequency_bins(embeddings, counts, settings.edges, progress=True)

    ranked = np.argsort(-counts, kind="stable")[: settings.edges[-1]]
    norms = np.linalg.norm(embeddings[ranked].astype(np.float64), axis=1)
    borders = np.unique(np.geomspace(10, len(norms), 30).astype(int))
    windows = [norms[a:b] for a, b in itertools.pairwise([0, *borders])]
    quantiles = np.array([np.quantile(w, (0.1, 0.5, 0.9)) for w in windows])
    centres = [(a + b - 1) / 2 for a, b in itertools.pairwise([0, *borders.tolist()])]
    return {
        "bins": [dataclasses.asdict(row) for row in bins],
        "ribbon": {
            "rank": centres,
            **{name: quantiles[:, i].tolist() for i, name in enumerate(("low", "median", "high"))},
        },
        "vocabulary": len(embeddings),
        "words_in_corpus": int(np.count_nonzero(counts)),
        "tokens_in_corpus": int(counts.sum()),
    }


# ---------------------------------------------------------------------------------------------
# Short training runs
# ---------------------------------------------------------------------------------------------


def watch_training(
    settings: Settings, positives: Positives, documents: Documents, dev: Pairs
) -> list[dict[str, Any]]:
    """Train unsupervised SimCSE for a few steps, and measure the model on STS-B dev on the way."""
    distinct = list(dict.fromkeys((*dev.sentences1, *dev.sentences2)))
    row = {s: i for i, s in enumerate(distinct)}

    def measure(encoder: SentenceEncoder) -> dict[str, Any]:
        vectors = encoder.encode(distinct, show_progress=False)

        def embed(sentences: Sequence[str]) -> np.ndarray:
            return vectors[[row[s] for s in sentences]]

        plane = alignment_uniformity(embed, [dev])
        gram = gram_bounds(vectors)
        spectrum = singular_spectrum(checked_unit_rows(vectors))
        return {
            "alignment": plane.alignment,
            "uniformity": plane.uniformity,
            "stsb_dev": score(cosine(embed(dev.sentences1), embed(dev.sentences2)), dev),
            "gram_total": gram.total,
            "gram_largest": gram.largest,
            "gram_positive": gram.positive,
            "sentences": gram.sentences,
            "spectrum": [float(f"{value:.4g}") for value in spectrum],
        }

    variant = POSITIVES[positives]
    text = training_text(variant, documents, None, settings.seed)
    assert isinstance(text, TrainingText)
    return train_variant(
        variant,
        text,
        measure,
        model=settings.model,
        num_layers=settings.run_layers,
        steps=settings.steps,
        every=settings.every,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )


def batch_path(folder: Path) -> dict[str, list[float]] | None:
    """Alignment and uniformity of a run's batches, averaged over `WINDOW` steps; None without."""
    places = (folder, *sorted(folder.glob("seed-*")))
    file = next((p / "metrics.jsonl" for p in places if (p / "metrics.jsonl").is_file()), None)
    if file is None:
        return None
    steps = [line for line in read_json_lines(file) if "alignment" in line and "uniformity" in line]
    groups = [steps[i : i + WINDOW] for i in range(0, len(steps), WINDOW)]
    return {
        name: [float(np.mean([line[name] for line in group])) for group in groups]
        for name in ("step", "alignment", "uniformity")
    }


def measure_runs(settings: Settings) -> dict[str, dict[str, Any]]:
    """The figures "path" and "bound", of the same runs."""
    if settings.eval_data is None:
        raise ValueError("these figures are measured on STS-B: give --eval-data")
    dev = read_stsb(settings.eval_data, "dev")
    documents = read_documents(settings.train_file)
    runs = {p: watch_training(settings, p, documents, dev) for p in settings.positives}
    batches = {name: batch_path(folder) for name, folder in settings.trained.items()}
    plane = ("step", "alignment", "uniformity", "stsb_dev")
    return {
        "path": {
            "runs": {
                name: [{field: record[field] for field in plane} for record in records]
                for name, records in runs.items()
            },
            "batches": {name: path for name, path in batches.items() if path},
            "every": settings.every,
            "window": WINDOW,
        },
        "bound": {"positives": settings.positives[0], "records": runs[settings.positives[0]]},
    }


# ---------------------------------------------------------------------------------------------
# All together
# ---------------------------------------------------------------------------------------------


def measure(settings: Settings, names: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """The numbers of these figures, written as soon as they are known."""
    results: dict[str, dict[str, Any]] = {}

    def done(name: str, value: dict[str, Any]) -> None:
        how = dataclasses.asdict(settings) | {
            name: None for name in ("eval_data", "output_dir", "redraw", "figures")
        }
        how["trained"] = list(settings.trained)
        for files in ("corpus", "train_file"):
            how[files] = [path.name for path in how[files]]
        results[name] = value | {"settings": how, "hardware": hardware()}
        write_json(settings.output_dir / f"{name}.json", results[name], indent=None)

    if {"plane", "spectrum", "cosines"} & set(names):
        known = Embeddings(settings)
        for name, function in (
            ("plane", measure_plane),
            ("spectrum", measure_spectrum),
            ("cosines", measure_cosines),
        ):
            if name in names:
                done(name, function(known))
    if "frequency" in names:
        done("frequency", measure_frequency(settings))
    if {"path", "bound"} & set(names):
        for name, value in measure_runs(settings).items():
            if name in names:
                done(name, value)
    return results


def draw(name: str, folder: Path) -> None:
    """NAME.png and NAME.pdf from NAME.json."""
    figure = DRAW[name](read_json(folder / f"{name}.json"))
    for kind in ("png", "pdf"):
        with written_file(folder / f"{name}.{kind}") as temporary:
            # No date, so that a figure drawn again from the same numbers is the same file.
            date = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(temporary, format=kind, dpi=160, metadata=date)
    figure.clear()


def table(plane: Mapping[str, Any]) -> Table:
    """The plane as numbers."""
    result = Table(title=f"Whole of STS-B, {plane['sentences']:,} distinct sentences")
    columns = ("STS-B test", "alignment", "uniformity", "mean cosine", "IsoScore", "I(W)")
    result.add_column("method")
    for column in columns:
        result.add_column(column, justify="right")
    for row in plane["methods"]:
        numbers = [row[k] for k in row if k not in ("method", "kind")]
        result.add_row(row["method"], f"{numbers[0]:.2f}", *(f"{n:.3f}" for n in numbers[1:]))
    return result


def main(settings: Settings) -> None:
    """Measure, write, draw."""
    if not settings.figures:
        raise ValueError(f"--figures needs one or more of {', '.join(NAMES)}")
    if settings.every < 1 or settings.steps < 1 or not settings.positives:
        raise ValueError("--steps, --every and --positives need one step and one kind or more")
    if not settings.redraw:
        measure(settings, settings.figures)
    for name in tqdm(settings.figures, desc="draw", unit="figure"):
        draw(name, settings.output_dir)
    if "plane" in settings.figures:
        console.print(table(read_json(settings.output_dir / "plane.json")))
    files = ", ".join(f"{name}.png" for name in settings.figures)
    console.print(f"{settings.output_dir}: {files}, each with its .pdf and .json")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
