"""Checkpoints of a run: everything that resuming needs to give the same bits.

The only file that knows orbax. A checkpoint is a folder ``<step>`` that orbax writes under another
name and renames once it is whole, so that a kill at any moment leaves the older ones as they were.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Key
from orbax.checkpoint import v1 as ocp

from simcse_jax import io
from simcse_jax.checks import first_line, quoted

log = logging.getLogger(__name__)

FORMAT = "simcse_jax run 1"
METADATA = "_CHECKPOINT_METADATA"
# A checkpoint has one of these at least.
ORBAX = {METADATA, "commit_success.txt", "run"}

T = TypeVar("T")


class Restored(NamedTuple):
    """What a checkpoint held.

    Attributes:
        step: the number of updates done.
        state: the training state, on the devices of the template's.
        key: the run's key.
        extra: the JSON that was saved with it.
    """

    step: int
    state: Any
    key: Key[Array, ""]
    extra: dict[str, Any]


class UnusableCheckpoint(ValueError):
    """A checkpoint that is damaged, or that lacks what its run needs to go on from it.

    Attributes:
        reason: what is wrong with it; the message also says what to do.
    """

    def __init__(self, reason: str, mend: str):
        super().__init__(f"{reason}; {mend}")
        self.reason = reason


def latest_step(folder: Path) -> int | None:
    """Return the step of the newest checkpoint in a folder, which is not touched; None without."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=None)


class ChangedSettings(ValueError):
    """A run is to go on with other settings than it was begun with.

    Attributes:
        names: of the settings.
    """

    def __init__(self, message: str, names: tuple[str, ...]):
        super().__init__(message)
        self.names = names


def changed_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return which settings differ, by name, and how, in words.

    Older versions wrote down the name of a data set beside files too, which says nothing of them.
    """
    if "dataset" not in wanted:
        saved = {name: value for name, value in saved.items() if name != "dataset"}
    # Nobody knows a text or a model by its digest.
    digests = {
        "text": "the training text has changed",
        "start": "the model to start from has changed",
        "scored_on": "what is scored, by eval_data or test_files, has changed",
        "embeddings": "the vectors that the flow is fitted to have changed",
    }
    return {
        name: digests.get(name)
        or f"{name} was {quoted(saved.get(name))} and is {quoted(wanted.get(name))}"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    }


# orbax and tensorstore take these in a path for patterns, for other separators, or for a scheme.
_NO_PATH = re.compile(r"\[.*\]|[\\\n\r]|:(?=/|$)")


def check_path(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder of whose name the library that writes checkpoints would make another.

    Raises:
        ValueError: the path has brackets, a backslash or a line break, or a name ends in a colon.
    """
    if found := _NO_PATH.search(str(Path(folder).absolute())):
        raise ValueError(
            f"checkpoints cannot be kept in {quoted(str(folder), 200)}, for {quoted(found[0])} in "
            "its path; give a folder without brackets, backslashes, line breaks and final colons"
        )


class RunCheckpoints:
    """The checkpoints in a run's folder.

    Every process of a run makes one and calls the same methods. Use it as a context manager, or
    call `close`. A checkpoint is written in a thread, while training goes on; whatever asks for the
    checkpoints that are there waits for it, and raises its error.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any] | None = None,
        *,
        keep: int = 2,
    ):
        """Open a folder; what a killed run had half written is removed.

        Args:
            folder: made if need be.
            settings: JSON that must not change when the run is resumed.
            keep: so many checkpoints are kept, the newest.

        Raises:
            ValueError: ``keep`` is below 1, or the settings are not JSON.
            OSError: the folder cannot be made, or holds numbered folders that are no checkpoints.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint must be kept")
        check_path(folder)
        self.folder, self.keep = Path(folder).absolute(), keep
        self._failed: list[int] = []
        self._writer = futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: futures.Future[None] | None = None
        _at_end(_finish, weakref.ref(self))
        # Through JSON, so that tuples and lists compare equal.
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self._refuse_foreign()
        training = ocp.training
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._checkpointer = training.Checkpointer(
                self.folder,
                save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=training.preservation_policies.LatestN(keep),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise type(error)(f"cannot keep checkpoints in {self.folder}: {error}") from error
        except (
            Exception
        ) as error:  # what orbax makes of a damaged checkpoint, which it does not name
            _raise_if_told_to_stop(error)
            raise ValueError(
                f"a checkpoint in {self.folder} is damaged ({_named(error)}); delete it"
            ) from error

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except OSError as error:
            if kind is None:
                raise
            log.warning("%s", error)  # beside the error that is under way

    def _refuse_foreign(self) -> None:
        """Refuse folders that would be taken for checkpoints, and deleted when they are old."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            found = {p.name for p in path.iterdir()} if path.is_dir() else set()
            if path.name.isdecimal() and found and not found & ORBAX:
                raise FileExistsError(f"{path} is no checkpoint of a run; choose another folder")
            if METADATA in found and io.is_special(path / METADATA):  # orbax would wait for ever
                raise FileExistsError(f"{path / METADATA} is a pipe or a device; delete {path}")

    @property
    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that are there, oldest first."""
        self.wait()
        return sorted(c.step for c in self._checkpointer.checkpoints)

    @property
    def latest(self) -> int | None:
        """Return the step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    def save(
        self, step: int, state: Any, key: Key[Array, ""], extra: Mapping[str, Any] | None = None
    ) -> None:
        """Begin to write a checkpoint; older ones beyond ``keep`` are deleted once it is whole.

        A copy on the devices is written, so that the state may be given away at once. It needs as
        much memory again until then, which is why a second checkpoint waits for the first. Where
        there is not as much, it returns when it is whole. Several processes copy the state to
        their hosts instead, and return then. A program that ends meanwhile waits for it.

        Args:
            step: the number of updates done; nothing is written where it is there already.
            state: a tree of replicated arrays.
            key: the run's key.
            extra: JSON to go with it: the state of the data's iterator, the best score so far.

        Raises:
            OSError: the checkpoint before could not be written, or this one not begun; see `wait`.
        """
        if step in self.steps:
            return
        info = {
            "format": FORMAT,
            "settings": self.settings,
            "extra": dict(extra or {}),
            "key_impl": str(jax.random.key_impl(key)),
        }
        older, tree = self.latest, _tree(state, key)
        if jax.process_count() > 1:
            # orbax begins with collectives, which must come between the same steps everywhere, and
            # has the values on the host after that. Its threads then meet at barriers of JAX's
            # coordination service, which no step waits for.
            with self._explained(step, older):
                finish = self._begin(step, tree, info)
            self._writing = self._writer.submit(self._write, step, finish, older)
            return
        if (copy := _copied(tree)) is None:
            log.warning(
                "no memory is left for a copy of the training's state, so that training waits "
                "for checkpoints"
            )
        written = tree if copy is None else copy
        self._writing = self._writer.submit(
            self._write, step, lambda: self._begin(step, written, info)(), older
        )
        if copy is None:
            self.wait()

    def wait(self) -> None:
        """Return when what was saved is whole.

        Raises:
            OSError: the disk is full or broken; the older checkpoints are still there.
        """
        if self._writing is None:
            return
        futures.wait([self._writing])
        written, self._writing = self._writing, None
        written.result()

    def check_writing(self) -> None:
        """Raise what `wait` would where that is known by now, without waiting.

        Several processes call it at the same step, and where one could not write, all raise.

        Raises:
            OSError: as `wait`, or another process could not write the checkpoint.
        """
        if self._writing is None:  # in every process: they save and wait at the same steps
            return
        done = self._writing.done()
        failed = done and self._writing.exception() is not None
        all_done, any_failed = _agreed(done, failed)
        if any_failed and not failed:
            raise OSError(f"another process could not write the checkpoint to {self.folder}")
        if all_done or failed:
            self.wait()

    def _begin(self, step: int, tree: Any, info: dict[str, Any]) -> Callable[[], object]:
        """Begin to write a checkpoint, and return what waits until it is whole."""
        response: Any = self._checkpointer.save_checkpointables_async(
            step, {"run": tree}, custom_metadata=info | {"checksum": _checksum(tree)}
        )
        return response.result

    def _write(self, step: int, write: Callable[[], object], older: int | None) -> None:
        """Write a checkpoint and return when it is whole.

        In a thread of its own it must not ask for `steps`, which waits for it.
        """
        with self._explained(step, older):
            write()
            self._check_written(step)

    @contextlib.contextmanager
    def _explained(self, step: int, older: int | None) -> Iterator[None]:
        """Say in one sentence why a checkpoint cannot be written, and which is kept."""
        try:
            yield
        except Exception as error:  # orbax hands on whatever tensorstore and the system raise
            _raise_if_told_to_stop(error)
            self._failed.append(step)
            self._remove_partial()
            kept = "there is no older one" if older is None else f"that of step {older} is kept"
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} "
                f"({kept}): {_named(error)}"
            ) from error

    def _check_written(self, step: int) -> None:
        """Delete a checkpoint of which a file is missing, and raise OSError.

        On a disk that is all but full, orbax has once called such a one written.
        """
        if jax.process_count() > 1:  # one would delete what another still looks at
            return
        if self._checkpointer.checkpointables_metadata(step).metadata["run"] is None:
            self._checkpointer.delete(step)
            raise OSError("a file of it is missing")

    def check(self, resume: bool) -> None:
        """Refuse a run that is not to go on here, before anything of it is done.

        Raises:
            FileExistsError: there is a checkpoint, and ``resume`` is False.
            ValueError: the newest that can be read is of other settings, or none can.
        """
        step = self.latest
        if step is None:
            return
        if not resume:
            raise FileExistsError(
                f"{self.folder} holds a run at step {step}; go on with it by --resume (in Python "
                "resume=True), or choose another folder"
            )
        info = self.newest(lambda step: self._info(step, self.folder / str(step)))
        self._check_settings(info["settings"])

    def newest(self, use: Callable[[int], T]) -> T:
        """Return what ``use`` makes of the step of the newest checkpoint that it can use.

        Raises:
            UnusableCheckpoint: ``use`` raises it for every checkpoint.
        """
        refused: list[UnusableCheckpoint] = []
        for step in reversed(self.steps):
            try:
                return use(step)
            except UnusableCheckpoint as error:
                refused.append(error)
        if len(refused) == 1:
            raise refused[0]
        raise UnusableCheckpoint(
            f"{refused[0].reason}, and the older ones are no better",
            f"delete {self.folder} to train from the start",
        )

    def go_on_from(self, step: int) -> None:
        """Delete the checkpoints after a step that was restored, and those before beyond ``keep``.

        A process that was killed between a save and the deletion of the oldest has left one too
        many, which orbax would keep for ever.

        Raises:
            OSError: one cannot be deleted.
        """
        for later in [s for s in self.steps if s > step]:
            self._checkpointer.delete(later)
        for older in self.steps[: -self.keep]:
            self._checkpointer.delete(older)

    def restore(self, state: Any, key: Key[Array, ""], step: int | None = None) -> Restored:
        """Read a checkpoint.

        Args:
            state: a state of the same run, for its structure, shapes and devices.
            key: a key, for its kind and devices.
            step: which checkpoint; the newest by default.

        Raises:
            FileNotFoundError: there is none.
            UnusableCheckpoint: it is damaged, or not of such a run.
            ValueError: a setting has changed; the message names it.
                The folder is left as it is.
        """
        step = self.latest if step is None else step
        if step is None or step not in self.steps:
            what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise FileNotFoundError(f"{self.folder} holds {what}")
        path = self.folder / str(step)
        info = self._info(step, path)
        self._check_settings(info["settings"])
        impl = str(jax.random.key_impl(key))
        if info["key_impl"] != impl:
            raise ValueError(f"{path} has a {info['key_impl']} key; this run has a {impl} key")
        template = jax.tree.map(_abstract, _tree(state, key))
        try:
            loaded = self._checkpointer.load_checkpointables(step, {"run": template})["run"]
        except Exception as error:  # whatever orbax and tensorstore make of broken bytes
            _raise_if_told_to_stop(error)
            raise self._damaged(step, path, _named(error)) from error
        if _checksum(loaded) != info["checksum"]:
            raise self._damaged(step, path, "its checksum differs")
        restored_key = jax.random.wrap_key_data(loaded["key"], impl=jax.random.key_impl(key))
        return Restored(step, loaded["state"], restored_key, info["extra"])

    def close(self) -> None:
        """Let go of the folder, once what was saved is whole.

        Raises:
            OSError: it could not be written, as `wait` would have said.
        """
        self._writer.shutdown()
        # After a failed save orbax raises the same error again here; it has been reported.
        with contextlib.suppress(Exception):
            self._checkpointer.close()
        self._remove_partial()  # its threads may have written on since
        self.wait()

    def _remove_partial(self) -> None:
        """Remove what is there of checkpoints that could not be written."""
        for step in self._failed if jax.process_index() == 0 else ():
            for partial in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(partial, ignore_errors=True)

    def _info(self, step: int, path: Path) -> dict[str, Any]:
        for file in path.rglob("*"):  # orbax would wait for ever for who writes into a pipe
            if io.is_special(file):
                raise self._damaged(step, path, f"{file.name} is a pipe or a device")
        try:
            info: Any = self._checkpointer.checkpointables_metadata(step).custom_metadata
        except Exception as error:  # as above
            _raise_if_told_to_stop(error)
            raise self._damaged(step, path, _named(error)) from error
        if isinstance(info, dict) and info.get("format") == FORMAT:
            return info
        try:
            io.read_json(path / METADATA)
        except (OSError, ValueError) as error:
            raise self._damaged(step, path, _named(error)) from error
        # It is whole, and so not ours to pass over.
        raise ValueError(
            f"{path} is not a checkpoint of such a run (its format is not {FORMAT!r}); give the "
            "run another folder"
        )

    def _check_settings(self, saved: Mapping[str, Any]) -> None:
        if changes := changed_settings(saved, self.settings):
            raise ChangedSettings(
                f"the run in {self.folder} cannot be resumed with other settings: "
                f"{'; '.join(changes.values())}",
                tuple(changes),
            )

    def _damaged(self, step: int, path: Path, reason: str) -> UnusableCheckpoint:
        older = [s for s in self.steps if s < step]
        mend = f"resume from step {older[-1]}" if older else "train from the start"
        return UnusableCheckpoint(
            f"the checkpoint {path} is damaged or of another model ({reason})",
            f"delete it to {mend}",
        )


# What atexit calls comes when nothing can be begun in threads any more: what orbax is writing then
# is lost, after minutes in which its threads wait for each other. Python's own executors are
# finished by these means, which have no public name.
_at_end: Callable[..., object] = threading._register_atexit  # type: ignore[attr-defined]


def _finish(reference: weakref.ref[RunCheckpoints]) -> None:
    """Wait, at the end of the program, for what is being written, and tell of its error."""
    if (run := reference()) is not None:
        try:
            run.wait()
        except OSError as error:
            log.warning("%s", error)


def _tree(state: Any, key: Key[Array, ""]) -> dict[str, Any]:
    return {"state": state, "key": jax.random.key_data(key)}


def _agreed(done: bool, failed: bool) -> tuple[bool, bool]:
    """Return whether all processes are done, and whether any has failed."""
    if jax.process_count() == 1:
        return done, failed
    said = multihost_utils.process_allgather(np.asarray([done, failed]))
    return bool(said[:, 0].all()), bool(said[:, 1].any())


def _copied(tree: Any) -> Any:
    """Copy arrays on their devices; return None where there is no memory for it."""
    try:
        return jax.tree.map(jnp.copy, tree)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def _abstract(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _checksum(tree: Any) -> int:
    """CRC-32 over all leaves, because the storage does not notice a flipped bit in its values."""
    value = 0
    for leaf in jax.tree.leaves(tree):
        value = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, value)
    return value


def _raise_if_told_to_stop(error: BaseException) -> None:
    """Raise what SIGTERM or Ctrl-C raised, where orbax, which catches all, made an error of it."""
    # What it came after may be a signal of before, in whose handler a checkpoint is read.
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, SystemExit | KeyboardInterrupt):
            raise cause
        cause = cause.__cause__


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
