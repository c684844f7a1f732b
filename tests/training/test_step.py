"""The update against plain references, its randomness, and its chunks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training_support import MASKING, make_batch, packed

from simcse_jax.losses.masked_lm import IGNORED
from simcse_jax.models import Batch, BertEncoder
from simcse_jax.training import (
    MaskingTokens,
    SiameseBatch,
    TrainSettings,
    make_optimizer,
    model_params,
    simcse_step,
)
from simcse_jax.training.step import (
    embed_rows,
    group_ids,
    mask_tokens,
    row_keys,
    row_keys_of,
    stream,
)

KEY = jax.random.key(3)
SGD = optax.sgd(1.0)


def gradients(tiny, settings, batch, key=KEY, config=None, **options):
    """What plain gradient descent with rate 1 subtracts, and the metrics."""
    state = tiny.state(settings).replace(opt_state=SGD.init(None))
    step = simcse_step(config or tiny.config, settings, SGD, masking=MASKING, **options)
    new, metrics = jax.jit(step)(state, batch, key)
    assert int(new.step) == 1
    return jax.tree.map(jnp.subtract, state.params, new.params), metrics


def worst(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)))


def reference_loss(tiny, settings, batch, key):
    """SimCSE's equations row by row and pair by pair, nothing shared with the step but masks."""
    if batch.input_ids.shape[1] == 1:
        batch = jax.tree.map(lambda x: np.concatenate([x, x], 1), batch)
    size, columns, _ = batch.input_ids.shape
    keys = row_keys(stream(key, "dropout", 0), jnp.arange(size * columns))
    flat = jax.tree.map(lambda x: x.reshape(size * columns, -1), batch)
    encoder = BertEncoder(tiny.config)

    def hidden(params, ids, mask, key):
        row = Batch(ids[None], mask[None])
        return encoder.apply({"params": params["encoder"]}, row, key[None]).last[0]

    def loss(params):
        z = jax.vmap(lambda i, m, k: hidden(params, i, m, k)[0], (0, 0, 0))(
            flat.input_ids, flat.attention_mask, keys
        )
        if settings.head != "none":
            dense = params["head"]["dense"]
            z = jnp.tanh(z @ dense["kernel"] + dense["bias"])
        z = (z / jnp.linalg.norm(z, axis=1, keepdims=True)).reshape(size, columns, -1)
        total = 0.0
        for i in range(size):
            logits = [z[i, 0] @ z[j, 1] / settings.temperature for j in range(size)]
            if columns == 3:
                logits += [
                    z[i, 0] @ z[j, 2] / settings.temperature
                    + (settings.hard_negative_weight if i == j else 0)
                    for j in range(size)
                ]
            total += jax.nn.logsumexp(jnp.stack(logits)) - logits[i]
        total /= size
        if settings.mlm_weight:
            mask_keys = row_keys(stream(key, "masking", 0), jnp.arange(size * columns))
            ids, labels = mask_tokens(flat, mask_keys, MASKING, tiny.config.vocab_size)
            h = jax.vmap(lambda i, m, k: hidden(params, i, m, k), (0, 0, 0))(
                ids, flat.attention_mask, row_keys_of(keys, 1)
            )
            head, words = params["mlm"], params["encoder"]["embeddings"]["word"]["embedding"]
            x = jax.nn.gelu(h @ head["dense"]["kernel"] + head["dense"]["bias"], approximate=False)
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-12)
            x = x * head["norm"]["scale"] + head["norm"]["bias"]
            log_p = jax.nn.log_softmax(x @ words.T + head["bias"])
            terms = -jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
            total += settings.mlm_weight * jnp.mean(terms, where=labels != IGNORED)
        return total

    return loss


@pytest.mark.parametrize(
    ("columns", "settings"),
    [
        (1, TrainSettings(mlm_weight=0.5)),
        (3, TrainSettings(head="train_and_test", hard_negative_weight=0.7, temperature=0.1)),
    ],
    ids=["unsupervised with masked LM", "triplets"],
)
def test_gradient_is_that_of_the_equations(tiny, columns, settings):
    batch = make_batch(size=4, columns=columns)
    found, metrics = gradients(tiny, settings, batch)
    loss = reference_loss(tiny, settings, batch, KEY)
    value, expected = jax.jit(jax.value_and_grad(loss))(tiny.state(settings).params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    norm = float(optax.tree.norm(expected))
    assert worst(found, expected) < 1e-5 * norm
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-4)
    assert ("mlm_loss" in metrics) == (settings.mlm_weight > 0)


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "weight"), [(1, 0.5), (3, 0.0)])
def test_chunks_give_the_gradient_of_the_whole_batch(tiny, columns, weight):
    settings = TrainSettings(mlm_weight=weight, temperature=0.1)
    batch = make_batch(size=8, columns=columns)
    direct, metrics = gradients(tiny, settings, batch)
    chunked = dataclasses.replace(settings, accumulate=4)
    found, found_metrics = gradients(tiny, chunked, batch)
    assert worst(found, direct) < 1e-5 * max(1.0, float(metrics["gradient_norm"]))
    assert metrics.keys() == found_metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(found_metrics[name], metrics[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("columns", "settings"),
    [
        (1, TrainSettings(mlm_weight=0.5)),
        (3, TrainSettings(pooling="mean", head="none", shared_dropout=True)),
    ],
    ids=["one column, cls, masked LM", "triplets, mean, shared masks"],
)
def test_packing_changes_nothing_not_even_the_masks(tiny, columns, settings):
    batch = make_batch(size=8, columns=columns)
    for part in (batch.input_ids, batch.attention_mask):
        part[5] = part[2]  # a duplicate
    wanted, wanted_metrics = gradients(tiny, settings, batch)
    found, metrics = gradients(tiny, settings, packed(batch))
    assert worst(found, wanted) < 1e-5 * max(1.0, float(wanted_metrics["gradient_norm"]))
    assert metrics.keys() == wanted_metrics.keys()
    assert metrics["duplicates"] == 1
    for name in metrics:
        np.testing.assert_allclose(
            metrics[name], wanted_metrics[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_two_encoders_each_see_their_own_column(tiny):
    """Equal encoders give the loss of one; each gets the gradient of its own column."""
    settings = TrainSettings(two_encoders=True)
    batch = packed(make_batch(size=4, columns=2))
    state = tiny.state(settings)
    assert set(state.params) == {"encoder", "head", "second"}
    found, metrics = gradients(tiny, settings, batch)
    wanted, wanted_metrics = gradients(
        tiny, dataclasses.replace(settings, two_encoders=False), batch
    )
    np.testing.assert_allclose(metrics["loss"], wanted_metrics["loss"], rtol=1e-6)
    # With equal parameters the two gradients are the parts of the one's.
    second = found.pop("second")
    norm = float(wanted_metrics["gradient_norm"])
    assert worst(jax.tree.map(jnp.add, found, second), wanted) < 1e-5 * norm
    assert min(float(optax.tree.norm(g)) for g in (found, second)) > 0.05 * norm
    assert set(model_params(state.params, settings)) == {"encoder"}


def test_packed_batches_that_do_not_fit(tiny):
    batch = packed(make_batch(size=4))
    with pytest.raises(ValueError, match="a packed batch cannot be cut"):
        gradients(tiny, TrainSettings(accumulate=2), batch)
    with pytest.raises(ValueError, match="one, two or three columns C, and the rows packed"):
        gradients(tiny, TrainSettings(), SiameseBatch(batch.sentences[:, 0], batch.rows))


def test_the_views_have_masks_of_their_own(tiny):
    """Independent masks make distances; shared ones, the paper's "fixed 0.1", make none."""
    batch = make_batch(size=4)
    _, metrics = gradients(tiny, TrainSettings(), batch)
    assert metrics["alignment"] > 1e-3
    _, metrics = gradients(tiny, TrainSettings(shared_dropout=True), batch)
    assert metrics["alignment"] < 1e-10


def test_every_row_step_and_key_draws_other_masks(tiny):
    same = np.repeat(make_batch(size=1).input_ids[:, 0], 6, axis=0)
    rows = Batch(same, np.ones_like(same, bool))
    encode = jax.jit(lambda k: embed_rows(tiny.config, tiny.params, rows, k, pooling="mean"))

    def at(key, step):
        return np.asarray(encode(row_keys(stream(key, "dropout", step), jnp.arange(6))))

    vectors = np.concatenate([at(KEY, 0), at(KEY, 1), at(jax.random.key(4), 0)])
    assert len(np.unique(vectors.round(6), axis=0)) == 18
    np.testing.assert_array_equal(at(KEY, 1), vectors[6:12])


def test_masking_is_80_10_10_of_15_percent():
    rows, length, vocab = 4000, 32, 1000
    random = np.random.default_rng(0)
    ids = jnp.asarray(random.integers(0, vocab, (rows, length)), jnp.int32)
    mask = jnp.arange(length) < jnp.asarray(random.integers(8, 33, (rows, 1)))
    keys = row_keys(KEY, jnp.arange(rows))
    special = MaskingTokens(103, (0, 1, 2, 103))
    out, labels = mask_tokens(Batch(ids, mask), keys, special, vocab)

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

    again = mask_tokens(Batch(ids[:2], mask[:2]), keys[:2], special, vocab)
    np.testing.assert_array_equal(again[0], out[:2])  # a row's draw depends on its key alone


def test_duplicates_are_counted_and_masked_on_request(tiny):
    batch = make_batch(size=8)
    for target, source in ((5, 2), (7, 2)):
        for part in (batch.input_ids, batch.attention_mask):
            part[target] = part[source]
    groups, duplicates = group_ids(jax.tree.map(lambda x: x[:, 0], batch))
    assert int(duplicates) == 2
    assert groups[2] == groups[5] == groups[7]
    assert len(np.unique(groups)) == 6

    padded = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 0), (0, 3))), batch)
    again, _ = group_ids(jax.tree.map(lambda x: x[:, 0], padded))
    np.testing.assert_array_equal(again, groups)

    _, counted = gradients(tiny, TrainSettings(), batch)
    _, masked = gradients(tiny, TrainSettings(mask_duplicates=True), batch)
    assert counted["duplicates"] == masked["duplicates"] == 2
    assert masked["loss"] < counted["loss"]
    assert masked["accuracy"] >= counted["accuracy"]


def test_bfloat16_is_near_float32(tiny):
    batch = make_batch(size=8)
    exact, metrics = gradients(tiny, TrainSettings(), batch)
    coarse, coarse_metrics = gradients(tiny, TrainSettings(dtype="bfloat16"), batch)
    np.testing.assert_allclose(coarse_metrics["loss"], metrics["loss"], rtol=0.05)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(coarse))
    angle = optax.tree.vdot(exact, coarse) / (optax.tree.norm(exact) * optax.tree.norm(coarse))
    assert angle > 0.98


def test_the_learning_rate_falls_linearly_and_the_gradient_is_clipped():
    settings = TrainSettings(learning_rate=0.1, clip_norm=1.0, weight_decay=0.5)
    optimizer = make_optimizer(settings, 4)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    state = optimizer.init(params)
    for k in range(4):
        gradient = {"w": jnp.zeros((2, 2)), "b": jnp.array([300.0, 400.0])}
        updates, state = optimizer.update(gradient, state, params)
        rate = 0.1 * (4 - k) / 4
        np.testing.assert_allclose(updates["b"], [-rate, -rate], rtol=1e-5)  # Adam's sign, no decay
        np.testing.assert_allclose(updates["w"], -0.5 * rate, rtol=1e-5)  # decay alone
    mu = optax.tree.get(state, "mu")["b"]
    np.testing.assert_allclose(mu, np.array([0.6, 0.8]) * (1 - 0.9**4), rtol=1e-5)  # length 1


def test_the_head_is_fresh_and_kept_or_dropped(tiny):
    pooler = {"dense": {"kernel": jnp.ones((32, 32)), "bias": jnp.ones(32)}}
    with_pooler = tiny._replace(params={**tiny.params, "pooler": pooler})
    state = with_pooler.state(TrainSettings())
    kernel = np.asarray(state.params["head"]["dense"]["kernel"])
    assert abs(kernel.std() - 0.02) < 0.002
    assert set(model_params(state.params, TrainSettings())) == {"encoder"}
    supervised = TrainSettings(head="train_and_test")
    assert supervised.test_pooling == "pooler"
    kept = model_params(state.params, supervised)
    np.testing.assert_array_equal(kept["pooler"]["dense"]["kernel"], kernel)
    assert "head" not in tiny.state(TrainSettings(head="none")).params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature is 0; it must be positive"),
        ({"head": "always"}, "head is 'always'; it must be one of train_and_test"),
        ({"pooling": "mean", "head": "train_and_test"}, "pooling is 'mean'; it must be 'cls'"),
        ({"pooling": "pooler"}, "pooling is 'pooler'"),
        ({"accumulate": 0}, "accumulate is 0; it must be at least 1"),
        ({"dtype": "float16"}, "dtype is 'float16'; it must be float32 or bfloat16"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**changes)


def test_batches_that_do_not_fit(tiny):
    with pytest.raises(ValueError, match="one, two or three columns"):
        gradients(tiny, TrainSettings(), make_batch(columns=4))
    with pytest.raises(ValueError, match="batch of 16 cannot be cut into 3 equal chunks"):
        gradients(tiny, TrainSettings(accumulate=3), make_batch())
    with pytest.raises(ValueError, match="needs masking"):
        simcse_step(tiny.config, TrainSettings(mlm_weight=0.1), SGD)
    with pytest.raises(ValueError, match="warmup_steps is 10"):
        make_optimizer(TrainSettings(warmup_steps=10), 10)
