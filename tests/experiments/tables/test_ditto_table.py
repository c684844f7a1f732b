"""Ditto's table: every head at once gives what one at a time gives, and the rows of the best."""

import pytest

from experiments.tables import ditto
from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import StsTask, read_sts, read_stsb
from simcse_jax.io import read_json


def test_all_heads_at_once_are_each_head_alone(tiny_data, golden):
    model = str(golden / "tiny-bert")
    config = SentenceEncoder.from_pretrained(model, pooling="mean").config
    dev = read_stsb(tiny_data, "dev")
    found = ditto.score_heads(model, dev)
    assert list(found) == ditto.heads(config)
    last = f"ditto-{config.num_hidden_layers}-{config.num_attention_heads}"
    for pooling in ("ditto-1-1", last):
        alone = ditto.score(model, pooling, [StsTask("dev", (dev,))])["dev"]
        assert found[pooling] == pytest.approx(alone, abs=0.5)  # ranks of few pairs


def test_the_table(tiny_data, golden, tmp_path, monkeypatch):
    monkeypatch.setattr(ditto, "TASKS", ("STS-B",))
    monkeypatch.setattr(ditto, "COLUMNS", ("STS-B dev", "STS-B"))
    monkeypatch.setattr(ditto, "read_sts", lambda folder: read_sts(folder, ["STS-B"]))
    model = str(golden / "tiny-bert")
    ditto.main(ditto.DittoTable(tiny_data, (model,), ("tiny",), tmp_path))
    (found,) = read_json(tmp_path / "ditto.json")["models"].values()
    assert [*found["rows"]] == [*ditto.AVERAGES, found["best"]]
    assert found["heads"][found["best"]] == max(found["heads"].values())
    text = (tmp_path / "ditto.md").read_text()
    assert f"| tiny | `{found['best']}` (best on dev) |" in text
    assert "tiny: every head on STS-B dev, layers down, heads across." in text
    assert str(golden) not in text + (tmp_path / "ditto.json").read_text()
    with pytest.raises(ValueError, match="labels are 1; there must be one for each of the 2"):
        ditto.DittoTable(tiny_data, ("a", "b"), ("c",))
