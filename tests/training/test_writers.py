"""TensorBoard and Weights & Biases get every number of the loop's records."""

import errno
import struct
import sys
from types import ModuleType

import pytest
from tensorboardX.proto.event_pb2 import Event

from simcse_jax.io import read_json
from simcse_jax.training import writers

RECORDS = [
    {"step": 1, "loss": 2.0},
    {"step": 2, "loss": 1.5, "eval": {"stsb_dev": 50.0}},
]


class Library(ModuleType):
    """A stand-in for wandb: it remembers what it is told."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.ended, self.refuses = [], [], [], None

    def init(self, **options):
        if self.refuses is not None:
            raise self.Error(self.refuses)
        self.begun.append(options)
        self.id = options["id"] or f"id-{len(self.begun)}"
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self, exit_code):
        self.ended.append(exit_code)


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


def write(folder, project="mine", resume=False):
    folder.mkdir(exist_ok=True)
    with writers.records(folder, {"run": {"seed": 1}}, project, resume) as record:
        for values in RECORDS:
            record(values)


def scalars(folder):
    """What TensorBoard's file holds: records of a length, its checksum, an event, its checksum."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[12 + length + 4 :]
    return found


def test_both_get_every_number(tmp_path, library):
    write(tmp_path / "run")
    assert library.logged == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.5, "stsb_dev": 50.0},
    ]
    assert scalars(tmp_path / "run" / "tensorboard") == [
        (1, "loss", 2.0),
        (2, "loss", 1.5),
        (2, "stsb_dev", 50.0),
    ]
    (options,) = library.begun
    assert (options["project"], options["name"]) == ("mine", "run")
    assert (options["config"], options["dir"]) == ({"run": {"seed": 1}}, str(tmp_path / "run"))
    assert library.ended == [0]


def test_a_resumed_run_keeps_its_id_in_its_project(tmp_path, library):
    folder = tmp_path / "run"
    for project, resume in (("mine", True), ("mine", True), ("other", True), ("other", False)):
        write(folder, project, resume)
    assert [options["id"] for options in library.begun] == [None, "id-1", None, None]
    assert read_json(folder / "wandb.json") == {"project": "other", "id": "id-4"}
    (folder / "wandb.json").write_text("{}")
    with pytest.raises(ValueError, match=r"wandb\.json does not name the run's id; delete it"):
        write(folder, "other", resume=True)


def test_a_run_that_fails_is_said_to_have_failed(tmp_path, library):
    def fail():
        raise FloatingPointError

    with (
        pytest.raises(FloatingPointError),
        writers.records(tmp_path, {}, "mine", False),
    ):
        fail()
    assert library.ended == [1]


def test_what_the_library_refuses_is_one_sentence(tmp_path, library):
    library.refuses = "No API key configured.\nMore of it"
    with pytest.raises(ValueError, match=r"run \(No API key configured\.\); log in by wandb login"):
        write(tmp_path / "run")


def test_without_a_project_nothing_of_it_is_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    write(tmp_path / "run", project=None)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"tensorboard"}


def test_a_disk_that_fills_up_under_tensorboard_is_named(tmp_path, monkeypatch):
    class Full:
        def __init__(self, folder):
            pass

        def add_scalar(self, *arguments):
            pass

        def close(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.SummaryWriter", Full)
    with (
        pytest.raises(OSError, match="cannot write .*/tensorboard: No space left on device"),
        writers.tensorboard(tmp_path) as write_,
    ):
        write_(1, {"loss": 2.0})
