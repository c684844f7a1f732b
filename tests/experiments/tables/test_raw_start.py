"""The way from an encoder of similarity to a raw one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.tables import raw_start
from simcse_jax import SentenceEncoder
from simcse_jax.data.encode_batches import encode_batches
from simcse_jax.data.packing import TOKENS_PER_SEGMENT
from simcse_jax.io import read_json
from simcse_jax.losses.masked_lm import IGNORED
from simcse_jax.models import BertEncoder, one_a_row
from simcse_jax.models.heads import MaskedLMHead
from simcse_jax.objectives.masked_lm import init_head, mask_tokens, masking_tokens
from simcse_jax.objectives.objective import Model


def test_what_is_held_out_is_not_trained_on():
    text, held = raw_start.split([*"abcdefghij", "a"], 3)
    assert held == ["a", "d", "g"]
    assert text == ["b", "c", "e", "f", "h", "i", "j"]
    for number in (0, 6):
        with pytest.raises(ValueError, match=f"held_out is {number}"):
            raw_start.split("abcdefghij", number)


def test_masked_tokens_are_guessed_out_of_their_own_sentence_alone(tiny_data, golden):
    """A sentence at a time, in float64 from the head's scores; hits and misses both occur."""
    sentences = (tiny_data / "text.txt").read_text().splitlines()[:30]
    plain = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    config = plain.config
    model = Model(config, plain.params, plain.tokenizer, "mean", jnp.dtype("float32"))
    head = init_head(model, jax.random.key(0))
    limit = raw_start.CONFIG.data.max_length
    ids = plain.tokenizer(sentences, limit)[0]
    ((batch, _),) = encode_batches(ids, limit, 64 * limit, 1)
    keys = jax.random.split(
        jax.random.key(raw_start.MASK_SEED), batch.input_ids.size // TOKENS_PER_SEGMENT
    )
    masked, labels = (
        np.asarray(x) for x in mask_tokens(batch, keys, masking_tokens(model), config.vocab_size)
    )
    count = (labels != IGNORED).sum()
    # The commonest of the labels is what a fresh head is made to guess everywhere.
    common = np.bincount(labels[labels != IGNORED]).argmax()
    head = head | {"bias": jnp.asarray(head["bias"]).at[common].set(10.0)}

    right, loss = 0, 0.0
    for number in range(1, len(sentences) + 1):
        own = np.asarray(batch.segment_ids) == number
        alone = one_a_row(masked[own][None], np.ones((1, own.sum())))
        states = BertEncoder(config).apply({"params": plain.params["encoder"]}, alone)
        words = plain.params["encoder"]["embeddings"]["word"]["embedding"]
        logits = MaskedLMHead(config).apply({"params": head}, states[-1], words)
        scores = np.asarray(logits[0], np.float64)
        log_softmax = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        for place in np.flatnonzero(labels[own] != IGNORED):
            label = labels[own][place]
            right += scores[place].argmax() == label
            loss -= log_softmax[place, label]
    assert 0 < right < count

    params = {**plain.params, "mlm": head}
    encoder = SentenceEncoder(config, params, plain.tokenizer, plain.settings)
    found = raw_start.masked_tokens(encoder, sentences)
    np.testing.assert_allclose(found["masked_accuracy"], 100 * right / count, rtol=1e-6)
    np.testing.assert_allclose(found["masked_loss"], loss / count, rtol=1e-5)


def test_too_little_text_is_told_before_anything_is_measured(tiny_data, monkeypatch):
    monkeypatch.setattr(raw_start, "measure", None)
    settings = raw_start.RawStart((tiny_data / "text.txt",), tiny_data, held_out=10)
    with pytest.raises(ValueError, match="50 distinct sentences .* fill one batch of 128"):
        raw_start.main(settings)


@pytest.mark.slow
def test_table_of_a_run(tiny_data, golden, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(raw_start, "POOLINGS", ("mean", "cls"))
    settings = raw_start.RawStart(
        (tiny_data / "text.txt",),
        tiny_data,
        model=str(golden / "tiny-bert"),
        steps=2,
        every=1,
        seeds=(3, 4),
        held_out=10,
        output_dir=tmp_path,
    )
    monkeypatch.setattr(
        raw_start, "CONFIG", raw_start.replace(raw_start.CONFIG, batch_size=16, max_length=16)
    )
    raw_start.main(settings)
    found = read_json(tmp_path / "raw_start.json")
    assert (found["settings"]["sentences"], found["settings"]["held_out"]) == (50, 10)
    assert found["settings"]["train_files"] == ["text.txt"]
    assert list(found["seeds"]) == ["3", "4"]
    steps = found["seeds"]["3"]
    assert [record["step"] for record in steps] == [1, 2]
    assert found["start"]["mean"] != steps[1]["mean"]
    assert steps[0]["masked_loss"] > steps[1]["masked_loss"] > 1
    rows = (tmp_path / "raw_start.md").read_text().splitlines()
    assert "50 sentences, seeds 3, 4; " in rows[0]
    assert len(rows) == 2 + 2 + 3
    assert rows[2].count("|") == len(raw_start.COLUMNS) + 2
    # The model that the run leaves is the one that was measured last.
    encoder = SentenceEncoder.from_pretrained(tmp_path / "seed-3" / "last")
    _, held = raw_start.split((tiny_data / "text.txt").read_text().splitlines(), 10)
    again = raw_start.masked_tokens(encoder, held)
    np.testing.assert_allclose(again["masked_loss"], steps[1]["masked_loss"], rtol=1e-5)
    # What it was measured on is not mixed with anything else.
    with pytest.raises(ValueError, match="measured on other pairs or held-out sentences"):
        raw_start.main(dataclasses.replace(settings, held_out=9, resume=True))


def test_the_committed_table_is_drawn_from_its_numbers(results_folder):
    results = read_json(results_folder / "raw_start.json")
    assert f"{raw_start.markdown(results)}\n" == (results_folder / "raw_start.md").read_text()
