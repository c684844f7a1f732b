r"""A raw encoder out of MiniLM: masked words, until most of its training for similarity is gone.

    python -m experiments.tables.raw_start --train-files wiki1m_head.txt wiki_split_15k.txt \
        --eval-data DATA --dtype bfloat16

MiniLM was trained for similarity; the papers start from a BERT that was not, whose weights cannot
be had everywhere. After 600 steps of 128 sentences at a learning rate of 5e-4, with a fresh head on
tied words, the mean of the tokens is what that of a raw BERT is: a narrow cone. Its cls, at whose
place no word is guessed, keeps most of MiniLM's training, so that a raw start is pooled by mean or
first-last. Measured with three seeds in bfloat16 (docs/results.md): STS-B dev of the mean 86.7
before, 62.5 +- 0.4 after.
"""

from pathlib import Path

from simcse_jax.config import CONFIGS, replace

CONFIG = replace(
    CONFIGS["mlm"],
    batch_size=128,
    max_length=64,
    learning_rate=5e-4,
    schedule="cosine",
    warmup_ratio=0.05,
    weight_decay=0.01,
    max_steps=600,
    eval_every=100,
    seeds=(0, 1, 2),
    output_dir=Path("runs/raw_minilm"),
)
