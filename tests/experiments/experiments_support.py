"""Sixty sentences in the tiny models' words, and a small STS-B made of them."""

import itertools
from pathlib import Path

import numpy as np

WORDS = ("man", "woman", "dog", "cat")
VERBS = ("plays", "runs", "eats")
THINGS = ("flute", "piano", "food", "grass", "park")
SENTENCES = [f"the {' '.join(s)}" for s in itertools.product(WORDS, VERBS, THINGS)]


def write_stsb(folder: Path, pairs: int = 40) -> None:
    """STS-B's test set in SentEval's layout."""
    rng = np.random.default_rng(0)
    path = folder / "STS" / "STSBenchmark" / "sts-test.csv"
    path.parent.mkdir(parents=True)
    rows = [
        ("g", "f", "y", str(i), f"{rng.uniform(0, 5):.2f}", SENTENCES[i], SENTENCES[-1 - i // 2])
        for i in range(pairs)
    ]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
