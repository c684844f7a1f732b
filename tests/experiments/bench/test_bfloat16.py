"""The comparison of compute types, on a tiny model."""

import json

import pytest

from experiments.bench import bfloat16


@pytest.mark.slow
def test_bfloat16_is_measured_against_float32(golden, tiny_data, tmp_path):
    output = tmp_path / "bfloat16.json"
    settings = bfloat16.Bfloat16Comparison(
        model=str(golden / "tiny-bert"),
        data=tiny_data,
        train_file=tiny_data / "text.txt",
        batches=1,
        batch_size=4,
        poolings=("mean",),
        output=output,
    )
    bfloat16.main(settings)
    value = json.loads(output.read_text())
    assert 0 < value["gradient"]["whole"] < 0.5
    assert set(value["gradient"]["parts"]) >= {"embeddings", "layer_0", "head"}
    assert 0 < value["sts"]["mean"]["vectors_median"] < 0.02
    assert "STS-B test, float32 and bfloat16" in output.with_suffix(".md").read_text()
