"""WhitenedCSE and SimCSE++: their steps against the equations, and what they refuse."""

import dataclasses
import functools

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

from simcse_jax.models import BertEncoder, one_a_row
from simcse_jax.objectives import AXIS, SimCSEPlusPlus, WhitenedCSE, sentence_keys, stream

KEY = jax.random.key(SEED)
WHITENED = WhitenedCSE(groups=16, temperature=0.2, whitening_gradient=True)


def first_tokens(tiny, params, ids, mask, keys):
    """The first tokens' states, a sentence a row."""
    rows = one_a_row(ids, mask)
    return BertEncoder(tiny.config).apply({"params": params["encoder"]}, rows, keys)[-1][:, 0]


def head(params, x):
    dense = params["head"]["dense"]
    return jnp.tanh(x @ dense["kernel"] + dense["bias"])


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def whitened_by_hand(tiny, objective, examples):
    """Groups of two channels, whose inverse root has a closed form, `(Σ + s I)⁻¹ t`."""
    size, columns = len(examples), len(examples[0])
    ids, mask = padded(examples)
    keys = sentence_keys(stream(KEY, "dropout", 0), jnp.arange(size * columns)[None])
    shuffles = jax.random.split(stream(KEY, "shuffle", 0), columns)

    def inverse_root(covariance):
        s = jnp.sqrt(jnp.linalg.det(covariance))
        t = jnp.sqrt(jnp.trace(covariance) + 2 * s)
        return t * jnp.linalg.inv(covariance + s * jnp.eye(2))

    def white(x, shuffle):
        order = jax.random.permutation(shuffle, x.shape[1])
        columns = []
        for group in jnp.split(order, objective.groups):
            part = x[:, group] - x[:, group].mean(0)
            columns.append(part @ inverse_root(part.T @ part / size))
        return jnp.concatenate(columns, axis=1)[:, jnp.argsort(order)]

    def loss(params):
        h = first_tokens(tiny, params, ids, mask, keys).reshape(size, columns, -1)
        z = [unit(head(params, white(h[:, i], shuffles[i]))) for i in range(columns)]
        total = 0.0
        for positives in z[1:]:
            logits = z[0] @ positives.T / objective.temperature
            total += jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))
        return total

    return loss


def plus_plus_by_hand(tiny, objective, examples):
    size = len(examples)
    ids, mask = padded(examples)

    def loss(params):
        def embed(keys):
            return head(params, first_tokens(tiny, params, ids, mask, keys))

        # A sentence's two masks have the numbers that SimCSE gives its two views.
        keys = sentence_keys(stream(KEY, "dropout", 0), jnp.arange(2 * size)[None])
        z, other, plain = embed(keys[::2]), embed(keys[1::2]), embed(None)
        positive = objective.positive_weight * (unit(z) * unit(other)).sum(1)
        total = 0.0
        for i in range(size):
            rest = [unit(plain)[i] @ unit(plain)[j] for j in range(size) if j != i]
            logits = jnp.stack([positive[i], *rest]) / objective.temperature
            total += (jax.nn.logsumexp(logits) - logits[0]) / size
        x, y = ((v - v.mean(0)) / jnp.sqrt(v.var(0) + 1e-5) for v in (z, other))
        logits = x.T @ y / size / objective.dimension_temperature
        dimensions = jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))
        return total + objective.dimension_weight * dimensions

    return loss


@pytest.mark.parametrize(
    ("objective", "columns", "views", "by_hand"),
    [
        (WHITENED, 1, 3, whitened_by_hand),
        (SimCSEPlusPlus(0.2, 0.8, 0.5, 0.7), 1, 1, plus_plus_by_hand),
    ],
    ids=["WhitenedCSE", "SimCSE++"],
)
def test_gradient_is_that_of_the_equations(tiny, objective, columns, views, by_hand):
    assert objective.views == views
    examples = make_examples(size=8, columns=columns, views=views)
    found, metrics = update(tiny, objective, packed(examples))
    value, expected = jax.jit(jax.value_and_grad(by_hand(tiny, objective, examples)))(
        init(tiny, objective)
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    norm = float(optax.tree.norm(expected))
    assert worst(found, expected) < 2e-5 * norm
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    parts = {"contrastive_loss", "accuracy", "alignment", "uniformity", "duplicates"}
    assert parts <= metrics.keys()


def test_the_authors_gradient_takes_the_matrices_for_constants(tiny):
    batch = packed(make_examples(size=8, views=3))
    constant = dataclasses.replace(WHITENED, whitening_gradient=False)
    (whole, metrics), (cut, same) = (update(tiny, o, batch) for o in (WHITENED, constant))
    np.testing.assert_allclose(metrics["loss"], same["loss"], rtol=1e-6)
    # The head comes after the whitening and has the same gradient, the encoder another one.
    assert worst(whole["head"], cut["head"]) < 1e-5
    assert worst(whole["encoder"], cut["encoder"]) > 1e-3
    assert WhitenedCSE().whitening_gradient is False


def test_packing_changes_nothing(tiny):
    for objective, views in ((WHITENED, 3), (SimCSEPlusPlus(), 1)):
        examples = make_examples(size=8, views=views)
        wanted, _ = update(tiny, objective, a_sentence_a_row(examples))
        found, metrics = update(tiny, objective, packed(examples))
        assert worst(found, wanted) <= 2e-6 * metrics["gradient_norm"]


def test_a_sentence_has_other_shuffles_at_another_step_and_column(tiny):
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 32)), jnp.float32)
    vectors = jnp.broadcast_to(vectors[:, :1], vectors.shape)
    objective = WhitenedCSE(groups=16)

    def whiten(step):
        keys = functools.partial(stream, KEY, step=step)
        return jax.vmap(lambda x: objective.whiten(x, keys), axis_name=AXIS)(vectors[None])[0]

    one, two = whiten(0), whiten(1)
    for a, b in ((one[:, 0], one[:, 1]), (one[:, 0], two[:, 0])):
        assert np.abs(a - b).max() > 0.1
    np.testing.assert_array_equal(one, whiten(0))


def test_the_head_is_of_the_training_alone(tiny):
    for objective in (WHITENED, SimCSEPlusPlus()):
        params = init(tiny, objective)
        assert params.keys() == {"encoder", "head"}
        assert objective.export(params).keys() == {"encoder"}
        assert objective.export_pooling("cls") == "cls"


def test_what_is_refused(tiny):
    key = jax.random.key(0)
    for objective in (WHITENED, SimCSEPlusPlus()):
        for pooling in ("pooler", "cls+mean"):
            with pytest.raises(ValueError, match="one vector a sentence"):
                objective.init(tiny.model(pooling), key)
        with pytest.raises(ValueError, match="labels, which .* does not read"):
            objective.check_text(1, True)
        with pytest.raises(ValueError, match="batch_size is 1"):
            objective.check_batch(1, 1, 32)
    with pytest.raises(ValueError, match="groups is 128; it must divide .* 32 channels: take 32"):
        WhitenedCSE().init(tiny.model("cls"), key)
    with pytest.raises(ValueError, match="groups is 7; it must divide .* 32 channels: take 8"):
        WhitenedCSE(groups=7).init(tiny.model("cls"), key)
    with pytest.raises(ValueError, match="groups is 3; it must divide .* 32 channels: take 2"):
        WhitenedCSE(groups=3).check_batch(17, 3, 32)
    with pytest.raises(ValueError, match="groups is 3; it must divide .* 32 channels: take 4"):
        WhitenedCSE(groups=3).check_batch(16, 3, 32)  # two groups have 16 channels
    WhitenedCSE(groups=4).check_batch(9, 3, 32)
    with pytest.raises(ValueError, match="batch_size is 8; it must be above the 8 channels"):
        WhitenedCSE(groups=4).check_batch(8, 3, 32)
    with pytest.raises(ValueError, match="batch_size is 4; it must be above the 8 channels"):
        update(tiny, WhitenedCSE(groups=4), make_batch(size=4, columns=3))
    with pytest.raises(ValueError, match="of one column, the text has 2"):
        SimCSEPlusPlus().check_text(2, False)
    for field in ("temperature", "positive_weight", "dimension_temperature"):
        with pytest.raises(ValueError, match=field):
            SimCSEPlusPlus(**{field: 0.0})
    for kind, field in ((SimCSEPlusPlus, "dimension_weight"), (WhitenedCSE, "temperature")):
        with pytest.raises(ValueError, match=field):
            kind(**{field: -1.0})
