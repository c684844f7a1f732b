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
        assert 0 < found[pooling]["first"] < 1
        assert found[pooling]["dev"] == pytest.approx(alone, abs=0.5)  # ranks of few pairs


def test_the_table(tiny_data, golden, tmp_path, monkeypatch):
    monkeypatch.setattr(ditto, "TASKS", ("STS-B",))
    monkeypatch.setattr(ditto, "COLUMNS", ("STS-B dev", "STS-B"))
    monkeypatch.setattr(ditto, "read_sts", lambda folder: read_sts(folder, ["STS-B"]))
    model = str(golden / "tiny-bert")
    ditto.main(ditto.DittoTable(tiny_data, (model,), ("tiny",), tmp_path))
    (found,) = read_json(tmp_path / "ditto.json")["models"].values()
    best = found["best"]["best on dev"]
    assert [*found["rows"]] == [*ditto.AVERAGES, *dict.fromkeys(found["best"].values())]
    assert found["heads"][best]["dev"] == max(head["dev"] for head in found["heads"].values())
    text = (tmp_path / "ditto.md").read_text()
    assert f"| tiny | `{best}` (best on dev" in text
    assert "tiny: every head on STS-B dev, and its first token's share; layers down" in text
    assert str(golden) not in text + (tmp_path / "ditto.json").read_text()
    with pytest.raises(ValueError, match="labels are 1; there must be one for each of the 2"):
        ditto.DittoTable(tiny_data, ("a", "b"), ("c",))


def test_seeds_of_one_model_share_their_rows():
    def found(best, mean, heads):
        rows = {pooling: dict.fromkeys(ditto.COLUMNS, mean) for pooling in ("mean", *heads)}
        shares = {pooling: {"dev": dev, "first": 0.25} for pooling, dev in heads.items()}
        return {"heads": shares, "best": {"best on dev": best}, "rows": rows}

    models = {
        "raw, seed 0": found("ditto-1-1", 50.0, {"ditto-1-1": 60.0, "ditto-1-2": 10.0}),
        "other, seed 7": found("ditto-1-1", 1.0, {"ditto-1-1": 5.0}),
        "raw, seed 1": found("ditto-1-2", 53.0, {"ditto-1-1": 30.0, "ditto-1-2": 31.0}),
    }
    text = ditto.markdown({"hardware": "a CPU", "models": models})
    lines = text.splitlines()
    several, best, alone = [line for line in lines if line.startswith(("| raw", "| other"))][:3]
    assert several.startswith("| raw | `mean` |  | 51.50 ± 2.12 | ")
    name = "| raw | `ditto-1-1`, `ditto-1-2` (best on dev) | 0.25 ± 0.00 | 51.50 ± 2.12 | "
    assert best.startswith(name)
    assert alone.startswith("| other, seed 7 | `mean` |  | 1.00 | ")
    assert "| 1 | 45.0 (0.25) | 20.5 (0.25) |" in lines  # the mean of each head's seeds
    assert "first token's share, means of 2 seeds; layers" in text
