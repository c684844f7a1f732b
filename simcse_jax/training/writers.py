"""Where the records of a run go while it trains: TensorBoard, and Weights & Biases where asked.

A writer is a function of a step and its numbers by name; `records` gives each record of the loop
to all of them. ``metrics.jsonl`` is the loop's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from simcse_jax import io
from simcse_jax.checks import first_line
from simcse_jax.extras import needs

Write = Callable[[int, Mapping[str, float]], None]
WANDB = "wandb.json"
"""The file in a run's folder that says under which id Weights & Biases has the run."""


@contextmanager
def records(
    folder: Path, settings: Mapping[str, Any], project: str | None, resume: bool
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Give a function that writes the loop's records, from the first process.

    Args:
        folder: of the run.
        settings: of the run, as JSON.
        project: of Weights & Biases, or None for TensorBoard alone.
        resume: whether the run goes on, also there.

    Raises:
        MissingExtra: tensorboardX or wandb is not installed.
        OSError: what is written finds no place.
        ValueError: Weights & Biases does not take the run.
    """
    if jax.process_index() != 0:
        yield lambda values: None
        return
    with ExitStack() as stack:
        writers = [stack.enter_context(tensorboard(folder))]
        if project is not None:
            writers.append(stack.enter_context(wandb(folder, settings, project, resume)))

        def record(values: Mapping[str, Any]) -> None:
            numbers = {**values, **values.get("eval", {})}
            step = numbers.pop("step")
            numbers.pop("eval", None)
            for write in writers:
                write(step, numbers)

        yield record


@contextmanager
def tensorboard(folder: Path) -> Iterator[Write]:
    """Write for TensorBoard, into the run's folder."""
    with needs("train"):
        from tensorboardX import SummaryWriter

    place = folder / "tensorboard"
    with io.naming(place):
        writer = SummaryWriter(str(place))

    def write(step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            with io.naming(place):
                writer.add_scalar(name, value, step)

    try:
        yield write
    finally:
        with io.naming(place):
            writer.close()


@contextmanager
def wandb(folder: Path, settings: Mapping[str, Any], project: str, resume: bool) -> Iterator[Write]:
    """Write to Weights & Biases, under the folder's name.

    The key is the one that ``wandb login`` or WANDB_API_KEY has; none is written. A run that is
    resumed goes on under the id that its folder's `WANDB` names.
    """
    with needs("wandb"):
        import wandb as library

    known = _known_id(folder / WANDB, project) if resume else None
    try:
        run = library.init(
            project=project,
            name=folder.absolute().name,
            id=known,
            resume="allow",
            config=dict(settings),
            dir=str(folder),
        )
    except library.Error as error:
        raise ValueError(
            f"Weights & Biases does not take the run ({first_line(error)}); log in by wandb login, "
            "set WANDB_MODE=offline, or leave wandb out"
        ) from error
    failed = True
    try:
        io.write_json(folder / WANDB, {"project": project, "id": run.id})
        # A resumed run comes to steps that were written before, which its own counter refuses.
        run.define_metric("*", step_metric="step")
        yield lambda step, numbers: run.log({"step": step, **numbers})
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def _known_id(file: Path, project: str) -> str | None:
    """The id that a run has in a project; None for a run that is not there yet."""
    if not file.exists():
        return None
    record = io.read_object(file)
    if not isinstance(record.get("id"), str):
        raise ValueError(f"{file} does not name the run's id; delete it, and a new one is made")
    return record["id"] if record.get("project") == project else None
