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


@pytest.fixture(params=["cls", "mean"])
def program(request, tiny):
    return lowers(tiny, SimCSE(), request.param, packed(make_examples(), 1))


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
    assert Counter(re.findall(r"stablehlo\.(all_gather|all_to_all)\b", text)) == {"all_gather": 2}


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
