r"""What masked language modelling makes of MiniLM: the way to a raw encoder, step by step.

    python -m experiments.tables.raw_start --train-files wiki1m_head.txt wiki_split_15k.txt \
        --eval-data SENTEVAL/data/downstream --output-dir runs/raw_minilm

It trains the configuration raw_minilm, one run a seed, and measures on the way: the loss and the
accuracy of masked words in sentences that are held out, and of STS-B dev the score of three
poolings, and of the mean of the tokens the average cosine, the uniformity and the spectrum. The raw
encoder of a seed is OUTPUT_DIR/seed-K/last. Writes raw_start.json and raw_start.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import report
from experiments.configs.raw_minilm import CONFIG
from simcse_jax import SentenceEncoder
from simcse_jax.cli import run_or_explain
from simcse_jax.config import replace, to_json
from simcse_jax.data.encode_batches import encode_batches
from simcse_jax.data.packing import TOKENS_PER_SEGMENT
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.data.training_text import read_sentences
from simcse_jax.evaluation.geometry import alignment_uniformity, checked_unit_rows
from simcse_jax.evaluation.isotropy import average_cosine, singular_spectrum
from simcse_jax.evaluation.sts import cosine, spearman
from simcse_jax.io import read_json_lines, write_json, write_text
from simcse_jax.losses.masked_lm import IGNORED, masked_lm_loss
from simcse_jax.machine import hardware
from simcse_jax.objectives import Model
from simcse_jax.objectives.masked_lm import mask_tokens, masking_tokens, token_logits
from simcse_jax.trainer import train

POOLINGS = ("mean", "first-last", "cls")
MASK_SEED = 0
# Of the singular values over the largest, these are kept.
SPECTRUM_PLACES = (1, 10, 50, 100, 200)


@dataclasses.dataclass(frozen=True)
class RawStart:
    """Train on sentences, and measure on the way."""

    train_files: tuple[Path, ...]
    """Files of sentences."""
    eval_data: Path
    """The folder that holds SentEval's STS/: STS-B dev is scored."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id: what is trained on."""
    steps: int = CONFIG.run.max_steps or 0
    """The number of updates."""
    every: int = CONFIG.run.eval_every
    """What is measured is measured every so many steps."""
    seeds: tuple[int, ...] = CONFIG.run.seeds
    """One run for each of these seeds."""
    held_out: int = 1000
    """So many of the sentences are not trained on: masked words are guessed in them."""
    dtype: str = "float32"
    """The compute type of training, float32 or bfloat16."""
    resume: bool = False
    """Reuse finished runs, and continue an interrupted one."""
    output_dir: Path = CONFIG.run.output_dir
    """The folder that gets the runs, raw_start.json and raw_start.md."""


# ---------------------------------------------------------------------------------------------
# What is measured
# ---------------------------------------------------------------------------------------------


def split(sentences: Sequence[str], held_out: int) -> tuple[list[str], list[str]]:
    """Return the sentences to train on, and those that are held out: every so many-th."""
    distinct = list(dict.fromkeys(sentences))
    every = len(distinct) // held_out
    held = distinct[::every][:held_out]
    kept = set(held)
    return [s for s in distinct if s not in kept], held


def masked_words(encoder: SentenceEncoder, sentences: Sequence[str]) -> dict[str, float]:
    """Return the loss and the accuracy of masked words; the same ones are masked at every call."""
    model = Model(encoder.config, encoder.params, encoder.tokenizer, "mean", jnp.dtype("float32"))
    tokens = masking_tokens(model)

    @jax.jit
    def guess(params: Any, batch: Any, key: Any) -> tuple[Any, Any, Any]:
        keys = jax.random.split(key, batch.input_ids.size // TOKENS_PER_SEGMENT)
        ids, labels = mask_tokens(batch, keys, tokens, encoder.config.vocab_size)
        rows = dataclasses.replace(batch, input_ids=ids)
        logits = token_logits(encoder.config, params, rows, None, jnp.float32)
        masked = labels != IGNORED
        right = jnp.sum((jnp.argmax(logits, -1) == labels) & masked)
        count = jnp.sum(masked)
        return masked_lm_loss(logits, labels) * count, right, count

    limit = CONFIG.data.max_length
    ids = encoder.tokenizer(list(sentences), limit)[0]
    batches = encode_batches(ids, limit, 64 * limit, 1)
    sums = np.zeros(3)
    for number, (batch, _) in enumerate(batches):
        key = jax.random.key(MASK_SEED + number)
        sums += [float(x) for x in guess(encoder.params, batch, key)]
    # The first is what chooses the best model.
    return {"masked_accuracy": sums[1] / sums[2], "masked_loss": sums[0] / sums[2]}


def pooled(encoder: SentenceEncoder, pooling: str) -> SentenceEncoder:
    """Return the same encoder with another pooling, its vectors as they are."""
    settings = dataclasses.replace(encoder.settings, pooling=pooling, normalize=False)
    params = {"encoder": encoder.params["encoder"]}
    return SentenceEncoder(encoder.config, params, encoder.tokenizer, settings)


def measure(encoder: SentenceEncoder, dev: Pairs, held: Sequence[str]) -> dict[str, Any]:
    """Return everything that is measured of an encoder, by name."""
    distinct = list(dict.fromkeys((*dev.sentences1, *dev.sentences2)))
    row = {sentence: i for i, sentence in enumerate(distinct)}
    found: dict[str, Any] = masked_words(encoder, held) if "mlm" in encoder.params else {}
    for pooling in POOLINGS:
        vectors = pooled(encoder, pooling).encode(distinct, show_progress=False)

        def embed(sentences: Sequence[str], vectors: np.ndarray = vectors) -> np.ndarray:
            return vectors[[row[s] for s in sentences]]

        cosines = cosine(embed(dev.sentences1), embed(dev.sentences2))
        found[pooling] = 100 * spearman(cosines, dev.scores)
        if pooling == "mean":
            values = singular_spectrum(checked_unit_rows(vectors))
            places = (i for i in SPECTRUM_PLACES if i < len(values))
            found |= {
                "average_cosine": average_cosine(vectors),
                "uniformity": alignment_uniformity(embed, [dev]).uniformity,
                **{f"singular_value_{i}": float(values[i]) for i in places},
            }
    return found


# ---------------------------------------------------------------------------------------------
# The runs and the table
# ---------------------------------------------------------------------------------------------

COLUMNS = {
    "masked_loss": "loss of masked words",
    "masked_accuracy": "accuracy of masked words",
    "mean": "mean, STS-B dev",
    "first-last": "first-last, STS-B dev",
    "cls": "cls, STS-B dev",
    "average_cosine": "average cosine of the means",
    "uniformity": "uniformity of the means",
    "singular_value_1": "second singular value over the first",
}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table in Markdown: mean and deviation over the seeds, for each step."""
    how = results["settings"]
    title = (
        f"Masked language modelling from {how['model']['model']}: batches of "
        f"{how['data']['batch_size']}, learning rate {how['optimizer']['learning_rate']:g}, "
        f"{how['model']['dtype']}, {how['sentences']:,} sentences, seeds "
        f"{', '.join(results['seeds'])}; {results['hardware']}:"
    )
    runs = list(results["seeds"].values())
    rows = []
    for records in zip(*runs, strict=True):
        cells = [str(records[0]["step"])]
        for name in COLUMNS:
            known = [record[name] for record in records if name in record]
            cells.append(report.mean_and_deviation(known) if known else "")
        rows.append(cells)
    return f"{title}\n\n{report.markdown(['step', *COLUMNS.values()], rows)}"


def main(settings: RawStart) -> None:
    """Train every seed, measure, and write the table."""
    text, held = split(read_sentences(settings.train_files), settings.held_out)
    dev = read_stsb(settings.eval_data, "dev")
    untrained = SentenceEncoder.from_pretrained(settings.model, pooling="mean")
    start = {"step": 0, **measure(untrained, dev, held)}
    found = {}
    for seed in settings.seeds:
        config = replace(
            CONFIG,
            model=settings.model,
            max_steps=settings.steps,
            eval_every=settings.every,
            checkpoint_steps=settings.every,
            dtype=settings.dtype,
            seed=seed,
            seeds=(),
            resume=settings.resume,
            output_dir=settings.output_dir / f"seed-{seed}",
        )
        train(config, sentences=text, evaluate=lambda encoder: measure(encoder, dev, held))
        lines = read_json_lines(config.run.output_dir / "metrics.jsonl")
        later = [{"step": line["step"], **line["eval"]} for line in lines if "eval" in line]
        found[str(seed)] = [start, *later]
    how = to_json(replace(config, output_dir=settings.output_dir.name))
    results = {
        "settings": {**how, "sentences": len(text), "held_out": len(held)},
        "hardware": hardware(),
        "seeds": found,
    }
    write_json(settings.output_dir / "raw_start.json", results)
    write_text(settings.output_dir / "raw_start.md", markdown(results) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    run_or_explain(lambda: main(tyro.cli(RawStart, description=__doc__)))
