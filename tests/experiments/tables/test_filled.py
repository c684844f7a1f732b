"""Positives that a masked-LM head fills in, beside transformers' own way of doing it."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.tables import ablations, filled
from experiments.tables.filled import filled_positives
from simcse_jax import hub, train
from simcse_jax.data.augmentation import mask_words
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.models import BertEncoder
from simcse_jax.models.batch import one_a_row
from simcse_jax.models.heads import MaskedLMHead

SENTENCES = ["a dog eats the food", "the cat sat on the mat with a dog", "birds", ""]


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    """A model with a masked-LM head."""
    folder = tmp_path_factory.mktemp("mlm")
    train(
        "mlm",
        sentences=SENTENCES[:2] * 8,
        model=str(golden / "tiny-bert"),
        batch_size=8,
        max_length=16,
        max_steps=1,
        evaluate=lambda encoder: {"none": 0.0},
        output_dir=folder,
    )
    return folder / "last"


def test_each_mask_becomes_the_likeliest_word(model):
    """One sentence at a time, by the modules themselves."""
    found = filled_positives(str(model), SENTENCES, share=0.4, seed=3)
    folder = hub.find_model(str(model))
    config, params = hub.load_params(folder, hub.read_config(folder))
    tokenizer = Tokenizer.from_folder(folder)
    assert [len(f.split()) for f in found] == [len(s.split()) for s in SENTENCES]
    assert found[2:] == [filled_positives(str(model), SENTENCES[2:3], 0.0)[0], ""]
    for row, sentence in enumerate(SENTENCES[:2]):
        masked = mask_words(sentence, np.random.default_rng((3, row)), 0.4)
        assert masked.count("[MASK]") == round(0.4 * len(sentence.split()))
        (ids,), _ = tokenizer([masked])
        batch = one_a_row(ids[None], np.ones((1, len(ids))))
        states = BertEncoder(config).apply({"params": params["encoder"]}, batch)
        words = params["encoder"]["embeddings"]["word"]["embedding"]
        logits = np.array(MaskedLMHead(config).apply({"params": params["mlm"]}, states[-1], words))
        logits[..., tokenizer.special_ids()] = -np.inf
        guesses = [
            filled.word_of(tokenizer, int(logits[0, place].argmax()))
            for place in np.flatnonzero(ids == tokenizer.mask_id)
        ]
        expected = [
            guesses.pop(0) if there == "[MASK]" else word
            for word, there in zip(sentence.split(), masked.split(), strict=True)
        ]
        assert found[row] == " ".join(expected)


def test_words_beyond_the_longest_input_stay(model, monkeypatch):
    monkeypatch.setattr(filled, "MAX_LENGTH", 5)
    sentence = "the cat sat on the mat with a dog"
    (found,) = filled_positives(str(model), [sentence], share=1.0)
    assert found.split()[3:] == sentence.split()[3:]


def test_a_model_without_the_head_is_named():
    with pytest.raises(ValueError, match="minilm has no masked-LM head, which is to fill in mas"):
        filled_positives("minilm", SENTENCES)


def test_the_ablation_trains_on_them(model, tiny_data, tmp_path):
    settings = ablations.AblationTable(
        tiny_data, model=str(model), train_files=(tiny_data / "text.txt",), output_dir=tmp_path
    )
    (row,) = (r for r in ablations.ABLATIONS["augmentation"].rows if r.filled)
    text = ablations.read_sentences(settings)
    assert ablations.write_filled(settings, text) is None
    lines = [json.loads(line) for line in (tmp_path / "filled.jsonl").read_text().splitlines()]
    assert list(text) == (tiny_data / "text.txt").read_text().splitlines()
    assert [line["sentence"] for line in lines] == list(text)
    assert [line["positive"] for line in lines] == filled_positives(str(model), text)
    (tmp_path / "other.txt").write_text("a dog\na cat\n")
    other = dataclasses.replace(settings, train_files=(tmp_path / "other.txt",), resume=True)
    with pytest.raises(ValueError, match=r"filled\.jsonl is not of this training text"):
        ablations.check_filled(other, ablations.read_sentences(other))
    assert ablations.read_sentences(other) == ("a dog", "a cat")
    config = ablations.configuration(settings, "augmentation", row)
    assert config.data.train_files == (tmp_path / "filled.jsonl",)
