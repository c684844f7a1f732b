"""Semantic textual similarity: rank correlation with human scores, in every protocol.

The protocols differ in how a task's subsets become one number, and the same model differs by 1 to
20 points between them (SimCSE, appendix B):

* ``all``: one correlation over the concatenated subsets (SBERT, SimCSE);
* ``mean``: the mean of the subsets' correlations;
* ``wmean``: the same weighted by the subsets' sizes (BERT-flow, BERT-whitening).

STS-B and SICK-R are one subset each, so that their three numbers agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Real, Shaped
from scipy.stats import rankdata

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_choice, check_finite_rows, check_matrix, check_unmasked
from simcse_jax.data.senteval import StsTask
from simcse_jax.losses.geometry import scale_extreme_rows

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
Encode = Callable[[Sequence[str]], Float[np.ndarray, "n D"]]
Transform = Callable[[Float[np.ndarray, "n D"]], Float[np.ndarray, "n K"]]

PROTOCOLS = ("all", "mean", "wmean")


def cosine(
    x: Real[AnyArray, "n D"] | Lists, y: Real[AnyArray, "n D"] | Lists
) -> Float64[np.ndarray, "n"]:
    """Cosine of each row of x with the same row of y, in float64: `x·y / sqrt(x·x y·y)`.

    With a zero vector it is 0. Equal rows give exactly 1, so that repeated sentences tie; the
    product of unit rows would round.
    """
    x, y = (scale_extreme_rows(z) for z in _float64(x, y))
    squares = np.einsum("nd,nd->n", x, x) * np.einsum("nd,nd->n", y, y)
    dots = np.einsum("nd,nd->n", x, y)
    return np.divide(dots, np.sqrt(squares), out=np.zeros_like(dots), where=squares > 0)


def dot(
    x: Real[AnyArray, "n D"] | Lists, y: Real[AnyArray, "n D"] | Lists
) -> Float64[np.ndarray, "n"]:
    """Inner product of each row of x with the same row of y, in float64."""
    return np.einsum("nd,nd->n", *_float64(x, y))


def euclidean(
    x: Real[AnyArray, "n D"] | Lists, y: Real[AnyArray, "n D"] | Lists
) -> Float64[np.ndarray, "n"]:
    """Negative Euclidean distance of each row of x to the same row of y, in float64."""
    x, y = _float64(x, y)
    return -np.linalg.norm(x - y, axis=1)


def manhattan(
    x: Real[AnyArray, "n D"] | Lists, y: Real[AnyArray, "n D"] | Lists
) -> Float64[np.ndarray, "n"]:
    """Negative Manhattan distance of each row of x to the same row of y, in float64."""
    x, y = _float64(x, y)
    return -np.abs(x - y).sum(axis=1)


_SIMILARITIES: dict[str, Callable[..., Float64[np.ndarray, "n"]]] = {
    "cosine": cosine,
    "dot": dot,
    "euclidean": euclidean,
    "manhattan": manhattan,
}


def paired_similarity(
    x: Real[AnyArray, "n D"] | Lists,
    y: Real[AnyArray, "n D"] | Lists,
    similarity: Similarity = "cosine",
) -> Float64[np.ndarray, "n"]:
    """Similarity of each row of x with the same row of y, higher for closer rows.

    Raises:
        ValueError: x and y are not of one shape [n, D], or the similarity is unknown.
    """
    check_choice("similarity", similarity, _SIMILARITIES)
    return _SIMILARITIES[similarity](x, y)


def pearson(x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"]) -> float:
    """Pearson's correlation, from -1 to 1.

    Raises:
        ValueError: x and y differ in length, have fewer than two values, or one is constant, for
            which no correlation is defined; or a value is not finite.
    """
    x, y = map(_of_size_one, _check_vectors(x, y))
    x, y = x - x.mean(), y - y.mean()
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.clip(x @ y, -1.0, 1.0))


def _of_size_one(x: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Scale to numbers up to 1 by a power of two, so that squares are finite and no bit is lost."""
    return np.ldexp(x, -np.frexp(np.abs(x).max())[1])


def spearman(x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"]) -> float:
    """Spearman's rank correlation, from -1 to 1: Pearson's of the ranks, ties ranked alike.

    Tied values share the mean of the ranks that they cover, as in `scipy.stats.spearmanr`.

    Raises:
        ValueError: As in `pearson`.
    """
    x, y = _check_vectors(x, y)
    return pearson(rankdata(x), rankdata(y))


def encode_distinct(
    encode: Encode, sentences: Iterable[str]
) -> tuple[dict[str, int], Float[np.ndarray, "n D"]]:
    """Encodes each distinct sentence once, in one call.

    Returns:
        The row of each distinct sentence (in the order in which they first appear), and the rows.

    Raises:
        ValueError: encode gives an array of another shape than [n, D], or one that is not finite.
    """
    rows = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences))}
    embeddings = encode(list(rows))
    check_unmasked("what encode gives", embeddings)
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or len(embeddings) != len(rows):
        raise ValueError(
            f"encode should give an array [{len(rows)}, D] for {len(rows)} sentences, got shape "
            f"{embeddings.shape}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{np.sum(~finite)} of {len(rows)} embeddings are not finite, the first that of "
            f"{list(rows)[int(np.argmin(finite))]!r}: encode should give finite numbers"
        )
    return rows, embeddings


def encode_once(encode: Encode, sentences: Iterable[str]) -> Encode:
    """Encode each distinct sentence, and return a function that looks their embeddings up.

    What a frozen encoder says of a sentence is then computed once for all fits and scores.

    Args:
        encode: From n sentences to embeddings [n, D] in the same order. Called once.
        sentences: All that will be asked for; others are a KeyError.

    Raises:
        ValueError: As in `encode_distinct`.
    """
    rows, embeddings = encode_distinct(encode, sentences)

    def look_up(sentences: Sequence[str]) -> Float[np.ndarray, "n D"]:
        return embeddings[[rows[sentence] for sentence in sentences]]

    return look_up


@dataclass(frozen=True)
class Protocols:
    """One score in the three protocols, times 100."""

    all: float
    mean: float
    wmean: float


@dataclass(frozen=True)
class SubsetResult:
    """The correlations of one subset, times 100, and how many pairs it has."""

    spearman: float
    pearson: float
    pairs: int


@dataclass(frozen=True)
class TaskResult:
    """The correlations of one task, times 100, with its subsets by name."""

    spearman: Protocols
    pearson: Protocols
    pairs: int
    subsets: dict[str, SubsetResult]


def papers_average(scores: Iterable[float]) -> float:
    """Return the papers' average of tasks: the mean of the scores rounded to two decimals."""
    return float(np.mean([round(score, 2) for score in scores]))


@dataclass(frozen=True)
class StsResults:
    """The results of all tasks by name, in the order of the tasks."""

    tasks: dict[str, TaskResult]

    @property
    def average(self) -> Protocols:
        """The papers' average of the tasks' Spearman scores."""
        scores = [task.spearman for task in self.tasks.values()]
        return Protocols(
            *(
                papers_average(getattr(score, protocol) for score in scores)
                for protocol in PROTOCOLS
            )
        )


def evaluate_sts(
    encode: Encode,
    tasks: Mapping[str, StsTask] | Iterable[StsTask],
    similarity: Similarity = "cosine",
) -> StsResults:
    """Scores an encoder on STS tasks in all three protocols.

    Args:
        encode: From n sentences to embeddings [n, D] in the same order. Called once, with each
            distinct sentence of all tasks once.
        tasks: The tasks, such as `simcse_jax.data.senteval.read_sts` gives.
        similarity: The similarity of two embeddings; the papers use the cosine.

    Returns:
        Spearman's and Pearson's correlation of the similarities with the gold scores, times 100.

    Raises:
        ValueError: No tasks, no subsets or two of one name, embeddings of another
            shape or not finite, or a subset whose similarities or gold scores are all equal.
    """
    chosen = list(tasks.values()) if isinstance(tasks, Mapping) else list(tasks)
    names = [task.name for task in chosen]
    if not chosen or len(set(names)) < len(names):
        raise ValueError(
            f"the evaluation needs one STS task or more with distinct names, got {names}"
        )
    for task in chosen:
        subset_names = [subset.name for subset in task.subsets]
        if not subset_names or len(set(subset_names)) < len(subset_names):
            raise ValueError(
                f"{task.name} needs one subset or more with distinct names, got {subset_names}"
            )
    sentences = (sentence for task in chosen for sentence in task.sentences)
    rows, embeddings = encode_distinct(encode, sentences)

    results = {}
    for task in chosen:
        similarities, golds, subsets = [], [], {}
        for subset in task.subsets:
            first = embeddings[[rows[sentence] for sentence in subset.sentences1]]  # [n, D]
            second = embeddings[[rows[sentence] for sentence in subset.sentences2]]  # [n, D]
            similarities.append(paired_similarity(first, second, similarity))
            golds.append(subset.scores)
            try:
                subsets[subset.name] = SubsetResult(
                    spearman=100 * spearman(similarities[-1], golds[-1]),
                    pearson=100 * pearson(similarities[-1], golds[-1]),
                    pairs=len(subset),
                )
            except ValueError as error:
                raise ValueError(
                    f"{task.name}, {subset.name}: {error} (the first vector is the {similarity} "
                    "of the embeddings, the second the gold scores)"
                ) from error
        all_similarities, all_golds = np.concatenate(similarities), np.concatenate(golds)
        parts = list(subsets.values())
        results[task.name] = TaskResult(
            spearman=_protocols(
                100 * spearman(all_similarities, all_golds), [p.spearman for p in parts], parts
            ),
            pearson=_protocols(
                100 * pearson(all_similarities, all_golds), [p.pearson for p in parts], parts
            ),
            pairs=len(task),
            subsets=subsets,
        )
    return StsResults(results)


def evaluate_transformed_sts(
    encode: Encode,
    tasks: Mapping[str, StsTask] | Iterable[StsTask],
    transforms: Transform | Mapping[str, Transform],
) -> StsResults:
    """Scores transforms of an encoder's embeddings on STS tasks, by cosine.

    Args:
        encode: From n sentences to embeddings [n, D]; called for each task, so that what is slow
            should come from `encode_once`.
        tasks: As in `evaluate_sts`.
        transforms: One for all tasks, such as one fitted to NLI; or one for each task by its name,
            such as those that the papers call "target", fitted to the task's own sentences without
            their scores.

    Returns:
        As in `evaluate_sts`.

    Raises:
        KeyError: A task has no transform.
        ValueError: As in `evaluate_sts`.
    """

    def score(task: StsTask) -> TaskResult:
        transform = transforms[task.name] if isinstance(transforms, Mapping) else transforms
        return evaluate_sts(lambda sentences: transform(encode(sentences)), [task]).tasks[task.name]

    chosen = tasks.values() if isinstance(tasks, Mapping) else tasks
    return StsResults({task.name: score(task) for task in chosen})


def results_to_json(results: StsResults) -> dict[str, Any]:
    """Return the results as plain dictionaries for `json.dump`.

    The scores are Spearman's, times 100::

        {"tasks": {"STS12": {"all": …, "mean": …, "wmean": …, "pairs": 3108,
                             "pearson": {"all": …, "mean": …, "wmean": …},
                             "subsets": {"MSRpar": {"spearman": …, "pearson": …, "pairs": 750},
                                         …}}, …},
         "average": {"all": …, "mean": …, "wmean": …}}
    """
    tasks = {
        name: {
            **asdict(task.spearman),
            "pairs": task.pairs,
            "pearson": asdict(task.pearson),
            "subsets": {key: asdict(subset) for key, subset in task.subsets.items()},
        }
        for name, task in results.tasks.items()
    }
    return {"tasks": tasks, "average": asdict(results.average)}


def format_table(results: StsResults) -> str:
    """Format the results as a plain text table: a row a protocol, a column a task.

    The protocols agree, and are one row, where no task has several subsets; a single task has no
    average.
    """
    tasks = results.tasks
    average = ["average"] if len(tasks) > 1 else []
    differ = any(len(task.subsets) > 1 for task in tasks.values())
    table = [["Spearman × 100", *tasks, *average]]
    for protocol in PROTOCOLS if differ else ("all",):
        scores = [getattr(task.spearman, protocol) for task in tasks.values()]
        scores += [getattr(results.average, protocol)] * len(average)
        name = protocol if differ else "score"
        table.append([name, *(f"{score:.2f}" for score in scores)])
    table.append(["pairs", *(str(task.pairs) for task in tasks.values()), *[""] * len(average)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers]).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _check_vectors(
    x: Shaped[np.ndarray, "n"], y: Shaped[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "n"], Float64[np.ndarray, "n"]]:
    check_unmasked("the first vector of a correlation", x)
    check_unmasked("the second vector of a correlation", y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"a correlation needs two vectors of one length of at least 2, got shapes {x.shape} "
            f"and {y.shape}"
        )
    for values, which in ((x, "first"), (y, "second")):
        if not np.isfinite(values).all():
            raise ValueError(f"the {which} vector of a correlation should be finite")
        if np.all(values == values[0]):
            raise ValueError(
                f"all {len(values)} values of the {which} vector are {values[0]}, and no "
                "correlation is defined with a constant"
            )
    return x, y


def _protocols(all_: float, scores: Sequence[float], parts: Sequence[SubsetResult]) -> Protocols:
    if len(parts) == 1:  # to the last bit the same number
        return Protocols(all_, all_, all_)
    return Protocols(
        all=all_,
        mean=float(np.mean(scores)),
        wmean=float(np.average(scores, weights=[part.pairs for part in parts])),
    )


def _float64(
    x: Real[AnyArray, "n D"] | Lists, y: Real[AnyArray, "n D"] | Lists
) -> tuple[Float64[np.ndarray, "n D"], Float64[np.ndarray, "n D"]]:
    x, y = (np.asarray(check_matrix(*z), np.float64) for z in (("x", x), ("y", y)))
    check_finite_rows("x", x)
    check_finite_rows("y", y)
    if x.shape != y.shape:
        raise ValueError(
            f"paired embeddings should be of one shape [n, D], got {x.shape} and {y.shape}"
        )
    return x, y
