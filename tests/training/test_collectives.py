"""What devices say to each other in a step, read from the program that XLA made of it."""

import re
from collections import Counter

import jax
import numpy as np
import pytest
from training_support import SEED, SGD, init, make_examples, packed

from simcse_jax.objectives import MaskedLM, Sbert, SimCSE
from simcse_jax.training import make_mesh, make_step, start_state
from simcse_jax.training.devices import map_step

DEVICES, SIZE = 8, 512
SHARE = SIZE // DEVICES
NAMES = "all-[a-z]+|ragged-all-to-all|all-to-all|reduce-scatter|collective-[a-z]+|send|recv"
COLLECTIVE = re.compile(rf" = (?P<result>.*?) (?P<name>{NAMES})(-start)?\(")


def collectives(text):
    """The name of each collective and the shapes of its results, which are no scalars."""
    found = []
    for line in text.splitlines():
        match = COLLECTIVE.search(line)
        if match is None:
            continue
        shapes = re.findall(r"[a-z]\w*\[([\d,]*)\]", match["result"])
        found.append((match["name"], sorted(tuple(map(int, s.split(","))) for s in shapes if s)))
    return found


def compiled(tiny, objective, columns, chunks, pooling):
    """The program of a step, and the shapes of the parameters."""
    batch = packed(make_examples(size=SIZE, columns=columns), DEVICES * chunks)
    if isinstance(objective, Sbert):
        batch = batch.replace(labels=np.zeros(SIZE, np.int32))
    params = init(tiny, objective, pooling)
    step = map_step(make_step(objective.build(tiny.model(pooling)), SGD, chunks), make_mesh())
    key = jax.random.key(SEED)
    program = jax.jit(step).lower(start_state(params, SGD), batch, key).compile()
    return program.as_text(), sorted(p.shape for p in jax.tree.leaves(params))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "columns", "chunks", "pooling", "gathers", "sums"),
    [
        # The candidates of InfoNCE and the points of the uniformity; back, the candidates'
        # gradients.
        (SimCSE(), 1, 1, "cls", 2, 1),
        (SimCSE(mlm_weight=0.5), 3, 2, "cls", 3, 2),
        (Sbert(), 2, 1, "mean", 0, 0),
        (MaskedLM(), 1, 2, "cls", 0, 0),
    ],
    ids=["unsupervised", "triplets with masked LM in chunks", "softmax", "masked LM in chunks"],
)
def test_embeddings_are_gathered_and_gradients_summed_once(
    tiny, objective, columns, chunks, pooling, gathers, sums
):
    text, parameters = compiled(tiny, objective, columns, chunks, pooling)
    found = collectives(text)
    assert found
    width = tiny.config.hidden_size
    gathered = [shape for name, shapes in found if name == "all-gather" for shape in shapes]
    assert gathered == [(SIZE, width)] * gathers
    scattered = [shape for name, shapes in found if name == "reduce-scatter" for shape in shapes]
    assert scattered == [(SHARE, width)] * sums
    reduced = [shapes for name, shapes in found if name == "all-reduce" and shapes]
    assert reduced == [parameters]
    assert {name for name, _ in found} <= {"all-gather", "reduce-scatter", "all-reduce"}
    # No device holds the tokens or states of all sentences.
    all_sentences = SIZE * max(columns, 2)
    assert not re.search(rf"\[(\d+,)*{all_sentences}[,\]]", text)


@pytest.mark.slow
def test_a_ring_sends_the_candidates_on(tiny):
    text, parameters = compiled(tiny, SimCSE(implementation="ring"), 1, 1, "cls")
    found = collectives(text)
    width = tiny.config.hidden_size
    names = Counter(name for name, _ in found)
    assert names["all-gather"] == 1  # the uniformity's
    assert names["collective-permute"] >= 2  # there and back
    assert names.keys() == {"all-gather", "all-reduce", "collective-permute"}
    sent = {shape for name, shapes in found if name == "collective-permute" for shape in shapes}
    assert sent == {(SHARE, width)}
    assert [s for name, s in found if name == "all-reduce" and s] == [parameters]
