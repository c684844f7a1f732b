"""Ditto's table: every head at once gives what one at a time gives, and the rows of the best."""

import numpy as np
import pytest
from ditto_by_hand import weights_by_hand

from experiments.tables import ditto
from simcse_jax import SentenceEncoder
from simcse_jax.data.senteval import StsTask, read_sts, read_stsb
from simcse_jax.io import read_json
from simcse_jax.models import BertEncoder, one_a_row


def test_all_heads_at_once_are_each_head_alone(tiny_data, golden):
    model = str(golden / "tiny-bert")
    config = SentenceEncoder.from_pretrained(model, pooling="mean").config
    dev = read_stsb(tiny_data, "dev")
    found = ditto.score_heads(model, dev)
    assert list(found) == ditto.heads(config)
    last = f"ditto-{config.num_hidden_layers}-{config.num_attention_heads}"
    for pooling in ("ditto-1-1", last):
        alone = ditto.score(model, pooling, [StsTask("dev", (dev,))])["dev"]
        assert found[pooling]["dev"] == pytest.approx(alone, abs=0.5)  # ranks of few pairs


def test_the_first_tokens_share(tiny_data, golden):
    """A sentence at a time, with the attention computed in float64."""
    model = str(golden / "tiny-bert")
    encoder = SentenceEncoder.from_pretrained(model, pooling="mean")
    config, params = encoder.config, encoder.params["encoder"]
    dev = read_stsb(tiny_data, "dev")
    found = ditto.score_heads(model, dev)
    sentences = list(dict.fromkeys((*dev.sentences1, *dev.sentences2)))
    for layer, head in ((1, 1), (config.num_hidden_layers, config.num_attention_heads)):
        shares = []
        for ids in encoder.tokenizer(sentences, config.max_length)[0]:
            batch = one_a_row(np.asarray(ids)[None], np.ones((1, len(ids))))
            state = BertEncoder(config).apply({"params": params}, batch)[layer - 1][0]
            weights = weights_by_hand(config, params, np.asarray(state, np.float64), layer, head)
            shares.append(weights[0] / weights.sum())
        wanted = np.mean(shares)
        assert found[f"ditto-{layer}-{head}"]["first"] == pytest.approx(wanted, abs=1e-5)


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


def found(best, scores, shares):
    """What `measure` returns of a model with heads 1 and 2 in one layer, scores the same a row."""
    rows = {pooling: dict.fromkeys(ditto.COLUMNS, score) for pooling, score in scores.items()}
    heads = {p: {"dev": scores[p], "first": share} for p, share in shares.items()}
    return {"heads": heads, "best": {"best on dev": best}, "rows": rows}


ONE, TWO = "ditto-1-1", "ditto-1-2"


def test_seeds_of_one_model_share_their_rows():
    models = {
        "raw, seed 0": found(ONE, {"mean": 50.0, ONE: 60.0, TWO: 10.0}, {ONE: 0.2, TWO: 0.1}),
        "other, seed 7": found(ONE, {"mean": 1.0, ONE: 5.0}, {ONE: 0.25}),
        "raw, seed 1": found(TWO, {"mean": 53.0, ONE: 30.0, TWO: 66.0}, {ONE: 0.3, TWO: 0.4}),
        "raw, seed 2": found(ONE, {"mean": 53.0, ONE: 66.0, TWO: 50.0}, {ONE: 0.4, TWO: 0.4}),
    }
    text = ditto.markdown({"hardware": "a CPU", "models": models})
    lines = text.splitlines()
    several, best, alone = [line for line in lines if line.startswith(("| raw", "| other"))][:3]
    assert several.startswith("| raw | `mean` |  | 52.00 ± 1.73 | ")
    # Of each seed its own best: 60, 66 and 66, with 0.2, 0.4 and 0.4 of the first token's weight.
    name = f"| raw | `{ONE}`, `{TWO}`, `{ONE}` (best on dev) | 0.33 ± 0.12 | 64.00 ± 3.46 | "
    assert best.startswith(name)
    assert alone.startswith("| other, seed 7 | `mean` |  | 1.00 | ")
    assert "| 1 | 52.0 (0.30) | 42.0 (0.30) |" in lines  # the mean of each head's seeds
    assert "first token's share, means of 3 seeds; layers" in text


def test_what_is_no_seed_is_not_averaged_as_one(tmp_path):
    own = {ONE: 5.0, "mean": 1.0}
    models = {"raw": found(ONE, own, {ONE: 0.2}), "raw, seed 0": found(ONE, own, {ONE: 0.2})}
    assert list(ditto.by_name(models)) == ["raw", "raw, seed 0"]
    more = found(ONE, {**own, TWO: 4.0}, {ONE: 0.2, TWO: 0.2})
    with pytest.raises(ValueError, match="the seeds of raw differ in their heads"):
        ditto.by_name({"raw, seed 0": models["raw"], "raw, seed 1": more})
    with pytest.raises(ValueError, match="two models have the same label"):
        ditto.DittoTable(tmp_path, ("a", "b"), ("c", "c"))


def test_the_committed_table_is_drawn_from_its_numbers(results_folder):
    results = read_json(results_folder / "ditto.json")
    assert ditto.markdown(results) == (results_folder / "ditto.md").read_text()
