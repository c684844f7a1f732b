r"""Unsupervised SimCSE with bert-large, by the paper's settings (Gao et al. 2021, table A.1).

    simcse-jax train experiments/configs/unsup_simcse_bert_large.py --eval-data DATA

DATA is SentEval's data/downstream. A million sentences of Wikipedia, one epoch, length 32,
temperature 0.05, the best model by STS-B dev every 125 steps (as the authors' scripts have it; the
paper says 250). The paper's average of seven STS tasks: 78.41. Not measured here: it needs the
weights, the text (downloaded) and an accelerator.
"""

from pathlib import Path

from simcse_jax.config import CONFIGS, replace

CONFIG = replace(
    CONFIGS["unsup_simcse"],
    model="bert-large-uncased",
    dataset="wiki1m_for_simcse",
    batch_size=64,
    learning_rate=1e-5,
    all_tasks=True,
    output_dir=Path("runs/unsup_simcse_bert_large"),
)
