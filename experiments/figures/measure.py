"""The numbers of the figures plane, spectrum, cosines and frequency, and what all figures need."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.stats import gaussian_kde
from tqdm import tqdm

from experiments.tables.frozen import load_frozen
from simcse_jax import hub
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.data.training_text import read_sentences
from simcse_jax.data.wikipedia import embedded_wikipedia, sentences
from simcse_jax.evaluation.geometry import alignment_uniformity, checked_unit_rows
from simcse_jax.evaluation.isotropy import (
    average_cosine,
    frequency_bins,
    isoscore,
    partition_isotropy,
    singular_spectrum,
)
from simcse_jax.evaluation.sts import Encode, cosine, spearman
from simcse_jax.transforms import Flow, Whitening

Name = Literal["plane", "path", "spectrum", "cosines", "frequency", "bound"]
NAMES: tuple[Name, ...] = get_args(Name)
Positives = Literal["dropout", "delete-one", "fixed-mask", "no-dropout"]
SPLITS = ("train", "dev", "test")
BANDS = tuple(itertools.pairwise(range(6)))


@dataclasses.dataclass(frozen=True)
class Figures:
    """Measure and draw."""

    eval_data: Path | None = None
    """The folder that holds SentEval's STS/; every figure but frequency needs it."""
    figures: tuple[Name, ...] = NAMES
    """The figures that are measured and drawn."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id: the start of every method."""
    pooling: str = "cls"
    """The pooling that the first layers, whitening, flow and the short runs start from."""
    depths: tuple[int, ...] = (5, 4)
    """The model's first so many layers are methods too; whitening and flow also start from the last
    of these depths."""
    flow: str = "code"
    """The flow's configuration: code, paper or modern."""
    trained: dict[str, Path] = dataclasses.field(default_factory=dict)
    """Names and folders of trained models or runs."""
    corpus: tuple[Path, ...] = ()
    """Files in which words are counted; default: the embedded Wikipedia."""
    edges: tuple[int, ...] = (0, 100, 500, 5_000, 10_000)
    """The borders of the bins of frequency ranks."""
    train_files: tuple[Path, ...] = ()
    """Files that the short runs train on; default: the embedded Wikipedia."""
    positives: tuple[Positives, ...] = get_args(Positives)
    """The kinds of positives, a short run for each; the figure "bound" is drawn of the first."""
    run_layers: int | None = None
    """The short runs start from the model's first so many layers; default: all. From MiniLM's first
    four nothing moves in so few steps."""
    steps: int = 40
    """A short run takes so many steps."""
    every: int = 5
    """A short run is measured every so many steps."""
    batch_size: int = 64
    """So many sentences are in a batch of a short run."""
    max_length: int = 32
    """The sentences of a short run are cut to so many tokens."""
    learning_rate: float = 3e-5
    """The learning rate from which a short run falls linearly to 0."""
    seed: int = 0
    """The seed of the short runs and of the flow."""
    redraw: bool = False
    """Draw from the JSON files that are there, and measure nothing."""
    output_dir: Path = Path("runs/figures")
    """The folder that gets NAME.json, NAME.png and NAME.pdf."""


# ---------------------------------------------------------------------------------------------
# The methods and their embeddings
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Method:
    """A point of the plane: a label and how its embeddings are made.

    Attributes:
        label: in the figures.
        kind: pooling, layers, whitening, flow or trained.
        model: as `SentenceEncoder.from_pretrained` takes it, and so the others.
        pooling: of the encoder.
        num_layers: so many layers are kept.
    """

    label: str
    kind: str
    model: str
    pooling: str | None = None
    num_layers: int | None = None


def model_folder(folder: Path) -> Path:
    """Return a model folder itself, or the best model of a run, or of the first seed of several.

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


def methods(settings: Figures) -> list[Method]:
    """Return all methods, in the order of the tables."""
    model, own = settings.model, settings.pooling
    poolings = dict.fromkeys(("cls", "mean", "first-last", own))
    rows = [Method(pooling, "pooling", model, pooling) for pooling in poolings]
    rows += [Method(f"{own}, {n} layers", "layers", model, own, n) for n in settings.depths]
    for depth in (None, *settings.depths[-1:]):
        start = own if depth is None else f"{own}, {depth} layers"
        rows += [
            Method(f"{start} + {kind}", kind, model, own, depth) for kind in ("whitening", "flow")
        ]
    whole = hub.read_config(hub.find_model(model)).num_hidden_layers
    for label, folder in settings.trained.items():
        place = model_folder(folder)
        depth = hub.read_config(place).num_hidden_layers
        rows.append(Method(label, "trained", str(place), None, None if depth == whole else depth))
    return rows


class Embeddings:
    """Embeddings of STS-B's distinct sentences by every method, each computed once."""

    def __init__(self, settings: Figures):
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
        encoder = load_frozen(model, pooling, num_layers)
        return encoder.encode(list(self.row), normalize=False)

    def _of(self, method: Method) -> Float[np.ndarray, "n D"]:
        vectors = self._raw(method.model, method.pooling, method.num_layers)
        rows = [self.row[s] for s in self.sentences]
        if method.kind == "whitening":
            return Whitening.fit(vectors[rows])(vectors)
        if method.kind == "flow":
            flow = Flow.fit(vectors[rows], self.settings.flow, seed=self.settings.seed)
            return flow(vectors)
        return vectors

    def by(self, method: Method) -> Encode:
        """Return a function that looks a method's embeddings of sentences up."""
        vectors = self.of(method)
        return lambda sentences: vectors[[self.row[s] for s in sentences]]

    def cosines(self, method: Method, pairs: Pairs) -> Float[np.ndarray, "n"]:
        """Return the cosine of every pair."""
        encode = self.by(method)
        return cosine(encode(pairs.sentences1), encode(pairs.sentences2))


def score(cosines: Float[np.ndarray, "n"], pairs: Pairs) -> float:
    """Return Spearman × 100."""
    return 100 * spearman(cosines, pairs.scores)


def unit_spectrum(vectors: Float[np.ndarray, "n D"]) -> list[float]:
    """Return the singular values of the unit vectors over the largest, to four digits."""
    return [float(f"{value:.4g}") for value in singular_spectrum(checked_unit_rows(vectors))]


# ---------------------------------------------------------------------------------------------
# The figures' numbers
# ---------------------------------------------------------------------------------------------


def measure_plane(known: Embeddings) -> dict[str, Any]:
    """Return alignment, uniformity and isotropy of every method."""
    rows = []
    for method in tqdm(known.methods, desc="plane", unit="method"):
        vectors = known.of(method)
        plane = alignment_uniformity(known.by(method), known.pairs.values())
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
    """Return the unit embeddings' spectra: a panel of all layers, and one of the first few."""

    def row(method: Method) -> dict[str, Any]:
        vectors = known.of(method)
        return {
            "method": method.label,
            "isoscore": isoscore(vectors),
            "spectrum": unit_spectrum(vectors),
        }

    def panel(title: str, depth: int | None) -> dict[str, Any]:
        chosen = [
            m
            for m in known.methods
            if m.num_layers == depth
            and (m.pooling == known.settings.pooling or m.kind == "trained")
        ]
        return {"title": title, "methods": [row(m) for m in tqdm(chosen, desc=title)]}

    panels = [panel("all layers", None)]
    panels += [panel(f"first {n} layers", n) for n in known.settings.depths[-1:]]
    return {"panels": panels, "sentences": len(known.row)}


def measure_cosines(known: Embeddings) -> dict[str, Any]:
    """Return kernel densities of the cosines by band of gold score, over the whole of STS-B."""
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
    """Return the sentences of files, or of the embedded Wikipedia."""
    return read_sentences(files) if files else sentences(embedded_wikipedia(progress=True))


def measure_frequency(settings: Figures) -> dict[str, Any]:
    """Return BERT-flow's Table 1 of the model's static word embeddings."""
    folder = hub.find_model(settings.model)
    _, params = hub.load_params(folder, hub.read_config(folder))
    embeddings = np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])  # [V, D]
    # No sentence is pooled here.
    lower_case = hub.read_settings(folder, pooling="mean").do_lower_case
    tokenizer = Tokenizer.from_folder(folder, lower_case)
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
