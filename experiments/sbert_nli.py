r"""Sentence-BERT on natural language inference (Reimers & Gurevych 2019, section 3).

    python -m experiments.sbert_nli --train-file snli_1.0_train.jsonl multinli_1.0_train.jsonl \
        --test-file snli_1.0_test.jsonl --eval-data SENTEVAL/data/downstream --all-tasks \
        --model bert-base-uncased --output-dir runs/sbert_nli

A softmax over (u, v, |u - v|) learns to tell entailment, neutral and contradiction apart; only the
encoder is used afterwards. The defaults are the paper's (one epoch, batch 16, Adam with learning
rate 2e-5 after a warm-up of 10 %, mean pooling), but for the model, which is the embedded MiniLM.
The classifier has a bias, as in the authors' code; --no-use-bias leaves it out, as the paper's
formula and Su et al. (2021) do.

NLI accuracy is measured on --test-file, or else on the pairs of a tenth of the premises, which are
then held out of training. The best model is chosen by STS-B dev, as the paper chooses its settings;
NLI files are in the hub's columns, SNLI's and MultiNLI's own, or s1.test, s2.test, labels.test.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import runs
from experiments.runs import Column
from experiments.sbert import RunSettings, read_classifier, sbert_recipe, sbert_settings
from simcse_jax import SentenceEncoder
from simcse_jax.cli import run_or_explain
from simcse_jax.data.training_text import TrainingText, read_labelled_nli
from simcse_jax.losses.nli_softmax import Concatenation, pair_features

HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class Settings(RunSettings):
    """Sentence-BERT on natural language inference."""

    train_file: tuple[Path, ...] = ()
    """NLI files or folders: premise, hypothesis, label."""
    test_file: tuple[Path, ...] = ()
    """The same for NLI accuracy. Default: a tenth of the training files' premises."""
    concatenation: Concatenation = "uv-diff"
    """What the softmax sees: u, v, diff = |u - v|, mul = u * v (the paper's table 6)."""
    use_bias: bool = True
    """Whether the classifier has a bias."""
    output_dir: Path = Path("runs/sbert_nli")
    """The run's folder."""


def split_premises(text: TrainingText, share: float) -> tuple[TrainingText, TrainingText]:
    """Hold a share of the premises out, each by a hash, so that none is on both sides."""
    assert text.labels is not None
    held_out = []
    for premise in text.columns[0]:
        digest = hashlib.blake2b(premise.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        held_out.append(int.from_bytes(digest, "big") / 2**64 < share)
    sides = []
    for side, what in ((False, "kept for training"), (True, "held out")):
        rows = [i for i, out in enumerate(held_out) if out == side]
        if not rows:
            raise ValueError(
                f"{len(text)} NLI pairs are too few to hold some out; give a test file"
            )
        columns = tuple(tuple(column[i] for i in rows) for column in text.columns)
        description = f"{text.description}; {len(rows):,} of them {what}"
        sides.append(TrainingText(columns, description, tuple(text.labels[i] for i in rows)))
    return sides[0], sides[1]


def read_texts(settings: Settings) -> tuple[TrainingText, TrainingText]:
    """The pairs to train on and those to test on."""
    if not settings.train_file:
        raise ValueError("--train-file is missing: name NLI files of premise, hypothesis and label")
    text = read_labelled_nli(settings.train_file)
    if settings.test_file:
        return text, read_labelled_nli(settings.test_file)
    return split_premises(text, HELD_OUT)


def nli_accuracy(encoder: SentenceEncoder, folder: Path, text: TrainingText) -> float:
    """Share of pairs, times 100, that the classifier in the model folder calls as people did."""
    kernel, bias, concatenation = read_classifier(folder)
    vectors = encoder.encode([*text.columns[0], *text.columns[1]], normalize=False)
    u, v = np.split(vectors, 2)
    logits = pair_features(u, v, concatenation) @ kernel
    logits = logits if bias is None else logits + bias
    return 100 * float(np.mean(np.argmax(logits, 1) == np.asarray(text.labels)))


def main(settings: Settings) -> dict[str, float]:
    """Train every seed, close with a table, and return the columns' means."""
    text, held_out = read_texts(settings)

    def test(encoder: SentenceEncoder, folder: Path | None) -> dict[str, Any]:
        scores = runs.test_scores(encoder, settings)
        return scores | ({} if folder is None else {"nli": nli_accuracy(encoder, folder, held_out)})

    def columns(best: dict[str, Any], last: dict[str, Any]) -> Sequence[Column]:
        return [
            *runs.sts_columns(best, last),
            Column("nli_best", "NLI, best", best["nli"]),
            Column("nli_last", "NLI, last", last["nli"]),
        ]

    runs.console.print(f"NLI accuracy is measured on: {held_out.description}")
    recipe = sbert_recipe(
        text,
        sbert_settings(settings, objective="softmax"),
        evaluate=lambda encoder: runs.dev_score(encoder, settings.eval_data),
        best_metric=runs.dev_metric(settings.eval_data),
        test=test,
        test_columns=columns,
    )
    dev = "Lee dev" if settings.eval_data is None else "STS-B dev"
    return runs.train_seeds(settings, recipe, dev, "Spearman and NLI accuracy")


if __name__ == "__main__":
    settings_ = tyro.cli(Settings, description=__doc__)
    run_or_explain(lambda: main(settings_))
