r"""Unsupervised SimCSE from MiniLM's cls, which its own training did not compare.

    simcse-jax train experiments/configs/unsup_simcse_minilm.py --train-files wiki1m_head.txt \
        --eval-data DATA

A hundred steps of the paper's batch 64 and learning rate 3e-5 on the first 11,914 sentences of
SimCSE's wiki1m_for_simcse.txt. Measured (seeds 0, 1, 2; two cores, 7 minutes a seed): STS-B dev
79.73 before, 84.38 +- 0.11; STS-B test 73.50 before, 78.56 +- 0.42. Numbers:
experiments/results/unsup_simcse_minilm.json.
"""

from pathlib import Path

from simcse_jax.config import CONFIGS, replace

CONFIG = replace(
    CONFIGS["unsup_simcse"],
    max_steps=100,
    eval_every=50,
    seeds=(0, 1, 2),
    output_dir=Path("runs/unsup_simcse_minilm"),
)
