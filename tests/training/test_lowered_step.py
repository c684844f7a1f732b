"""What a step multiplies on an accelerator, read from the program before it is compiled."""

import re
from collections import Counter

import jax
import pytest
from training_support import SEED, SGD, init, make_examples, packed

from simcse_jax.objectives import MaskedLM, SimCSE
from simcse_jax.training import make_mesh, make_step, start_state
from simcse_jax.training.devices import map_step

PRODUCT = re.compile(
    r"stablehlo\.dot_general .*?: \(tensor<(?P<left>[\dx]*)x(?P<one>\w+)>, "
    r"tensor<[\dx]*x(?P<other>\w+)>\) -> tensor<(?P<shape>[\dx]*)x(?P<sum>\w+)>"
)


def lowers(tiny, objective, pooling, batch):
    """Lowers a step in bfloat16 for a platform."""
    params = init(tiny, objective, pooling)
    built = objective.build(tiny.model(pooling, "bfloat16"))
    step = map_step(make_step(built, SGD), make_mesh(jax.devices()[:1]))
    arguments = start_state(params, SGD), batch, jax.random.key(SEED)

    def lower(platform):
        lowered = jax.jit(step).trace(*arguments).lower(lowering_platforms=(platform,))
        return lowered.as_text()

    return lower


MOVES = re.compile(
    r'"stablehlo\.(gather|scatter|all_gather|all_reduce|all_to_all|collective_permute|'
    r'reduce_scatter|collective_broadcast)"\('
)
# Every place of the program where rows are fetched, or added up, by their numbers. A count that has
# grown is work that came back.
GATHERS = {
    "both": {
        "tables of words, positions, token types": 3,
        "each token's seeds, of its sentence": 1,
        "the loss's logits of the positives": 1,
    },
    "mean": {"the gradient of the sums": 1},
    "cls": {
        "first tokens: their seeds, what goes into the layer twice (queries, residual)": 3,
        "what each token needs of its sentence: query, highest score, seeds": 3,
        "the gradients of the softmax's two sums": 2,
    },
}
SCATTERS = {
    "both": {
        "gradients of the tables of words, positions, token types": 3,
        "the gradient of the logits of the positives": 1,
    },
    "mean": {"tokens of each sentence: their number, their sum": 2},
    "cls": {
        "where the first tokens are": 1,
        "the softmax's maximum and its two sums": 3,
        "gradients of the first tokens (queries, residual), and of each token's query": 3,
    },
}
# Beside one for each parameter's gradient.
REDUCTIONS = {
    "the loss and its accuracy, and the loss's gradient": 3,
    "alignment, uniformity, duplicates": 3,
}


@pytest.fixture(params=["cls", "mean"])
def pooling(request):
    return request.param


@pytest.fixture
def program(pooling, tiny):
    return lowers(tiny, SimCSE(), pooling, packed(make_examples(), 1))


def products(text):
    found = [match.groupdict() for match in PRODUCT.finditer(text)]
    assert len(found) == text.count("stablehlo.dot_general ")
    return found


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_everything_but_head_and_loss_is_multiplied_in_bfloat16(program, platform):
    text = program(platform)
    found = products(text)
    types = Counter((product["one"], product["other"]) for product in found)
    # The head's, the loss's logits, and their gradients; attention's backward is not among them.
    assert types.keys() == {("bf16", "bf16"), ("f32", "f32")}
    assert types["f32", "f32"] == 4
    assert types["bf16", "bf16"] > 15


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_step_fetches_adds_and_exchanges_no_more_than_it_must(program, pooling, tiny, platform):
    def expected(table):
        return sum(table["both"].values()) + sum(table[pooling].values())

    gradients = len(jax.tree.leaves(init(tiny, SimCSE(), pooling)))
    assert Counter(MOVES.findall(program(platform))) == {
        "gather": expected(GATHERS),
        "scatter": expected(SCATTERS),
        "all_gather": 2,  # the positives, and the anchors whose uniformity is told
        "reduce_scatter": 1,  # the gradient of the positives
        "all_reduce": gradients + sum(REDUCTIONS.values()),
    }


def test_a_step_of_long_rows_has_the_plain_attention(tiny):
    batch = packed(make_examples(), 1, row_length=128)
    assert batch.rows.input_ids.shape[1] == 128
    text = lowers(tiny, SimCSE(), "mean", batch)("cuda")
    assert "cudnn" not in text
    assert re.search(r"dot_general .* -> tensor<\dx\dx128x128xf32>", text)


def test_biases_are_summed_and_on_a_cpu_multiplied_by_ones(program):
    ones = {
        platform: sum(product["left"].startswith("1x") for product in products(program(platform)))
        for platform in ("cuda", "tpu", "cpu")
    }
    assert ones["cuda"] == ones["tpu"] == 0
    assert ones["cpu"] > 3


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_only_a_chunk_of_tokens_is_scored(tiny, platform, monkeypatch):
    """No array of all tokens has a score of every word."""
    monkeypatch.setattr("simcse_jax.losses.masked_lm.CHUNK", 8)
    batch, words = packed(make_examples(), 1), str(tiny.config.vocab_size)
    assert batch.rows.input_ids.size > 8
    text = lowers(tiny, MaskedLM(), "cls", batch)(platform)
    scores = {
        shape for shape in re.findall(r"tensor<([\dx]+)xf32>", text) if words in shape.split("x")
    }
    # Scores of a chunk; the matrix with its gradient, and the bias.
    assert scores - {f"{words}x32", words} == {f"8x{words}", f"1x{words}"}
