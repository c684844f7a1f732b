"""Fused attention against the plain one, what is lowered for CUDA, and where it is refused.

No GPU runs here. JAX's own form of what cuDNN computes (``"xla"``) is compared with ours, a kernel
for CPUs is called where cuDNN's would be, and the program for CUDA is read before it is compiled.
"""

import dataclasses
import pickle
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.interpreters import mlir

from simcse_jax import SentenceEncoder, cudnn, hub
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.encoder import fingerprint
from simcse_jax.models import Batch, BertConfig, BertEncoder, FirstTokenEncoder, SentenceModel
from simcse_jax.models.batch import same_segment

CALL = "__cudnn$fmha"
CONFIG = BertConfig(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=512,
)


def rows(length, sentences=(1, 30, 2, 40)):
    """Two rows of these sentences with padding after them, and a row of nothing but padding."""
    rng = np.random.default_rng(0)
    ids, segments, positions = np.zeros((3, 3, length), np.int32)
    start = 0
    for number, size in enumerate(sentences, 1):
        for row in (0, 1):
            segments[row, start : start + size] = number + row * len(sentences)
            positions[row, start : start + size] = np.arange(size)
        start += size
    ids[segments > 0] = rng.integers(1, 64, (segments > 0).sum())
    return Batch(ids, segments, positions)


@pytest.fixture(scope="module")
def params():
    return BertEncoder(CONFIG).init(jax.random.key(0), rows(128))


@pytest.fixture
def no_gpu_asked(monkeypatch):
    """JAX asks neither for cuDNN nor for a GPU: as if there were both, the GPU an A100."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(
        fused_attention_stablehlo, "check_compute_capability", lambda least: float(least) <= 8
    )


def scores_and_softmax(query, key, value, bias, *_, scale, **__):
    """What cuDNN computes, of what JAX gives it."""
    assert bias.dtype == query.dtype == jnp.bfloat16
    scores = jnp.einsum("RQNH,RKNH->RNQK", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores * scale + bias, axis=-1).astype(query.dtype)
    return jnp.einsum("RNQK,RKNH->RQNH", weights, value)


@pytest.fixture
def kernel(monkeypatch, no_gpu_asked):
    """A kernel for CPUs in the place of cuDNN's: ``compute`` is what it computes."""
    made = SimpleNamespace(compute=scores_and_softmax, shapes=[])

    def lowered(query, *others, **options):
        made.shapes.append(query.shape)
        return [made.compute(query, *others, **options)]

    mlir.register_lowering(
        fused_attention_stablehlo._dot_product_attention_fwd_p,
        mlir.lower_fun(lowered, multiple_results=True),
        platform="cpu",
    )
    monkeypatch.setattr(cudnn, "has_cudnn_attention", lambda device: True)
    cudnn.trial.cache_clear()
    yield made
    cudnn.trial.cache_clear()


@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("length", [128, 512])
def test_every_state_is_that_of_the_plain_attention(params, dtype, within, length):
    batch = rows(length)

    def states(attention):
        encoder = BertEncoder(CONFIG, jnp.dtype(dtype), attention)
        return jnp.stack(encoder.apply(params, batch)).astype(jnp.float32)

    found, expected = states("xla"), states("dense")
    assert found.shape == (3, 3, length, 32)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=within)  # of layer-normed values
    assert not np.array_equal(found, expected)  # it is another way to them


@pytest.mark.parametrize("pooling", ["cls", "mean", "ditto-2-1"])
def test_vectors_are_those_of_the_plain_attention(params, pooling):
    def vectors(attention):
        model = SentenceModel(CONFIG, pooling, attention=attention)
        variables = {"params": {"encoder": params["params"]}}
        return model.apply(variables, rows(128), num_sentences=8)

    np.testing.assert_allclose(vectors("xla"), vectors("dense"), atol=1e-5)
    assert not np.array_equal(vectors("xla"), vectors("dense"))


def test_every_query_has_a_key():
    allowed = np.asarray(same_segment(rows(128).segment_ids))[:, 0]
    assert allowed[:, np.arange(128), np.arange(128)].all()
    assert not allowed[0, 0, 1:].any()  # a sentence of one token
    assert allowed[2].all()


@pytest.mark.usefixtures("no_gpu_asked")
@pytest.mark.parametrize("kind", [BertEncoder, FirstTokenEncoder])
@pytest.mark.parametrize(
    ("attention", "length", "dropout", "buckets", "calls"),
    [
        ("cudnn", 128, False, 0, True),
        ("cudnn", 256, False, 0, True),
        ("cudnn", 512, False, 0, True),
        ("cudnn", 64, False, 0, False),
        ("cudnn", 100, False, 0, False),
        ("cudnn", 128, True, 0, False),
        ("cudnn", 128, False, 32, False),
        ("dense", 512, False, 0, False),
    ],
)
def test_what_is_lowered_for_cuda(kind, attention, length, dropout, buckets, calls):
    config = dataclasses.replace(CONFIG, relative_attention_num_buckets=buckets)
    batch = rows(length, (1, 30))
    keys = jax.random.split(jax.random.key(0), 4) if dropout else None
    options = {} if kind is BertEncoder else {"num_sentences": 4}
    plain = jax.eval_shape(lambda: kind(config).init(jax.random.key(0), batch, **options))
    model = kind(config, jnp.bfloat16, attention)

    def encode(params, batch, keys):
        return model.apply(params, batch, keys, **options)

    traced = jax.jit(encode).trace(plain, batch, keys)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    layers = 2 if kind is BertEncoder else 1  # the last one of first tokens is its own
    # Of cuDNN's own products there are none outside its call.
    products = "tensor<3x4x" + f"{length}x{length}xf32>"
    assert text.count(f"@{CALL}ScaleBiasSoftmax(") == (layers if calls else 0)
    assert text.count(CALL) == text.count(f"@{CALL}ScaleBiasSoftmax(")
    assert (products in text) != calls


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash"}, "^attention is 'flash'; it must be one of dense, cudnn$"),
        (
            {"attention": "cudnn"},
            "^attention is 'cudnn' and dtype 'float32'; cuDNN's attention needs dtype 'bfloat16'$",
        ),
        ({"attention": "cudnn", "dtype": "int8"}, "and dtype 'int8'"),
        (
            {"attention": "cudnn", "dtype": "bfloat16"},
            "^attention is 'cudnn'; it must be 'dense' on cpu: cuDNN's needs an NVIDIA GPU of "
            "compute capability 8.0 or later$",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_where_it_cannot_be_had(golden, options, message):
    with pytest.raises(ValueError, match=message):
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", **options)


def test_a_model_with_relative_positions_is_refused(golden):
    options = {"pooling": "mean", "dtype": "bfloat16", "attention": "cudnn"}
    message = "^attention is 'cudnn'; it must be 'dense' for a model with relative positions$"
    with pytest.raises(ValueError, match=message):
        SentenceEncoder.from_pretrained(golden / "tiny-mpnet", **options)


@pytest.mark.parametrize(
    ("version", "capability", "can"),
    [
        ("PJRT C API\ncuda 12080", "8.0", True),
        ("PJRT C API\ncuda 12080", "10.3", True),
        ("PJRT C API\ncuda 12080", "7.5", False),
        ("rocm 60000", "gfx942", False),
        ("cpu", None, False),
    ],
)
def test_devices_that_can_do_it(version, capability, can):
    client = SimpleNamespace(platform_version=version)
    device = SimpleNamespace(client=client, compute_capability=capability)
    assert cudnn.has_cudnn_attention(device) == can


def test_a_trial_without_cudnn_says_so(monkeypatch):
    monkeypatch.setattr(cudnn, "has_cudnn_attention", lambda device: True)
    message = "^attention is 'cudnn', which cannot be had here: cuDNN is not detected; update JAX"
    with pytest.raises(ValueError, match=message):
        cudnn.check_cudnn(CONFIG, jnp.dtype("bfloat16"), jax.devices()[:1])


@pytest.mark.usefixtures("no_gpu_asked")
@pytest.mark.parametrize("size", [12, 136])
def test_a_trial_with_heads_that_cudnn_has_not_says_so(monkeypatch, size):
    monkeypatch.setattr(cudnn, "has_cudnn_attention", lambda device: True)
    config = dataclasses.replace(CONFIG, hidden_size=4 * size)
    with pytest.raises(ValueError, match=f"head dim must be <= 128 .* but got {size}; update"):
        cudnn.check_cudnn(config, jnp.dtype("bfloat16"), jax.devices()[:1])


@pytest.mark.parametrize("devices", [1, 4])
def test_a_trial_spreads_its_rows_over_the_devices(kernel, devices):
    cudnn.check_cudnn(CONFIG, jnp.dtype("bfloat16"), jax.devices()[:devices])
    assert set(kernel.shapes) == {(2, 128, 4, 8), (2, 512, 4, 8)}  # of each device


@pytest.mark.parametrize(
    ("wrong", "off"),
    [
        (lambda q, k, v, bias, *rest, **how: scores_and_softmax(q, k, v, bias * 0, **how), "[0-9]"),
        (lambda q, *rest, **how: scores_and_softmax(q * 1.2, *rest, **how), "0.[0-9]+"),
        (lambda *arrays, **how: scores_and_softmax(*arrays, **how) * jnp.nan, "nan"),
    ],
    ids=["no mask", "another scale", "NaN"],
)
def test_a_trial_sees_what_is_wrong(kernel, wrong, off):
    kernel.compute = wrong
    message = f"^attention is 'cudnn', whose results are {off}.* off on cpu; leave it at 'dense'$"
    with pytest.raises(ValueError, match=message):
        cudnn.check_cudnn(CONFIG, jnp.dtype("bfloat16"), jax.devices()[:1])


@pytest.fixture
def long_model(golden):
    """The parts of a model of one layer with room for 512 tokens."""
    folder = golden / "tiny-bert"
    config, params = hub.load_params(folder, hub.read_config(folder), num_layers=1)
    embeddings = params["encoder"]["embeddings"]["position"]
    embeddings["embedding"] = np.resize(embeddings["embedding"], (512, config.hidden_size))
    config = dataclasses.replace(config, max_position_embeddings=512)
    tokenizer, settings = Tokenizer.from_folder(folder), hub.EncoderSettings()
    return (config, params, tokenizer, settings), {"dtype": "bfloat16"}


@pytest.mark.parametrize("devices", [1, 2])
def test_long_texts_go_there_and_short_ones_do_not(long_model, kernel, devices):
    parts, options = long_model
    options["devices"] = jax.devices()[:devices]
    plain, asked = (
        SentenceEncoder(*parts, **options, attention=name) for name in ("dense", "cudnn")
    )
    kernel.shapes.clear()
    short, long = ["a dog", "the man plays"], ["a loud cat " * 30]
    np.testing.assert_array_equal(asked.encode(short), plain.encode(short))
    dropped = [encoder.encode(long, dropout_seed=1) for encoder in (asked, plain)]
    np.testing.assert_array_equal(*dropped)
    assert not kernel.shapes
    found, expected = (encoder.encode([*short, *long]) for encoder in (asked, plain))
    assert {shape[1] for shape in kernel.shapes} == {128}
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert not np.array_equal(found[2:], expected[2:])


def test_an_encoder_tells_of_it(long_model, kernel):
    parts, options = long_model
    plain, asked = (
        SentenceEncoder(*parts, **options, attention=name) for name in ("dense", "cudnn")
    )
    assert "attention='cudnn'" in repr(asked)
    assert "attention" not in repr(plain)
    assert asked.with_transform(None).attention == "cudnn"
    assert fingerprint(asked) != fingerprint(plain)
    assert pickle.loads(pickle.dumps(asked)).attention == "cudnn"
