"""Live comparisons with torch, transformers and sentence-transformers (`make test-oracle`)."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax import SentenceEncoder, hub
from simcse_jax.data.embedded import minilm_folder
from simcse_jax.models import BertConfig, BertEncoder, SentenceModel, one_a_row
from simcse_jax.transforms import Flow, FlowConfig, Whitening

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
st = pytest.importorskip("sentence_transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = [
    "A man plays a flute.",
    "dog",
    "",
    "The quick brown fox jumps over the lazy dog, and then it rests for a good long while.",
    "Zürich: naïve cafés cost €5!",
]


def torch_model(model_type, seed):
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 48,
        "num_hidden_layers": 2 + seed,
        "num_attention_heads": 6,
        "intermediate_size": 80,
        "vocab_size": 99,
        "max_position_embeddings": 40,
        "hidden_act": ("gelu", "gelu_new", "relu")[seed],
    }
    if model_type == "bert":
        model = transformers.BertModel(transformers.BertConfig(**shape))
    elif model_type == "mpnet":
        shape["max_position_embeddings"] = 240
        model = transformers.MPNetModel(transformers.MPNetConfig(**shape))
    elif model_type == "electra":
        model = transformers.ElectraModel(transformers.ElectraConfig(**shape, embedding_size=20))
    else:
        config = transformers.RobertaConfig(
            **shape, pad_token_id=1, type_vocab_size=1, layer_norm_eps=1e-5
        )
        model = transformers.RobertaModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model.eval()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet", "electra"])
def test_random_models(model_type, seed, tmp_path):
    """A folder that transformers wrote: every hidden state to 1e-5, gradients to 1e-4."""
    model = torch_model(model_type, seed)
    model.save_pretrained(tmp_path)
    config, params = hub.load_params(tmp_path, hub.read_config(tmp_path))
    rng = np.random.default_rng(seed)
    longest = 200 if model_type == "mpnet" else 20  # through all of its buckets
    mask = np.arange(longest)[None] < rng.integers(1, longest + 1, 8)[:, None]
    ids = np.where(mask, rng.integers(2, 99, mask.shape), config.pad_token_id)

    theirs = model(torch.tensor(ids), torch.tensor(mask), output_hidden_states=True)
    batch = one_a_row(jnp.asarray(ids), jnp.asarray(mask))
    ours = BertEncoder(config).apply({"params": params["encoder"]}, batch)
    for a, b in zip(ours, theirs.hidden_states, strict=True):
        difference = np.where(mask[..., None], np.asarray(a) - b.detach().numpy(), 0)
        assert np.abs(difference).max() < 1e-5

    def mean_of_squares(last, weights, module):
        return module.tanh((last * weights).sum(1)).sum()

    weights = mask[..., None] / mask.sum(1)[:, None, None]
    mean_of_squares(theirs.last_hidden_state, torch.tensor(weights), torch).backward()
    gradient = jax.grad(
        lambda p: mean_of_squares(
            BertEncoder(config).apply({"params": p}, batch)[-1], jnp.asarray(weights), jnp
        )
    )(params["encoder"])
    names = hub.to_torch_names(config, {"encoder": gradient})
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert name.startswith("pooler")
            continue
        difference = np.abs(names[name] - parameter.grad.numpy())
        if name == "embeddings.word_embeddings.weight":
            difference[config.pad_token_id] = 0  # torch holds its padding row fixed
        assert difference.max() < 1e-4, name


@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet", "electra"])
def test_ditto_is_the_diagonal_of_transformers_attentions(model_type, tmp_path):
    """As the authors' ``evaluation_ditto.py`` pools, but for the sum of the weights."""
    model = torch_model(model_type, 0)
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")  # the others hand out no attentions
    config, params = hub.load_params(tmp_path, hub.read_config(tmp_path))
    rng = np.random.default_rng(0)
    mask = np.arange(20)[None] < rng.integers(1, 21, 8)[:, None]
    ids = np.where(mask, rng.integers(2, 99, mask.shape), config.pad_token_id)
    tensors, shown = (torch.tensor(ids), torch.tensor(mask)), {"output_hidden_states": True}
    with torch.no_grad():
        theirs = model(*tensors, output_attentions=True, **shown)
    layer, head = config.num_hidden_layers, config.num_attention_heads
    weights = torch.diagonal(theirs.attentions[layer - 1][:, head - 1], dim1=1, dim2=2) * tensors[1]
    mean = (theirs.hidden_states[0] + theirs.hidden_states[-1]) / 2
    wanted = (mean * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
    ours = SentenceModel(config, f"ditto-{layer}-{head}").apply(
        {"params": {"encoder": params["encoder"]}},
        one_a_row(jnp.asarray(ids), jnp.asarray(mask)),
        num_sentences=len(ids),
    )
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_ditto_is_refused_by_sentence_transformers(tmp_path):
    ours = SentenceEncoder.from_pretrained("minilm", num_layers=2, pooling="ditto-1-10")
    ours.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="simcse_jax.models.Ditto"):
        st.SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_minilm_every_hidden_state():
    model = transformers.BertModel.from_pretrained(minilm_folder()).eval()
    encoder = SentenceEncoder.from_pretrained("minilm")
    for text in TEXTS:
        ids = encoder.tokenizer([text])[0][0][None]
        with torch.no_grad():
            theirs = model(torch.tensor(ids), output_hidden_states=True).hidden_states
        batch = one_a_row(jnp.asarray(ids), jnp.ones(ids.shape, bool))
        ours = BertEncoder(encoder.config).apply({"params": encoder.params["encoder"]}, batch)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "pooling",
    ["cls", "pooler", "mean", "max", "last-2", "first-last", "embedding-last", "layer-2"],
)
def test_a_saved_model_in_sentence_transformers(pooling, tmp_path):
    """Saved by us, loaded by sentence-transformers: the same embeddings."""
    ours = SentenceEncoder.from_pretrained("minilm", pooling=pooling, num_layers=4)
    ours.save_pretrained(tmp_path / "model")
    theirs = st.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("k", [None, 64])
def test_a_whitened_model_in_sentence_transformers(k, normalize, tmp_path):
    """Whitening becomes a Dense module there, and the same embeddings."""
    sentences = [" ".join(TEXTS[i % len(TEXTS)].split()[: 1 + i % 7]) + f" {i}" for i in range(500)]
    raw = SentenceEncoder.from_pretrained("minilm", num_layers=4, normalize=False)
    fitted = Whitening.fit(raw.encode(sentences), k, floor=None if k else 1e-4)
    ours = raw.with_transform(dataclasses.replace(fitted, normalize=normalize))
    ours.save_pretrained(tmp_path / "model")
    theirs = st.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-4, rtol=0)
    theirs.save_pretrained(str(tmp_path / "again"))  # without our own files
    back = SentenceEncoder.from_pretrained(tmp_path / "again")
    np.testing.assert_allclose(ours.encode(TEXTS), back.encode(TEXTS), atol=1e-4, rtol=0)


def test_a_flow_is_refused_by_sentence_transformers(tmp_path):
    raw = SentenceEncoder.from_pretrained("minilm", num_layers=2, normalize=False)
    flow = Flow.fit(raw.encode(TEXTS), FlowConfig(levels=1, depth=1), epochs=0)
    raw.with_transform(flow).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="simcse_jax.transforms.Flow"):
        st.SentenceTransformer(str(tmp_path / "model"), device="cpu")


TINY = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "mpnet", "electra")


@pytest.mark.parametrize("name", [f"tiny-{kind}" for kind in TINY])
def test_a_saved_model_in_transformers(golden, name, tmp_path):
    ours = SentenceEncoder.from_pretrained(golden / name, pooling="cls")
    ours.save_pretrained(tmp_path / "model")
    model, report = transformers.AutoModel.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    # The tiny files of the later kinds have a masked-LM head in the pooler's place.
    missing = set() if "pooler" in ours.params else {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(report["missing_keys"]) <= missing
    ids = ours.tokenizer(["a dog eats"])[0][0]
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ids[None])).last_hidden_state[0, 0]
    np.testing.assert_allclose(ours.encode(["a dog eats"])[0], theirs, atol=1e-5)


@pytest.mark.parametrize("name", [f"tiny-{kind}" for kind in TINY])
def test_sentence_transformers_gives_the_same_vectors(golden, name, tmp_path):
    """From the folder that we save, and we from the one that it saves."""
    folder = shutil.copytree(golden / name, tmp_path / "start")
    # What published folders have: without it transformers makes a tokenizer of another kind.
    wordpiece = name in ("tiny-bert", "tiny-distilbert", "tiny-electra")
    words = ("[PAD]", "[UNK]") if wordpiece else ("<pad>", "<unk>")
    names = dict(zip(("pad_token", "unk_token"), words, strict=True))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    ours = SentenceEncoder.from_pretrained(folder, pooling="mean")
    ours.save_pretrained(tmp_path / "ours")
    theirs = st.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    theirs.save_pretrained(str(tmp_path / "theirs"))
    texts = ["a man plays a", "dog", "the loud cat eats"]
    back = SentenceEncoder.from_pretrained(tmp_path / "theirs")
    for encoder in (ours, back):
        np.testing.assert_allclose(encoder.encode(texts), theirs.encode(texts), atol=1e-5, rtol=0)


def test_a_folder_that_sentence_transformers_wrote(tmp_path):
    """The newer layout: `embedding_dimension`, `pooling_mode`, `base.modules` type names."""
    theirs = st.SentenceTransformer(str(minilm_folder()), device="cpu")
    theirs.save_pretrained(str(tmp_path))
    ours = SentenceEncoder.from_pretrained(tmp_path)
    assert ours.settings.pooling == "mean"
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5, rtol=0)


def test_a_random_tiny_model_of_each_size_round_trips(tmp_path):
    """Torch to us to torch: not a bit is lost."""
    model = torch_model("bert", 0)
    model.save_pretrained(tmp_path)
    config, params = hub.load_params(tmp_path, hub.read_config(tmp_path))
    assert isinstance(config, BertConfig)
    back = hub.to_torch_names(config, params)
    for name, tensor in model.state_dict().items():
        if "position_ids" not in name and "token_type_ids" not in name:
            np.testing.assert_array_equal(back[name], tensor.numpy())
