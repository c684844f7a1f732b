r"""What masked language modelling makes of MiniLM: the way to a raw encoder, step by step.

    python -m experiments.tables.raw_start --train-files wiki1m_head.txt wiki_split_15k.txt \
        --eval-data SENTEVAL/data/downstream --output-dir runs/raw_minilm

It trains the configuration raw_minilm, one run a seed, and measures on the way: the loss and the
accuracy of masked tokens in sentences that are held out, and of STS-B dev the score of three
poolings, and of the mean of the tokens the average cosine, the uniformity and the spectrum. The raw
encoder of a seed is OUTPUT_DIR/seed-K/last. Writes raw_start.json and raw_start.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import report
from experiments.configs.raw_minilm import CONFIG
from experiments.script import run_script
from simcse_jax import SentenceEncoder
from simcse_jax.checks import check_between
from simcse_jax.config import replace
from simcse_jax.data.encode_batches import encode_batches
from simcse_jax.data.packing import TOKENS_PER_SEGMENT
from simcse_jax.data.senteval import Pairs, read_stsb
from simcse_jax.data.training_text import TrainingText, read_sentences
from simcse_jax.evaluation.geometry import checked_unit_rows, uniformity
from simcse_jax.evaluation.isotropy import average_cosine, singular_spectrum
from simcse_jax.evaluation.scores import pairs_digest
from simcse_jax.evaluation.sts import cosine, spearman
from simcse_jax.io import read_json, read_json_lines, write_json, write_text
from simcse_jax.losses.masked_lm import IGNORED, masked_lm_loss
from simcse_jax.models import Batch, BertConfig
from simcse_jax.objectives import Model
from simcse_jax.objectives.masked_lm import (
    MaskingTokens,
    head_params,
    mask_tokens,
    masking_tokens,
    token_states,
    word_scores,
)
from simcse_jax.trainer import train_seeds

POOLINGS = ("mean", "first-last", "cls")
MASK_SEED = 0
MEASURED_ON = "measured_on.json"


@dataclasses.dataclass(frozen=True)
class RawStart:
    """Train on sentences, and measure on the way."""

    train_files: tuple[Path, ...]
    """Files of sentences."""
    eval_data: Path
    """The folder that holds SentEval's STS/, of which STS-B dev is scored."""
    model: str = "minilm"
    """'minilm' (embedded), a model folder, or a Hugging Face hub id: what is trained on."""
    steps: int = CONFIG.run.max_steps or 0
    """The number of updates."""
    every: int = CONFIG.run.eval_every
    """What is measured is measured every so many steps."""
    seeds: tuple[int, ...] = CONFIG.run.seeds
    """One run for each of these seeds."""
    held_out: int = 1000
    """So many of the sentences are not trained on: masked tokens are guessed in them."""
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
    """Return the distinct sentences to train on, and those held out: every so many-th.

    Raises:
        ValueError: none is held out, or more than half of them.
    """
    distinct = list(dict.fromkeys(sentences))
    check_between("held_out", held_out, 1, len(distinct) // 2)
    held = distinct[:: len(distinct) // held_out][:held_out]
    kept = set(held)
    return [s for s in distinct if s not in kept], held


def masked_tokens(encoder: SentenceEncoder, sentences: Sequence[str]) -> dict[str, float]:
    """Return accuracy and loss of masked tokens; the same ones are masked at every call."""
    model = Model(encoder.config, encoder.params, encoder.tokenizer, "mean", jnp.dtype("float32"))
    tokens, limit = masking_tokens(model), CONFIG.data.max_length
    ids = encoder.tokenizer(list(sentences), limit)[0]
    sums = np.zeros(3)
    for number, (batch, _) in enumerate(encode_batches(ids, limit, 64 * limit, 1)):
        key = jax.random.key(MASK_SEED + number)
        found = guesses(encoder.config, tokens, encoder.params, batch, key)
        sums += [float(x) for x in found]
    # The first is what chooses the best model.
    return {"masked_accuracy": 100 * sums[0] / sums[2], "masked_loss": sums[1] / sums[2]}


@functools.partial(jax.jit, static_argnums=(0, 1))
def guesses(
    config: BertConfig, tokens: MaskingTokens, params: Any, batch: Batch, key: Any
) -> tuple[Any, Any, Any]:
    """Return how many masked tokens are guessed, the sum of their losses, and their number."""
    keys = jax.random.split(key, batch.input_ids.size // TOKENS_PER_SEGMENT)
    ids, labels = mask_tokens(batch, keys, tokens, config.vocab_size)
    rows = dataclasses.replace(batch, input_ids=ids)
    states = token_states(config, params, rows, None, jnp.float32)
    logits = word_scores(config, jnp.float32, head_params(params), states)
    masked = labels != IGNORED
    right = jnp.sum((jnp.argmax(logits, -1) == labels) & masked)
    count = jnp.sum(masked)
    return right, masked_lm_loss(logits, labels) * count, count


def vectors_of(encoder: SentenceEncoder, pooling: str, sentences: Sequence[str]) -> np.ndarray:
    """Return the vectors of another pooling, not scaled."""
    settings = dataclasses.replace(encoder.settings, pooling=pooling, normalize=False)
    params = {"encoder": encoder.params["encoder"]}
    other = SentenceEncoder(encoder.config, params, encoder.tokenizer, settings)
    return other.encode(list(sentences), show_progress=False)


def geometry(vectors: np.ndarray) -> dict[str, float]:
    """Return average cosine, uniformity, and the second singular value over the first.

    The latter two are of the unit vectors.
    """
    unit = checked_unit_rows(vectors)
    return {
        "average_cosine": average_cosine(vectors),
        "uniformity": uniformity(unit),
        "second_singular_value": float(singular_spectrum(unit)[1]),
    }


def measure(encoder: SentenceEncoder, dev: Pairs, held: Sequence[str]) -> dict[str, float]:
    """Return everything that is measured of an encoder, by name."""
    found = masked_tokens(encoder, held) if "mlm" in encoder.params else {}
    distinct = list(dict.fromkeys((*dev.sentences1, *dev.sentences2)))
    row = {sentence: i for i, sentence in enumerate(distinct)}
    sides = [[row[s] for s in side] for side in (dev.sentences1, dev.sentences2)]
    for pooling in POOLINGS:
        vectors = vectors_of(encoder, pooling, distinct)
        found[pooling] = 100 * spearman(cosine(*(vectors[side] for side in sides)), dev.scores)
        if pooling == "mean":
            found |= geometry(vectors)
    return found


# ---------------------------------------------------------------------------------------------
# The runs and the table
# ---------------------------------------------------------------------------------------------

COLUMNS = {
    "masked_loss": "loss of masked tokens",
    "masked_accuracy": "masked tokens guessed, %",
    "mean": "mean, STS-B dev",
    "first-last": "first-last, STS-B dev",
    "cls": "cls, STS-B dev",
    "average_cosine": "average cosine of the means",
    "uniformity": "uniformity of the means",
    "second_singular_value": "their second singular value over the first",
}


def measured_on(dev: Pairs, held: Sequence[str]) -> dict[str, str]:
    """Return digests of what the runs of a folder are measured on."""
    return {"dev": pairs_digest(dev), "held_out": TrainingText((tuple(held),)).fingerprint}


def check_same_data(settings: RawStart, given: Mapping[str, str]) -> None:
    """Refuse to go on in a folder whose runs were measured on something else.

    Raises:
        ValueError: what was noted is not what is given.
    """
    file = settings.output_dir / MEASURED_ON
    if file.is_file() and read_json(file) != given:
        raise ValueError(
            f"{settings.output_dir} was measured on other pairs or held-out sentences; give the "
            "same --eval-data, --train-files and --held-out, or another --output-dir"
        )


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table in Markdown: mean and deviation over the seeds, for each step."""
    how = results["settings"]
    title = (
        f"Masked language modelling from {how['model']}: batches of {how['batch_size']}, "
        f"learning rate {how['learning_rate']:g}, {how['dtype']}, "
        f"{how['sentences']:,} sentences, seeds {', '.join(results['seeds'])}; "
        f"{results['hardware']}:"
    )

    def row(step: int, records: Sequence[Mapping[str, Any]]) -> list[str]:
        known = [[record[name] for record in records if name in record] for name in COLUMNS]
        return [str(step), *(report.mean_and_deviation(x) if x else "" for x in known)]

    rows = [row(0, [results["start"]])]
    rows += [row(x[0]["step"], x) for x in zip(*results["seeds"].values(), strict=True)]
    return f"{title}\n\n{report.markdown(['step', *COLUMNS.values()], rows)}"


def main(settings: RawStart) -> None:
    """Train every seed, measure, and write the table."""
    if not settings.seeds:
        raise ValueError("seeds is empty; name one or more")
    text, held = split(read_sentences(settings.train_files), settings.held_out)
    batch_size = CONFIG.data.batch_size
    if len(text) < batch_size:
        raise ValueError(
            f"train_files has {len(text)} distinct sentences beside those held out, which cannot "
            f"fill one batch of {batch_size}; give more"
        )
    dev = read_stsb(settings.eval_data, "dev")
    given = measured_on(dev, held)
    check_same_data(settings, given)
    config = replace(
        CONFIG,
        model=settings.model,
        max_steps=settings.steps,
        eval_every=settings.every,
        dtype=settings.dtype,
        seed=settings.seeds[0],
        seeds=settings.seeds,
        resume=settings.resume,
        output_dir=settings.output_dir,
    )
    start = measure(SentenceEncoder.from_pretrained(settings.model, pooling="mean"), dev, held)

    def evaluate(model: SentenceEncoder) -> dict[str, float]:
        write_json(settings.output_dir / MEASURED_ON, given)  # the folder is a run's by now
        return measure(model, dev, held)

    runs = train_seeds(config, sentences=text, evaluate=evaluate)
    found = {}
    for seed, run in zip(settings.seeds, runs, strict=True):
        lines = read_json_lines(Path(run["folder"]) / "metrics.jsonl")
        found[str(seed)] = [{"step": x["step"], **x["eval"]} for x in lines if "eval" in x]
    record = report.results_record(
        settings,
        sentences=len(text),
        batch_size=batch_size,
        learning_rate=CONFIG.optimizer.learning_rate,
    )
    results = record | {"start": start, "seeds": found}
    write_json(settings.output_dir / "raw_start.json", results)
    write_text(settings.output_dir / "raw_start.md", markdown(results) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    run_script(main, RawStart, __doc__)
