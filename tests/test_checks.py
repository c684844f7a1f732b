"""What is said to wrong numbers and choices, and to a batch that has nothing to learn from."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.checks import (
    check_at_least,
    check_between,
    check_choice,
    check_count,
    check_finite,
    check_positive,
    check_seed,
    counted,
    listed,
    quoted,
)
from simcse_jax.data.packing import pack_rows
from simcse_jax.encoder import cosine_similarity
from simcse_jax.evaluation.search import similarity_search
from simcse_jax.evaluation.sts import encode_distinct, paired_similarity, spearman
from simcse_jax.losses.info_nce import info_nce
from simcse_jax.objectives import AXIS, MaskedLM, Sbert, SimCSE
from simcse_jax.transforms import Whitening

NAN, INF = float("nan"), float("inf")


def test_one_is_no_plural():
    assert [counted(n, "step") for n in (0, 1, 1000)] == ["0 steps", "1 step", "1,000 steps"]
    assert [counted(n, "minute") for n in (1.0, 0.5, 10.0)] == [
        "1 minute",
        "0.5 minutes",
        "10 minutes",
    ]


def test_what_is_right_passes():
    check_choice("a", "x", ("x", "y"))
    for value in (1, np.int64(1), 2**62):
        check_count("a", value)
    for value in (1e-37, 1, INF, np.float32(1), np.int32(1)):
        check_positive("a", value)
        if value != INF:
            check_at_least("a", value, 0)
    for value in (0, 0.5, 1):
        check_between("a", value, 0, 1)
    check_between("a", 1, 0, 1, "(]")
    check_between("a", 0, 0, 1, "[)")
    check_finite("a", -1e300)


@pytest.mark.parametrize(
    ("check", "values", "wanted"),
    [
        (lambda v: check_choice("a", v, ("x", "y")), ("z", "", 1, None, ["x"]), "one of x, y"),
        (lambda v: check_count("a", v), (0, -1), "at least 1"),
        (lambda v: check_count("a", v), (2**63, 10**400), f"at most {2**63 - 1}"),
        (lambda v: check_count("a", v, 1, 5), (6,), "at most 5"),
        (lambda v: check_positive("a", v), (2**63,), "a number of 64 bits"),
        (lambda v: check_positive("a", v), (1e300, 1e-300), "a number that float32 holds"),
        (lambda v: check_at_least("a", v, 0), (1e300, 1e-300), "a number that float32 holds"),
        (lambda v: check_between("a", v, 0, 1), (1e300, 1e-300), "a number that float32 holds"),
        (lambda v: check_count("a", v), (1.0, NAN, True, "1", None, np.True_), "a whole number"),
        (lambda v: check_positive("a", v), (0, -1.0, NAN, -INF), "positive"),
        (lambda v: check_positive("a", v, finite=True), (0, NAN, -INF), "positive"),
        (lambda v: check_positive("a", v, finite=True), (INF,), "positive and finite"),
        (lambda v: check_positive("a", v), (True, "1", None, [1], 1j), "a number"),
        (lambda v: check_at_least("a", v, 0), (-1e-9, NAN), "at least 0"),
        (lambda v: check_at_least("a", v, 0), (INF,), "at least 0 and finite"),
        (lambda v: check_finite("a", v), (INF, NAN), "finite"),
        (lambda v: check_between("a", v, 0, 1), (-0.1, 1.1, NAN), "at least 0 and at most 1"),
        (lambda v: check_between("a", v, 0, 1, "(]"), (0, NAN), "above 0 and at most 1"),
        (lambda v: check_between("a", v, 0, 1, "[)"), (1, NAN), "at least 0 and below 1"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(check, values, wanted):
    for value in values:
        sentence = re.escape(f"a is {quoted(value)}; it must be {wanted}")
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            check(value)


def test_a_single_example_has_no_negatives_but_hard_ones():
    for columns in (1, 2):
        with pytest.raises(ValueError, match="batch_size is 1; it must be at least 2 without hard"):
            SimCSE().check_batch(1, columns, 32)
    SimCSE().check_batch(1, 3, 32)
    SimCSE().check_batch(2, 1, 32)
    for objective in (Sbert(), MaskedLM()):
        objective.check_batch(1, 2, 32)


@pytest.mark.usefixtures("unchecked")
def test_the_loss_of_a_global_batch_of_one_is_refused_too():
    def loss(vectors):
        return SimCSE().loss({}, vectors, None, None)

    with pytest.raises(ValueError, match="batch_size is 1"):
        jax.eval_shape(jax.vmap(loss, axis_name=AXIS), jnp.ones((1, 1, 2, 4)))


@pytest.mark.usefixtures("unchecked")
def test_masked_entries_are_refused_and_a_mask_without_any_is_not():
    rows = np.random.default_rng(0).normal(size=(6, 4))
    masked = np.ma.masked_array(rows, rows > 1.0)
    assert masked.mask.any()
    for function in (
        lambda x: similarity_search(rows, x, 1),
        lambda x: paired_similarity(rows, x),
        lambda x: cosine_similarity(rows, x),
        lambda x: info_nce(rows, x),
        lambda x: Whitening.fit(x),
        lambda x: spearman(rows[:, 0], x[:, 0]) + spearman(rows.ravel(), x.ravel()),
        lambda x: encode_distinct(lambda _: x, "abcdef"),
    ):
        with pytest.raises(ValueError, match="has masked entries; fill them"):
            function(masked)
        function(np.ma.masked_array(rows, False))


def test_a_row_longer_than_all_sentences_takes_no_memory():
    lengths = [3, 9, 4, 1]
    assert pack_rows(lengths, 2**40) == pack_rows(lengths, 2**10) == [[1, 2, 0, 3]]


@pytest.mark.usefixtures("unchecked")
def test_fields_that_no_number_may_have():
    with pytest.raises(ValueError, match="temperature is inf; it must be positive and finite"):
        SimCSE(temperature=INF)
    with pytest.raises(ValueError, match="head is 'two'; it must be one of .*train_only"):
        SimCSE(head="two")
    with pytest.raises(ValueError, match="ddof is -inf; it must be a whole number"):
        Whitening.fit(np.eye(4), ddof=-INF)
    with pytest.raises(ValueError, match=r"seed is 2\d+; it must be at least 0 and below 2\*\*32"):
        check_seed("seed", 2 * 10**30)


def test_names_in_an_error_are_short_and_on_one_line():
    assert listed(["premise", "hypothes\nis\x00"]) == "premise, hypothes\\nis\\x00"
    assert listed(["x" * 500]) == "x" * 199 + "…"
