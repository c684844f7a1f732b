"""The scores of a training run: those that choose the best model, and those of the test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simcse_jax.data.lee import pair_indices, read_lee
from simcse_jax.data.pairs import COLUMNS, read_pairs
from simcse_jax.data.senteval import TASKS, Pairs, StsTask, read_sts, read_stsb
from simcse_jax.data.training_text import TrainingText
from simcse_jax.evaluation.sts import (
    evaluate_sts,
    paired_similarity,
    papers_average,
    results_to_json,
    spearman,
)
from simcse_jax.evaluation.triplets import triplet_accuracy
from simcse_jax.hub import Score
from simcse_jax.io import json_digest
from simcse_jax.losses.geometry import unit_rows
from simcse_jax.losses.nli_softmax import feature_width
from simcse_jax.losses.triplet import Distance
from simcse_jax.objectives.sbert import read_classifier

if TYPE_CHECKING:
    from simcse_jax.encoder import SentenceEncoder


class Column(NamedTuple):
    """A score of a run.

    Attributes:
        name: in summary.json.
        heading: in the closing table; "" leaves it out there.
        value: times 100.
    """

    name: str
    heading: str
    value: float


class Scores(NamedTuple):
    """How the models of a run are scored.

    Attributes:
        dev: the scores on the way, from the encoder.
        best_metric: which of them chooses the best model; None for the first of them, and where
            nothing is measured the last model is the best.
        dev_name: what that is, for people.
        test: the scores at the end, from the encoder and its folder (None before training).
        columns: what of them goes into the closing table, from the scores of the best model and of
            the last.
        measure: what the scores are, for people.
        note: what is to be known of them, for people; "" for nothing.
        scored_on: a digest of the data on the way and at the end, so that a run goes on with the
            same alone; of SentEval's tasks STS-B stands for all. None where they are always the
            same.
        pairs_file: the name of the user's own file whose pairs the test is, for the card; "" where
            they are SentEval's or Lee's.
        one_corpus: whether dev and test are the same pairs, so that there is no test to speak of.
    """

    dev: Callable[[SentenceEncoder], Mapping[str, float]]
    best_metric: str | None
    dev_name: str
    test: Callable[[SentenceEncoder, Path | None], dict[str, Any]]
    columns: Callable[[dict[str, Any], dict[str, Any]], list[Column]]
    measure: str = "Spearman"
    note: str = ""
    scored_on: str | None = None
    pairs_file: str = ""
    one_corpus: bool = False

    def fixed(self) -> dict[str, str | None]:
        """Return what must not change when the run is resumed."""
        own = {} if self.scored_on is None else {"scored_on": self.scored_on}
        return {"dev_metric": self.best_metric, **own}


def no_scores() -> Scores:
    """Measure nothing, neither on the way nor at the end."""
    return Scores(lambda _: {}, None, "", lambda *_: {}, lambda *_: [])


def sts_scores(
    eval_data: Path | None, all_tasks: bool, eval_columns: Sequence[str] = COLUMNS
) -> Scores:
    """Score by STS-B dev on the way and STS-B test, or all seven tasks, at the end.

    Args:
        eval_data: SentEval's folder, or a file of pairs (see `pair_scores`); without it everything
            is scored on the Lee corpus, or nothing where that is not installed.
        all_tasks: score all seven STS tasks at the end, not STS-B alone.
        eval_columns: of a file of pairs.
    """
    if eval_data is None:
        try:
            read_lee()
        except FileNotFoundError:
            return no_scores()
        note = (
            "the model is chosen by the corpus that it is scored on, Lee's 50 documents, so its "
            "score is no measure of new text; SentEval's folder as eval_data (--eval-data) has a "
            "test of its own"
        )
        return Scores(
            lee_score,
            "lee_spearman",
            "Lee dev",
            lambda e, _: lee_score(e),
            _sts_columns,
            note=note,
            one_corpus=True,
        )
    if eval_data.is_file():
        return pair_scores(eval_data, eval_columns)
    pairs = read_stsb(eval_data, "dev")
    tasks = read_sts(eval_data) if all_tasks else read_sts(eval_data, ["STS-B"])

    def dev(encoder: SentenceEncoder) -> dict[str, float]:
        return {"stsb_dev": _spearman(encoder, pairs)}

    def test(encoder: SentenceEncoder, folder: Path | None) -> dict[str, Any]:
        return results_to_json(evaluate_sts(encoder.encode, tasks))

    return Scores(
        dev,
        "stsb_dev",
        "STS-B dev",
        test,
        _sts_columns,
        scored_on=json_digest([*map(pairs_digest, (pairs, *tasks["STS-B"].subsets))]),
    )


def pair_scores(file: Path, columns: Sequence[str]) -> Scores:
    """Score by the pairs of a file, on the way and at the end.

    Args:
        file: as `simcse_jax.data.pairs.read_pairs` takes it.
        columns: of it, by name: first sentence, second sentence, score.
    """
    pairs = read_pairs(file, columns)
    if not np.ptp(pairs.scores):
        raise ValueError(
            f"{file}: all scores are {pairs.scores[0]:g}, which rank nothing; give pairs whose "
            "scores differ"
        )

    def test(encoder: SentenceEncoder, folder: Path | None) -> dict[str, Any]:
        return results_to_json(evaluate_sts(encoder.encode, [StsTask(pairs.name, (pairs,))]))

    return Scores(
        lambda encoder: {"pairs_dev": _spearman(encoder, pairs)},
        "pairs_dev",
        "dev",
        test,
        _sts_columns,
        note=f"the model is chosen by the pairs that it is scored on, the {len(pairs):,} of "
        f"{file.name}, so its score is no measure of new text",
        scored_on=pairs_digest(pairs),
        pairs_file=file.name,
        one_corpus=True,
    )


def pairs_digest(pairs: Pairs) -> str:
    """Return a digest of pairs and their scores."""
    rows = [pairs.sentences1, pairs.sentences2, pairs.scores.tolist()]
    return hashlib.blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()


def _spearman(encoder: SentenceEncoder, pairs: Pairs) -> float:
    """Spearman × 100 of cosines with the scores of pairs."""
    vectors = encoder.encode([*pairs.sentences1, *pairs.sentences2], show_progress=False)
    first, second = np.split(vectors, 2)
    return 100 * spearman(paired_similarity(first, second), pairs.scores)


def lee_score(encoder: SentenceEncoder) -> dict[str, float]:
    """Return Spearman × 100 of cosines with human judgements of news documents (Lee)."""
    lee = read_lee()
    vectors = encoder.encode(lee.documents, show_progress=False, max_length=encoder.max_length)
    vectors = unit_rows(vectors)
    cosines = (vectors @ vectors.T)[pair_indices()]
    return {"lee_spearman": 100 * spearman(cosines, lee.pair_similarities())}


def _sts_columns(best: dict[str, Any], last: dict[str, Any]) -> list[Column]:
    """STS-B, pairs of one's own or Lee of the best and the last model; and all tasks where scored.

    Their average is beside them.
    """
    columns = []
    for which, scores in (("best", best), ("last", last)):
        tasks = scores.get("tasks", {})
        task = tasks.get("STS-B") or next(iter(tasks.values()), None)  # or that of one file
        headline = scores["lee_spearman"] if task is None else task["all"]
        columns.append(Column(f"test_{which}", f"test, {which}", headline))
        if len(tasks) == len(TASKS):
            average = papers_average(tasks[t]["all"] for t in TASKS)
            columns.append(Column(f"average_{which}", f"average, {which}", average))
            columns += [Column(f"{task}_{which}", "", tasks[task]["all"]) for task in TASKS]
    return columns


def with_nli(scores: Scores, pairs: TrainingText, chosen: bool = True) -> Scores:
    """Add the accuracy of the softmax classifier on held-out NLI pairs to the test.

    Args:
        scores: the others.
        pairs: the held-out ones.
        chosen: whether the best model is another than the last; else one accuracy is shown.
    """

    def test(encoder: SentenceEncoder, folder: Path | None) -> dict[str, Any]:
        found = scores.test(encoder, folder)
        if folder is None:
            return found
        objective, classifier = read_classifier(folder)
        # The classifier learned from whole vectors; a model may be set to truncate them.
        features = len(classifier["kernel"])
        vectors = encoder.encode(
            [*pairs.columns[0], *pairs.columns[1]],
            normalize=False,
            truncate_dim=features // feature_width(objective.concatenation),
        )
        u, v = np.split(vectors, 2)
        called = np.argmax(objective.classify(classifier, u, v), 1)
        return found | {"nli": 100 * float(np.mean(called == np.asarray(pairs.labels)))}

    def columns(best: dict[str, Any], last: dict[str, Any]) -> list[Column]:
        of_best, of_last = ("NLI, best", "NLI, last") if chosen else ("", "NLI")
        accuracy = [
            Column("nli_best", of_best, best["nli"]),
            Column("nli_last", of_last, last["nli"]),
        ]
        return [*scores.columns(best, last), *accuracy]

    measure = "NLI accuracy" if scores.best_metric is None else "Spearman and NLI accuracy"
    scored_on = json_digest([scores.scored_on, pairs.fingerprint])
    return scores._replace(test=test, columns=columns, measure=measure, scored_on=scored_on)


def triplet_scores(
    parts: Mapping[str, TrainingText], distance: Distance, sts: Scores | None
) -> Scores:
    """Score by the share of held-out triplets in which the positive is nearer than the negative.

    Args:
        parts: the triplets "dev", which choose the best model, "test" and "all" (of the test).
        distance: of the choice of the best model.
        sts: scored too at the end, or None.
    """

    def dev(encoder: SentenceEncoder) -> dict[str, float]:
        return {"sections_dev": _accuracy(encoder, parts["dev"], [distance])[0]}

    def test(encoder: SentenceEncoder, folder: Path | None) -> dict[str, Any]:
        euclidean, cosine = _accuracy(encoder, parts["test"], ["euclidean", "cosine"])
        (of_all,) = _accuracy(encoder, parts["all"], ["euclidean"])
        found = {"sections": euclidean, "sections_cosine": cosine, "sections_all": of_all}
        return found | ({} if sts is None else sts.test(encoder, folder))

    def columns(best: dict[str, Any], last: dict[str, Any]) -> list[Column]:
        both = (("best", best), ("last", last))
        shown = [Column(f"sections_{w}", f"test, {w}", scores["sections"]) for w, scores in both]
        hidden = [
            Column(f"{name}_{which}", "", scores[name])
            for name in ("sections_cosine", "sections_all")
            for which, scores in both
        ]
        others = [] if sts is None else sts.columns(best, last)
        renamed = [c._replace(heading=c.heading.replace("test", own or "STS-B")) for c in others]
        return [*shown, *hidden, *renamed]

    own = "" if sts is None else sts.pairs_file
    digests = [part.fingerprint for part in parts.values()]
    return Scores(
        dev,
        "sections_dev",
        "dev",
        test,
        columns,
        "section-triplet accuracy",
        scored_on=json_digest([*digests, None if sts is None else sts.scored_on]),
        pairs_file=own,
    )


def _accuracy(
    encoder: SentenceEncoder, triplets: TrainingText, distances: Sequence[Distance]
) -> list[float]:
    """Triplet accuracy × 100, by each distance."""
    flat = [sentence for column in triplets.columns for sentence in column]
    vectors = encoder.encode(flat, normalize=False, show_progress=False)
    a, p, n = np.split(vectors, 3)
    return [triplet_accuracy(a, p, n, distance) for distance in distances]


# ---------------------------------------------------------------------------------------------
# For the model card
# ---------------------------------------------------------------------------------------------

_PROTOCOLS = {
    "all": "one over all pairs",
    "mean": "mean of the subsets",
    "wmean": "mean of the subsets by size",
}
_STS = (
    "STS: the test pairs in SentEval's files; the cosine of the two vectors of a pair against the "
    "human score of the pair."
)
_OWN = (
    "{}: the user's own pairs, which are no published test; the cosine of the two vectors of a "
    "pair against the score that the file has for it."
)
_UNPUBLISHED = "unknown"  # what sentence-transformers calls such data in a card
_LEE = (
    "Lee: all pairs of 50 news documents; the cosine of the vectors of a pair against the mean of "
    "the human judgements of it."
)
_SECTIONS = (
    "Wikipedia sections: triplets of articles that were held out from training, all of them or a "
    "sample of at most 50 an article; the share of those in which the first sentence is nearer to "
    "the second, of the same section, than to the third, of another section of the article."
)
_NLI = (
    "NLI: pairs that were not trained on; the share that the classifier of the training tells "
    "right, whose weights are in classifier.safetensors."
)


def card_scores(found: Mapping[str, Any], pairs_file: str = "") -> list[Score]:
    """Return the scores of a test as a model card shows them; others than these are left out.

    Args:
        found: what the ``test`` of `Scores` returned.
        pairs_file: of `Scores`; whatever the file is called, its scores are none of a published
            data set.
    """
    tasks = found.get("tasks", {})
    scores = [score for name, task in tasks.items() for score in _of_task(name, task)]
    if pairs_file:
        own = _OWN.format(pairs_file)
        scores = [
            score._replace(dataset=pairs_file, dataset_id=_UNPUBLISHED, split=None, protocol=own)
            for score in scores
        ]
    if len(tasks) == len(TASKS):
        average = {"all": "one correlation a task", "mean": "mean of a task's subsets"}
        average["wmean"] = f"{average['mean']} by size"
        scores += [
            _sts_score(
                "average of the seven STS tasks",
                "sts-average",
                f"spearman_cosine{_ENDINGS[protocol]}",
                f"Spearman's rank correlation, {what}",
                found["average"][protocol],
            )
            for protocol, what in average.items()
        ]
    if "lee_spearman" in found:
        of_documents = "Spearman's rank correlation"
        lee = _sts_score("Lee", "lee", "spearman_cosine", of_documents, found["lee_spearman"])
        scores.append(lee._replace(split=None, size="1,225 pairs", protocol=_LEE))
    scores += [
        Score(
            task="triplet",
            dataset=f"Wikipedia sections, {part}",
            dataset_id=dataset_id,
            split="test",
            metric=f"{distance}_accuracy",
            measure=f"accuracy, {distance} distance",
            value=found[name],
            protocol=_SECTIONS,
        )
        for name, part, dataset_id, distance in _SECTION_SCORES
        if name in found
    ]
    if "nli" in found:
        accuracy = found["nli"]
        task = "natural-language-inference"
        scores.append(Score(task, "NLI", "nli", "test", "accuracy", "accuracy", accuracy, _NLI))
    return scores


_ENDINGS = {"all": "", "mean": "_mean", "wmean": "_wmean"}
_SECTION_SCORES = (
    ("sections", "a sample", "wikipedia-sections", "euclidean"),
    ("sections_cosine", "a sample", "wikipedia-sections", "cosine"),
    ("sections_all", "all", "wikipedia-sections-all", "euclidean"),
)


def _of_task(name: str, task: Mapping[str, Any]) -> list[Score]:
    """Return a task's correlations in every protocol, which agree where it is one subset."""
    several = len(task["subsets"]) > 1
    measures = {
        f"spearman_cosine{_ENDINGS[protocol]}": (
            f"Spearman's rank correlation{f', {what}' if several else ''}",
            task[protocol],
        )
        for protocol, what in _PROTOCOLS.items()
        if several or protocol == "all"
    }
    pearson = f"Pearson's correlation{', ' + _PROTOCOLS['all'] if several else ''}"
    measures["pearson_cosine"] = (pearson, task["pearson"]["all"])
    return [
        _sts_score(name, name.lower(), metric, measure, value)._replace(
            size=f"{task['pairs']:,} pairs"
        )
        for metric, (measure, value) in measures.items()
    ]


def _sts_score(dataset: str, dataset_id: str, metric: str, measure: str, value: float) -> Score:
    return Score("semantic-similarity", dataset, dataset_id, "test", metric, measure, value, _STS)
