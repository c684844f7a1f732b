"""A SentEval folder, NLI pairs and sentences that a tiny model gets through in seconds."""

import itertools
import json

import numpy as np

WORDS = ("man", "woman", "dog", "cat")
VERBS = ("plays", "runs", "eats")
THINGS = ("flute", "piano", "food", "grass", "park")
SENTENCES = [f"the {' '.join(s)}" for s in itertools.product(WORDS, VERBS, THINGS)]  # 60
LABELS = ("entailment", "neutral", "contradiction")


def write_stsb(folder):
    """STS-B's three splits of 40 pairs, each scored by the words in common."""
    path = folder / "STS" / "STSBenchmark"
    path.mkdir(parents=True)
    for number, split in enumerate(("train", "dev", "test")):
        random = np.random.default_rng(number)
        rows = []
        for i in range(40):
            first, second = (SENTENCES[k] for k in random.integers(0, 60, 2))
            common = len(set(first.split()) & set(second.split()))
            score = 1.25 * common + random.uniform(0, 0.1)
            rows.append(("g", "f", "y", str(i), f"{score:.3f}", first, second))
        (path / f"sts-{split}.csv").write_text("".join("\t".join(row) + "\n" for row in rows))


def write_nli(path, count=48):
    """NLI pairs: the same subject and thing, the same thing, or neither in common."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        premise, hypothesis = (SENTENCES[k] for k in random.integers(0, 60, 2))
        rows.append({"premise": premise, "hypothesis": hypothesis, "label": LABELS[i % 3]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
