"""Weights and architectures: the table of names, and what is refused."""

import re
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hub_support import assert_same, change_json, change_weights, load
from safetensors.numpy import load_file, save_file

from simcse_jax import hub
from simcse_jax.hub.names import FAMILIES, config_to_json, tables
from simcse_jax.hub.weights import expected_shapes
from simcse_jax.io import read_json, write_json
from simcse_jax.models import MODEL_TYPES, BertEncoder, one_a_row


def test_the_prefix_and_the_old_names_make_no_difference(folder):
    expected = load(folder)
    prefix = expected[0].model_type + "."

    def rename(tensors):
        new = {}
        for name, tensor in tensors.items():
            name = name.removeprefix(prefix)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            new[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
        new["embeddings.position_ids"] = np.arange(24)[None]
        return new

    change_weights(folder, rename)
    assert_same(load(folder), expected)


def test_half_precision_weights_are_widened(folder):
    for dtype in (np.float16, ml_dtypes.bfloat16):
        expected = load(folder)[1]["encoder"]["embeddings"]["word"]["embedding"].astype(dtype)
        change_weights(folder, lambda t, d=dtype: {k: v.astype(d) for k, v in t.items()})
        word = load(folder)[1]["encoder"]["embeddings"]["word"]["embedding"]
        assert word.dtype == np.float32
        np.testing.assert_array_equal(word, expected.astype(np.float32))


def test_shards_are_joined(folder):
    expected = load(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, chosen in parts.items():
        save_file({n: tensors[n] for n in chosen}, folder / file)
    index = {"weight_map": {n: file for file, chosen in parts.items() for n in chosen}}
    write_json(folder / "model.safetensors.index.json", index)
    assert_same(load(folder), expected)


def test_the_first_layers_are_kept(folder):
    config, params = load(folder, num_layers=2)
    assert config.num_hidden_layers == 2
    assert {k for k in params["encoder"] if k.startswith("layer")} == {"layer_0", "layer_1"}
    for wrong in (0, 4):
        with pytest.raises(ValueError, match="layers 1 to 3"):
            load(folder, num_layers=wrong)


@pytest.mark.parametrize(("head", "names"), [("pooler", "pooler."), ("mlm", ("cls.", "lm_head."))])
def test_heads_are_optional(folder, head, names, caplog):
    change_weights(
        folder,
        lambda t: {
            k: v for k, v in t.items() if not re.sub(r"^(ro)?berta?\.", "", k).startswith(names)
        },
    )
    with caplog.at_level("INFO"):
        _, params = load(folder)
    assert head not in params
    assert f"has no {head}" in caplog.text


def test_a_part_of_a_head_is_left_over(folder):
    change_weights(folder, lambda t: {k: v for k, v in t.items() if "pooler.dense.bias" not in k})
    with pytest.raises(ValueError, match=r"pooler\.dense\.weight, which no part"):
        load(folder)


def test_a_missing_tensor_is_named(folder):
    name = "encoder.layer.1.attention.self.key.bias"
    change_weights(folder, lambda t: {k: v for k, v in t.items() if name not in k})
    with pytest.raises(ValueError, match=f"lacks tensor {name}"):
        load(folder)


def test_a_left_over_tensor_is_named(folder):
    change_weights(folder, lambda t: t | {"classifier.weight": np.zeros((2, 32), np.float32)})
    with pytest.raises(ValueError, match=r"has tensor classifier\.weight"):
        load(folder)


def test_a_layer_beyond_the_config_is_left_over(folder):
    raw = read_json(folder / "config.json")
    write_json(folder / "config.json", raw | {"num_hidden_layers": 2})
    with pytest.raises(ValueError, match=r"encoder\.layer\.2"):
        load(folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "'t5'; only bert, roberta, "),
        ({"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({"hidden_act": "cube"}, "hidden_act"),
    ],
)
def test_a_config_that_is_not_ours(folder, change, message):
    raw = read_json(folder / "config.json")
    write_json(folder / "config.json", raw | change)
    with pytest.raises(ValueError, match=message):
        hub.read_config(folder)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": -1}, "num_attention_heads is -1"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not divisible by num_attention_heads 5"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'"),
        ({"hidden_size": 32.0}, "hidden_size is 32.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 10**30}, "hidden_size is 10"),
        ({"vocab_size": [64]}, "vocab_size is"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"max_position_embeddings": 1}, "leaves -?[01] positions"),
        ({"pad_token_id": -3}, "pad_token_id is -3"),
        ({"pad_token_id": 64}, "pad_token_id is 64; vocab_size is 64"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps is 'tiny'"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5"),
        ({"initializer_range": -1}, "initializer_range is -1"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"model_type": ["bert"]}, "only bert, roberta, "),
        ({"is_decoder": True}, "its attention looks back only"),
        ({"pruned_heads": {"0": [1]}}, "heads are cut out"),
        ({"auto_map": {"AutoModel": "mine.Model"}}, "code of its own"),
    ],
)
def test_a_config_that_cannot_be(folder, change, message):
    change_json(folder / "config.json", **change)
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        hub.read_config(folder)


def test_json_of_another_type_is_refused(folder):
    for file, read in (
        ("config.json", hub.read_config),
        ("model.safetensors.index.json", hub.weight_files),
    ):
        (folder / "model.safetensors").unlink(missing_ok=True)
        for value in ([], "text", 3, None, [{}]):
            write_json(folder / file, value)
            with pytest.raises(ValueError, match=f"{file} holds a .*; it must be a JSON object"):
                read(folder)
    for value in ({}, {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": {"a": "../b"}},
                  {"weight_map": {"a": "b" * 300}}):  # fmt: skip
        write_json(folder / "model.safetensors.index.json", value)
        with pytest.raises(ValueError, match="weight_map must name a file of the folder"):
            hub.weight_files(folder)


def test_a_config_that_is_broken_or_absent(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json, line 1: not JSON"):
        hub.read_config(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="is this a model folder"):
        hub.read_config(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: np.where(np.arange(x.size).reshape(x.shape) == 3, np.nan, x), "NaN or infinite"),
        (
            lambda x: np.where(np.arange(x.size).reshape(x.shape) == 3, -np.inf, x),
            "NaN or infinite",
        ),
        (lambda x: np.full(x.shape, 1e300), "NaN or infinite"),
        (lambda x: x.astype(np.int32), "is of int32; weights must be floating point"),
        (lambda x: x > 0, "is of bool; weights must be floating point"),
    ],
    ids=["nan", "infinite", "beyond float32", "integers", "truth values"],
)
def test_numbers_that_are_no_weights_are_named(folder, spoil, message):
    for name, tensor in used_tensors(folder).items():
        change_weights(folder, lambda t, n=name, x=tensor: t | {n: spoil(x)})
        with pytest.raises(ValueError, match=rf"model\.safetensors: tensor {name} .*{message}"):
            load(folder)
        change_weights(folder, lambda t, n=name, x=tensor: t | {n: x})
    load(folder)


def test_large_weights_whose_sum_overflows_are_weights(folder):
    name = next(iter(used_tensors(folder)))
    change_weights(folder, lambda t: t | {name: np.full_like(t[name], 3e38)})
    load(folder)


def test_a_tensor_that_is_there_twice_is_refused(folder):
    change_weights(folder, lambda t: t | {"embeddings.LayerNorm.gamma": np.ones(32, np.float32)})
    with pytest.raises(ValueError, match=r"LayerNorm\.\w+ and .*, which are the same"):
        load(folder)


def test_the_head_of_simcse_is_the_pooler(golden, tmp_path):
    """SimCSE's own code saves it as ``mlp``, and BERT's masked-LM head as ``lm_head``."""
    shutil.copytree(golden / "tiny-bert", tmp_path / "model")
    expected = load(tmp_path / "model")
    change_weights(
        tmp_path / "model",
        lambda t: {
            k.replace("bert.pooler.", "mlp.").replace("cls.predictions.", "lm_head."): v
            for k, v in t.items()
        },
    )
    assert any("mlp.dense" in name for name in load_file(tmp_path / "model" / "model.safetensors"))
    assert_same(load(tmp_path / "model"), expected)


# ---------------------------------------------------------------------------------------------
# Shapes
# ---------------------------------------------------------------------------------------------


def paths(tree):
    return {tuple(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_the_table_names_every_parameter_of_the_modules(folder):
    config, params = load(folder)
    expected = expected_shapes(config)
    found = {part: {entry.path for entry in table} for part, table in tables(config).items()}
    assert found == {part: paths(tree) for part, tree in expected.items()}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), expected
    )


def test_one_layer_stands_for_all(folder):
    """The shapes are those of the whole encoder, traced as it is."""
    config = hub.read_config(folder)
    ids = jnp.zeros((1, 1), jnp.int32)
    whole = jax.eval_shape(BertEncoder(config).init, jax.random.key(0), one_a_row(ids, ids == 0))
    assert expected_shapes(config)["encoder"] == whole["params"]


def used_tensors(folder):
    """The file's tensors that are read, by their names there."""
    ignored = re.compile(r"position_ids|decoder|seq_relationship")
    return {
        k: v for k, v in load_file(folder / "model.safetensors").items() if not ignored.search(k)
    }


def test_a_wrong_shape_is_named(folder):
    """Each tensor, a row too long or of another rank, alone and by its name in the file."""
    for name, tensor in used_tensors(folder).items():
        longer = np.concatenate([tensor, tensor[:1]])
        for wrong in (longer, tensor[None], tensor.reshape(-1)):
            if wrong.shape == tensor.shape:
                continue  # a vector is flat already
            change_weights(folder, lambda t, n=name, w=wrong: t | {n: w})
            message = f"tensor {name} has shape {wrong.shape} instead of {tensor.shape}"
            with pytest.raises(ValueError, match=re.escape(message) + "$"):
                load(folder)
        change_weights(folder, lambda t, n=name, right=tensor: t | {n: right})
    load(folder)


def test_wrong_shapes_cannot_make_up_for_each_other(folder):
    """The fused query, key and value would have the right shape."""
    attention = f"{hub.read_config(folder).model_type}.encoder.layer.0.attention.self"
    query, key = (f"{attention}.{name}.bias" for name in ("query", "key"))
    change_weights(folder, lambda t: t | {query: np.ones(30, "f4"), key: np.ones(34, "f4")})
    message = f"tensors {query} has shape (30,) instead of (32,), {key} has shape (34,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        load(folder)


def test_all_wrong_shapes_are_counted(folder):
    raw = read_json(folder / "config.json")
    write_json(folder / "config.json", raw | {"vocab_size": 65})
    with pytest.raises(
        ValueError, match=r"word_embeddings\.weight has shape \(64, 32\) instead of"
    ):
        load(folder)
    write_json(folder / "config.json", raw | {"intermediate_size": 8})
    with pytest.raises(ValueError, match=r"instead of \(8, 32\), .* and 5 more"):
        load(folder)


MODELS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra")


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_written_says_what_was_read(golden, kind):
    """Our ``config.json`` has transformers' names of the kind, and no others."""
    raw = read_json(golden / f"tiny-{kind}" / "config.json")
    written = config_to_json(hub.read_config(golden / f"tiny-{kind}"))
    (architecture,) = written.pop("architectures")
    assert architecture.removesuffix("Model").lower() == kind.replace("-", "")
    assert written == {name: raw[name] for name in written}
    sizes = {name for name in raw if name.endswith(("_size", "dim", "_layers", "_heads", "_act"))}
    assert sizes <= written.keys()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("mpnet", {"relative_attention_num_buckets": 64}, "must be 32"),
        ("bert", {"type_vocab_size": 0}, "has one at least"),
        ("electra", {"embedding_size": 0}, "embedding_size is 0"),
        ("electra", {"embedding_size": 32}, "embeddings_project"),
        ("distilbert", {"dim": 30}, "hidden_size 30 is not divisible"),
    ],
)
def test_a_relative_that_cannot_be_is_refused(golden, tmp_path, kind, change, message):
    folder = shutil.copytree(golden / f"tiny-{kind}", tmp_path / "model")
    change_json(folder / "config.json", **change)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_heads_that_have_no_use_here_are_passed_over(golden, tmp_path):
    """As the published ELECTRA and DistilBERT have them."""
    for kind, name in (
        ("electra", "discriminator_predictions.dense.weight"),
        ("electra", "generator_lm_head.bias"),
        ("distilbert", "vocab_projector.weight"),
        ("mpnet", "lm_head.decoder.bias"),
    ):
        folder = shutil.copytree(golden / f"tiny-{kind}", tmp_path / name)
        expected = load(folder)
        change_weights(folder, lambda t, n=name: t | {n: np.zeros(3, np.float32)})
        assert_same(load(folder), expected)


def test_every_model_type_has_its_names():
    assert set(FAMILIES) == set(MODEL_TYPES) == set(MODELS)
