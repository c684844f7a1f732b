"""The way of a training line is the one that docs/architecture.md tells."""

import re
import sys
import threading
from pathlib import Path

import jax

import simcse_jax
from simcse_jax.config import CONFIGS, replace
from simcse_jax.data.training_text import text_of_sentences
from simcse_jax.trainer import load_model, make_batches
from simcse_jax.training import (
    compile_step,
    make_mesh,
    make_optimizer,
    make_step,
    replicate,
    start_state,
)

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = str(Path(simcse_jax.__file__).parent)


def called(function) -> list[str]:
    """Return the names of the library's functions in the order in which they are first called."""
    names = {}

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(LIBRARY):
            names[code.co_qualname.replace(".<locals>", "")] = None

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(names)


def test_a_training_line_goes_the_documented_way(golden):
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition("## The way of a training line")[2].partition("Beside them")[0]
    way = re.findall(r"`([\w.]+)`", re.sub(r"\([^)]*\)", "", section))
    assert len(way) == 16

    config = replace(CONFIGS["unsup_simcse"], model=str(golden / "tiny-bert"), batch_size=4)
    config = replace(config, max_length=16)
    model, mesh = load_model(config), make_mesh(jax.devices()[:1])
    text = text_of_sentences(["a dog", "a cat", "the man plays", "some music"])
    batches = make_batches(config, text, model, mesh)
    optimizer = make_optimizer(config.optimizer, 1)
    key = jax.random.key(0)
    state = start_state(config.objective.init(model, key), optimizer)
    step = compile_step(
        make_step(config.objective.build(model), optimizer), mesh, config.run.parallel
    )
    shared = replicate(state, mesh), replicate(key, mesh)

    order = called(lambda: step(shared[0], batches.batch(0), shared[1]))
    assert [name for name in order if name in way] == way
