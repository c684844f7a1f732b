"""The way from an encoder of similarity to a raw one."""

import numpy as np
import pytest

from experiments.tables import raw_start
from simcse_jax import SentenceEncoder
from simcse_jax.io import read_json


def test_what_is_held_out_is_not_trained_on():
    text, held = raw_start.split([*"abcdefghij", "a"], 3)
    assert held == ["a", "d", "g"]
    assert text == ["b", "c", "e", "f", "h", "i", "j"]
    for number in (0, 6):
        with pytest.raises(ValueError, match=f"held_out is {number}"):
            raw_start.split("abcdefghij", number)


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
    again = raw_start.masked_words(encoder, held)
    np.testing.assert_allclose(again["masked_loss"], steps[1]["masked_loss"], rtol=1e-5)
