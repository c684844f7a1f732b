r"""Supervised SimCSE with bert-large, by the paper's settings (Gao et al. 2021, table A.1).

    simcse-jax train experiments/configs/sup_simcse_bert_large.py --eval-data DATA

DATA is SentEval's data/downstream. SNLI and MultiNLI as triplets with a hard
negative, three epochs, batch 512, length 32, temperature 0.05. Cached gradients fit the batch into
small memory: --grad-cache-chunks 8. The paper's average of seven STS tasks: 82.21. Not measured
here: it needs the weights, the triplets (downloaded) and an accelerator.
"""

from pathlib import Path

from simcse_jax.config import CONFIGS, replace

CONFIG = replace(
    CONFIGS["sup_simcse"],
    model="bert-large-uncased",
    dataset="nli_for_simcse",
    batch_size=512,
    learning_rate=1e-5,
    all_tasks=True,
    output_dir=Path("runs/sup_simcse_bert_large"),
)
