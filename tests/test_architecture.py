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


# Rooms from above; of one floor may call each other those that lie in one folder.
FLOORS = (
    ("trainer",),
    ("training",),
    ("objectives",),
    ("models", "losses", "data"),
)  # below them is what stands in no room


def floor_of(file: str) -> int:
    room = Path(file).relative_to(LIBRARY).with_suffix("").parts[0]
    return next((i for i, rooms in enumerate(FLOORS) if room in rooms), len(FLOORS))


def calls(function) -> tuple[list[str], set[tuple[str, str]]]:
    """Return the library's functions in the order of their first calls, and who called whom."""
    names, edges = {}, set()

    def own(frame):
        return frame.f_code.co_filename.startswith(LIBRARY)

    def note(frame, event, _):
        if event != "call" or not own(frame):
            return
        names[frame.f_code.co_qualname.replace(".<locals>", "")] = None
        caller = frame.f_back
        while caller is not None and not own(caller):
            caller = caller.f_back
        if caller is not None:
            edges.add((caller.f_code.co_filename, frame.f_code.co_filename))

    before = sys.getprofile(), threading.getprofile()
    sys.setprofile(note)
    threading.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])
    return list(names), edges


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

    order, edges = calls(lambda: step(shared[0], batches.batch(0), shared[1]))
    assert [name for name in order if name in way] == way
    climbs = {(a, b) for a, b in edges if floor_of(b) < floor_of(a)}
    assert not climbs
    assert any(floor_of(b) > floor_of(a) + 1 for a, b in edges)  # floors are told apart at all
