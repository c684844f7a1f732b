"""SimCSE's update against plain references, its randomness, and its metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_support import (
    SEED,
    a_sentence_a_row,
    init,
    make_batch,
    make_examples,
    packed,
    padded,
    update,
    worst,
)

from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.evaluation import geometry
from simcse_jax.losses.geometry import alignment, uniformity
from simcse_jax.losses.masked_lm import IGNORED
from simcse_jax.models import BertEncoder, SentenceModel, one_a_row
from simcse_jax.objectives import MaskedLM, SimCSE, sentence_keys, stream
from simcse_jax.objectives.masked_lm import (
    MaskingTokens,
    mask_tokens,
    masking_tokens,
    word_embeddings,
)
from simcse_jax.objectives.objective import other_keys

KEY = jax.random.key(SEED)


def reference_loss(tiny, objective, examples, pooling="cls"):
    """The equations sentence by sentence and pair by pair; masks alone are shared with the step."""
    size, columns = len(examples), len(examples[0])
    ids, mask = padded(examples)
    numbers = jnp.arange(size * columns)[None]
    keys = sentence_keys(stream(KEY, "dropout", 0), numbers)
    encoder = BertEncoder(tiny.config)

    def hidden(params, ids, mask, key):
        row = one_a_row(ids[None], mask[None])
        return encoder.apply({"params": params["encoder"]}, row, key[None])[-1][0]

    def masked_lm(params, probability):
        mask_keys = sentence_keys(stream(KEY, "masking", 0), numbers)
        tokens = MaskingTokens(mask_id=4, special_ids=(0, 1, 2, 3, 4))
        vocab = tiny.config.vocab_size
        changed, labels = mask_tokens(one_a_row(ids, mask), mask_keys, tokens, vocab, probability)
        h = jax.vmap(hidden, (None, 0, 0, 0))(params, changed, mask, other_keys(keys, 1))
        head, words = params["mlm"], params["encoder"]["embeddings"]["word"]["embedding"]
        x = jax.nn.gelu(h @ head["dense"]["kernel"] + head["dense"]["bias"], approximate=False)
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12)
        x = x * head["norm"]["scale"] + head["norm"]["bias"]
        log_p = jax.nn.log_softmax(x @ words.T + head["bias"])
        terms = -jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
        return jnp.mean(terms, where=labels != IGNORED)

    def contrastive(params):
        z = jax.vmap(lambda i, m, k: hidden(params, i, m, k)[0], (0, 0, 0))(ids, mask, keys)
        if objective.head != "none":
            dense = params["head"]["dense"]
            z = jnp.tanh(z @ dense["kernel"] + dense["bias"])
        z = (z / jnp.linalg.norm(z, axis=1, keepdims=True)).reshape(size, columns, -1)
        total = 0.0
        for i in range(size):
            logits = [z[i, 0] @ z[j, 1] / objective.temperature for j in range(size)]
            logits += [
                z[i, 0] @ z[j, k] / objective.temperature
                + (objective.hard_negative_weight if i == j else 0)
                for k in range(2, columns)
                for j in range(size)
            ]
            total += jax.nn.logsumexp(jnp.stack(logits)) - logits[i]
        return total / size

    def loss(params):
        if isinstance(objective, MaskedLM):
            return masked_lm(params, objective.probability)
        total = contrastive(params)
        if objective.mlm_weight:
            total += objective.mlm_weight * masked_lm(params, objective.mlm_probability)
        return total

    return loss


@pytest.mark.parametrize(
    ("columns", "objective"),
    [
        pytest.param(1, SimCSE(mlm_weight=0.5), marks=pytest.mark.slow),
        (3, SimCSE(head="train_and_test", hard_negative_weight=0.7, temperature=0.1)),
        pytest.param(5, SimCSE(hard_negative_weight=0.7), marks=pytest.mark.slow),
        (1, MaskedLM(probability=0.3)),
    ],
    ids=["unsupervised with masked LM", "triplets", "three hard negatives", "masked LM"],
)
def test_gradient_is_that_of_the_equations(tiny, columns, objective):
    examples = make_examples(size=4, columns=columns)
    found, metrics = update(tiny, objective, packed(examples))
    loss = reference_loss(tiny, objective, examples)
    value, expected = jax.jit(jax.value_and_grad(loss))(init(tiny, objective))
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    norm = float(optax.tree.norm(expected))
    assert worst(found, expected) < 1e-5 * norm
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    assert ("mlm_loss" in metrics) == ("mlm" in expected)


@pytest.mark.parametrize(
    ("columns", "pooling", "objective"),
    [
        pytest.param(1, "cls", SimCSE(mlm_weight=0.5), marks=pytest.mark.slow),
        (3, "mean", SimCSE(head="none", shared_dropout=True)),
    ],
    ids=["one column, cls, masked LM", "triplets, mean, shared masks"],
)
def test_packing_changes_nothing_not_even_the_masks(tiny, columns, pooling, objective):
    examples = make_examples(size=8, columns=columns)
    examples[5] = examples[2]
    batch = packed(examples)
    assert len(batch.rows.input_ids) < batch.sentences.size / 2
    wanted, wanted_metrics = update(tiny, objective, a_sentence_a_row(examples), pooling)
    found, metrics = update(tiny, objective, batch, pooling)
    assert worst(found, wanted) < 1e-5 * max(1.0, float(wanted_metrics["gradient_norm"]))
    assert metrics.keys() == wanted_metrics.keys()
    assert metrics["duplicates"] == 1
    for name in metrics:
        np.testing.assert_allclose(
            metrics[name], wanted_metrics[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_two_encoders_each_see_their_own_column(tiny):
    """Equal encoders give the loss of one; each gets the gradient of its own column."""
    objective = SimCSE(two_encoders=True)
    batch = make_batch(size=4, columns=2)
    params = init(tiny, objective)
    assert set(params) == {"encoder", "head", "second"}
    found, metrics = update(tiny, objective, batch)
    wanted, wanted_metrics = update(tiny, dataclasses.replace(objective, two_encoders=False), batch)
    np.testing.assert_allclose(metrics["loss"], wanted_metrics["loss"], rtol=1e-6)
    # With equal parameters the two gradients are the parts of the one's.
    second = found.pop("second")
    norm = float(wanted_metrics["gradient_norm"])
    assert worst(jax.tree.map(jnp.add, found, second), wanted) < 1e-5 * norm
    assert min(float(optax.tree.norm(g)) for g in (found, second)) > 0.05 * norm
    assert set(objective.export(params)) == {"encoder"}


def test_the_views_have_masks_of_their_own(tiny):
    """Independent masks make distances; shared ones, the paper's "fixed 0.1", make none."""
    batch = make_batch(size=8)
    _, metrics = update(tiny, SimCSE(), batch)
    assert metrics["alignment"] > 1e-3
    _, metrics = update(tiny, SimCSE(shared_dropout=True), batch)
    assert metrics["alignment"] < 1e-10


def test_every_sentence_step_and_key_draws_other_masks(tiny):
    same = [[make_examples(size=1)[0][0]]] * 6
    batch = packed(same)
    model = SentenceModel(tiny.config, "mean")

    @jax.jit
    def encode(keys):
        params = {"encoder": tiny.params["encoder"]}
        return model.apply({"params": params}, batch.rows, keys, num_sentences=6)

    def at(key, step):
        return np.asarray(encode(sentence_keys(stream(key, "dropout", step), batch.sentences)))

    vectors = np.concatenate([at(KEY, 0), at(KEY, 1), at(jax.random.key(4), 0)])
    assert len(np.unique(vectors.round(6), axis=0)) == 18
    np.testing.assert_array_equal(at(KEY, 1), vectors[6:12])


def test_masking_is_80_10_10_of_15_percent(tiny):
    rows, length, vocab = 4000, 32, 1000
    random = np.random.default_rng(0)
    ids = jnp.asarray(random.integers(0, vocab, (rows, length)), jnp.int32)
    mask = jnp.arange(length) < jnp.asarray(random.integers(8, 33, (rows, 1)))
    keys = sentence_keys(KEY, jnp.arange(rows)[:, None])
    special = MaskingTokens(103, (0, 1, 2, 103))
    out, labels = mask_tokens(one_a_row(ids, mask), keys, special, vocab)

    chosen = labels != IGNORED
    eligible = mask & ~jnp.isin(ids, jnp.asarray(special.special_ids))
    assert not (chosen & ~eligible).any()
    np.testing.assert_array_equal(out[~chosen], ids[~chosen])
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    n = int(chosen.sum())
    # Four standard deviations of a binomial share.
    for share, expected, of in [
        (n / eligible.sum(), 0.15, int(eligible.sum())),
        ((out[chosen] == 103).mean(), 0.8 + 0.1 / vocab, n),
        ((out[chosen] == ids[chosen]).mean(), 0.1 + 0.1 / vocab, n),
    ]:
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / of)

    again = mask_tokens(one_a_row(ids[:2], mask[:2]), keys[:2], special, vocab)
    np.testing.assert_array_equal(again[0], out[:2])  # a sentence's draw depends on its key alone
    assert masking_tokens(tiny.model()) == MaskingTokens(4, (0, 1, 2, 3, 4))


def test_metrics_are_the_definitions():
    x, y = np.random.default_rng(0).normal(size=(2, 37, 5)).astype(np.float32)
    np.testing.assert_allclose(
        alignment(jnp.asarray(x), jnp.asarray(y)), geometry.alignment(x, y), rtol=1e-5
    )
    np.testing.assert_allclose(uniformity(jnp.asarray(x)), geometry.uniformity(x), rtol=1e-5)


def test_duplicates_are_counted_and_masked_on_request(tiny):
    examples = make_examples(size=8)
    examples[5] = examples[7] = examples[2]
    batch = packed(examples)
    _, counted = update(tiny, SimCSE(), batch)
    _, masked = update(tiny, SimCSE(mask_duplicates=True), batch)
    assert counted["duplicates"] == masked["duplicates"] == 2
    assert masked["loss"] < counted["loss"]
    assert masked["accuracy"] >= counted["accuracy"]


def test_bfloat16_is_near_float32(tiny):
    batch = make_batch(size=8)
    exact, metrics = update(tiny, SimCSE(), batch)
    coarse, coarse_metrics = update(tiny, SimCSE(), batch, dtype=jnp.bfloat16)
    np.testing.assert_allclose(coarse_metrics["loss"], metrics["loss"], rtol=0.05)
    assert all(g.dtype == np.float32 for g in jax.tree.leaves(coarse))
    angle = optax.tree.vdot(exact, coarse) / (optax.tree.norm(exact) * optax.tree.norm(coarse))
    assert angle > 0.98


def test_the_head_is_fresh_and_kept_or_dropped(tiny):
    pooler = {"dense": {"kernel": jnp.ones((32, 32)), "bias": jnp.ones(32)}}
    with_pooler = tiny._replace(params={**tiny.params, "pooler": pooler})
    params = init(with_pooler, SimCSE())
    kernel = np.asarray(params["head"]["dense"]["kernel"])
    assert abs(kernel.std() - 0.02) < 0.002
    assert set(SimCSE().export(params)) == {"encoder"}
    assert SimCSE().export_pooling("cls") == "cls"
    supervised = SimCSE(head="train_and_test")
    assert supervised.export_pooling("cls") == "pooler"
    kept = supervised.export(params)
    np.testing.assert_array_equal(kept["pooler"]["dense"]["kernel"], kernel)
    assert "head" not in init(tiny, SimCSE(head="none"))
    continued = tiny._replace(params={**tiny.params, "head": pooler})
    assert init(continued, SimCSE())["head"] is pooler


def test_the_masked_lm_head_is_the_models_or_fresh(tiny):
    without = tiny._replace(params={"encoder": tiny.params["encoder"]})
    for objective in (SimCSE(mlm_weight=0.1), MaskedLM()):
        assert init(tiny, objective)["mlm"] is tiny.params["mlm"]
        fresh = init(without, objective)
        assert jax.tree.map(jnp.shape, fresh["mlm"]) == jax.tree.map(jnp.shape, tiny.params["mlm"])
        assert set(objective.export(fresh)) == {"encoder", "mlm"}
    assert "mlm" not in init(tiny, SimCSE())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature is 0; it must be positive"),
        ({"head": "always"}, "head is 'always'; it must be one of train_and_test"),
        ({"similarity": "l2"}, "similarity is 'l2'; it must be one of cosine, dot"),
        ({"implementation": "fast"}, "implementation is 'fast'; it must be one of auto"),
        ({"mlm_weight": -1}, "mlm_weight is -1; it must be at least 0"),
        ({"mlm_probability": 0}, "mlm_probability is 0; it must be above 0"),
    ],
)
def test_configurations_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        SimCSE(**changes)


def test_a_copied_decoder_takes_its_share_of_the_gradient(tiny):
    """Both are equal at the start; of tied embeddings the gradient is the sum of the two."""
    # At SimCSE's own temperature the rounding of [CLS]'s gradient is as large as the tolerance.
    options = {"temperature": 1.0, "mlm_weight": 0.5}
    tied, copied = (SimCSE(mlm_decoder=kind, **options) for kind in ("tied", "copied"))
    (own, loss), (parts, same) = (update(tiny, x, make_batch(columns=3)) for x in (tied, copied))
    np.testing.assert_allclose(loss["loss"], same["loss"], rtol=1e-6)
    assert np.abs(parts["decoder"]).max() > 1e-3
    np.testing.assert_allclose(
        word_embeddings(own), word_embeddings(parts) + parts["decoder"], atol=1e-6
    )
    params = init(tiny, copied)
    assert set(copied.export(params)) == {"encoder"}
    assert set(tied.export(init(tiny, tied))) == {"encoder", "mlm"}


def test_models_that_do_not_fit(tiny):
    with pytest.raises(ValueError, match="probability is 0; it must be above 0"):
        MaskedLM(probability=0)
    with pytest.raises(ValueError, match="pooling is 'mean'; it must be 'cls'"):
        init(tiny, SimCSE(head="train_and_test"), "mean")
    with pytest.raises(ValueError, match="pooling is 'pooler'"):
        init(tiny, SimCSE(), "pooler")
    with pytest.raises(ValueError, match="needs layer 9 of 1"):
        init(tiny, SimCSE(), "layer-9")
    tokenizer = Tokenizer(tiny.tokenizer.backend)
    tokenizer.mask_id = None
    for objective in (SimCSE(mlm_weight=0.1), MaskedLM()):
        with pytest.raises(ValueError, match="tokenizer has neither"):
            objective.build(tiny._replace(tokenizer=tokenizer).model())


@pytest.mark.usefixtures("unchecked")
def test_examples_of_one_sentence_do_not_fit():
    with pytest.raises(ValueError, match="takes pairs, .* the examples have one sentence"):
        SimCSE().loss({}, jnp.ones((4, 1, 8)), None, None)
