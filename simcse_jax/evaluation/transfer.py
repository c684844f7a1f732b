"""Transfer tasks: logistic regression on frozen embeddings, by SentEval's protocol.

MR, CR, SUBJ and MPQA: accuracy in k-fold cross-validation, the regularisation chosen anew inside
each fold by another k-fold (nested). SST2: chosen on dev, trained on train. TREC and MRPC: chosen
by k-fold on train. Pairs (MRPC) are seen as `(|u - v|, u * v)`. Folds are stratified and shuffled
with SentEval's seed. The classifier is scikit-learn's, with the grid that SentEval has for it;
SimCSE ran SentEval's other classifier, the same model trained for four epochs with Adam.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from simcse_jax.checks import check_count, counted
from simcse_jax.data.transfer import Labelled, TransferTask
from simcse_jax.evaluation.sts import Encode
from simcse_jax.extras import needs

REGULARISATION: tuple[float, ...] = tuple(2.0**t for t in range(-2, 4))
"""SentEval's grid of C, the inverse strength of the L2 penalty."""
SEED = 1111
"""SentEval's seed."""


@dataclass(frozen=True)
class TransferScore:
    """A task's score, from 0 to 100.

    Attributes:
        accuracy: on the test split, or the mean over the outer folds.
        dev_accuracy: where the regularisation was chosen: on dev, or the mean over inner folds.
        f1: of class 1 on the test split, for MRPC; else None.
    """

    accuracy: float
    dev_accuracy: float
    f1: float | None = None


def evaluate_transfer(
    encode: Encode,
    tasks: Iterable[TransferTask],
    *,
    folds: int = 10,
    seed: int = SEED,
    jobs: int | None = None,
    show_progress: bool | None = None,
) -> dict[str, TransferScore]:
    """Score the tasks.

    Args:
        encode: sentences to embeddings.
        tasks: as :func:`simcse_jax.data.transfer.read_transfer` gives them.
        folds: k; SentEval's (and SimCSE's) full evaluation takes 10, its quick one 5.
        seed: of the folds and the classifier.
        jobs: processes that fit classifiers; -1 for one a core, None for this one alone.
        show_progress: a progress bar; default where standard error is a terminal.

    Returns:
        A score for every task, in their order.

    Raises:
        ValueError: fewer than two folds, or a class with fewer members than folds.
        MissingExtra: scikit-learn is not installed.
    """
    check_count("folds", folds, 2)
    with needs("transfer"):  # said before anything is encoded
        import sklearn  # noqa: F401
    scores = {}
    hidden = None if show_progress is None else not show_progress
    for task in (bar := tqdm(list(tasks), unit=" task", disable=hidden)):
        bar.set_description(task.name)
        x = {name: _features(encode, split) for name, split in task.splits.items()}
        y = {name: split.labels for name, split in task.splits.items()}
        _check_classes(task, folds)
        if "all" in task.splits:
            scores[task.name] = _nested(x["all"], y["all"], folds, seed, jobs)
        elif "dev" in task.splits:
            scores[task.name] = _chosen_on_dev(x, y, seed)
        else:
            scores[task.name] = _chosen_by_folds(task.name, x, y, folds, seed, jobs)
    return scores


def average(scores: dict[str, TransferScore]) -> float:
    """Mean accuracy over the tasks, as the papers' last column."""
    return float(np.mean([score.accuracy for score in scores.values()]))


def _check_classes(task: TransferTask, folds: int) -> None:
    split = task.splits.get("all", task.splits.get("train"))
    assert split is not None
    classes, counts = np.unique(split.labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"{task.name} has sentences of one class only: nothing can be told apart")
    if "dev" not in task.splits and counts.min() < folds:
        raise ValueError(
            f"{task.name} has a class of {counted(int(counts.min()), 'sentence')}, too few for "
            f"{folds} folds"
        )


def _features(encode: Encode, split: Labelled) -> Float[np.ndarray, "n F"]:
    vectors = [np.asarray(encode(column), np.float32) for column in split.columns]
    if len(vectors) == 1:
        return vectors[0]
    u, v = vectors
    return np.concatenate([np.abs(u - v), u * v], axis=1)


# scikit-learn is imported where it is used, so that `from simcse_jax import *` works without it.


def _classifier(seed: int, c: float = 1.0) -> Any:
    # More iterations than scikit-learn's default, so that the fit is the minimum and no warning.
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, random_state=seed, max_iter=10_000)


def _search(folds: int, seed: int, jobs: int | None) -> Any:
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    inner = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return GridSearchCV(
        _classifier(seed), {"C": REGULARISATION}, scoring="accuracy", cv=inner, n_jobs=jobs
    )


def _nested(
    x: Float[np.ndarray, "n F"],
    y: Int[np.ndarray, " n"],
    folds: int,
    seed: int,
    jobs: int | None,
) -> TransferScore:
    from sklearn.model_selection import StratifiedKFold

    outer = StratifiedKFold(folds, shuffle=True, random_state=seed)
    dev, test = [], []
    for train, held_out in outer.split(x, y):
        search = _search(folds, seed, jobs).fit(x[train], y[train])
        dev.append(100 * search.best_score_)
        test.append(100 * search.score(x[held_out], y[held_out]))
    return TransferScore(float(np.mean(test)), float(np.mean(dev)))


def _chosen_on_dev(
    x: dict[str, Float[np.ndarray, "n F"]], y: dict[str, Int[np.ndarray, " n"]], seed: int
) -> TransferScore:
    fitted = [_classifier(seed, c).fit(x["train"], y["train"]) for c in REGULARISATION]
    dev = [model.score(x["dev"], y["dev"]) for model in fitted]
    best = int(np.argmax(dev))
    return TransferScore(100 * fitted[best].score(x["test"], y["test"]), 100 * dev[best])


def _chosen_by_folds(
    name: str,
    x: dict[str, Float[np.ndarray, "n F"]],
    y: dict[str, Int[np.ndarray, " n"]],
    folds: int,
    seed: int,
    jobs: int | None,
) -> TransferScore:
    from sklearn.metrics import accuracy_score, f1_score

    search = _search(folds, seed, jobs).fit(x["train"], y["train"])
    called = search.predict(x["test"])
    return TransferScore(
        100 * float(accuracy_score(y["test"], called)),
        100 * float(search.best_score_),
        100 * float(f1_score(y["test"], called)) if name == "MRPC" else None,
    )
