"""What the transforms share: their contract, checked input, and the two files they are saved in."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Real
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from simcse_jax.arrays import AnyArray, Lists
from simcse_jax.checks import check_array, check_finite_rows, check_matrix, first_line, quoted
from simcse_jax.io import AnyPath, read_object, write_bytes, write_json
from simcse_jax.losses.geometry import unit_rows

SETTINGS = "transform.json"
TENSORS = "transform.safetensors"
FORMAT = 1
# Folders of version 0.1 still load.
_RENAMED_KINDS = {"remove_directions": "all_but_the_top"}

# What a class method returns: an object of the class that it is called on.
AnyTransform = TypeVar("AnyTransform", bound="Transform")


class Transform(ABC):
    """A fitted map of embeddings, ``[n, D] -> [n, K]`` float32; frozen, saved in a folder.

    Attributes:
        kind: the name by which ``load_transform`` knows the class.
        input_dim: the length D of what it takes.
        output_dim: the length K of what it gives.
    """

    kind: ClassVar[str]

    @property
    @abstractmethod
    def input_dim(self) -> int:
        """Return the length D of the embeddings it takes."""

    @property
    def output_dim(self) -> int:
        """Return the length K of the embeddings it gives; D unless it says otherwise."""
        return self.input_dim

    @abstractmethod
    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n K"]:
        """Transform embeddings, one row each, to float32 on the host."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the settings (JSON) and the tensors from which ``from_state`` rebuilds it."""

    @classmethod
    def from_state(
        cls: type[AnyTransform], settings: dict[str, Any], tensors: dict[str, np.ndarray]
    ) -> AnyTransform:
        """Rebuild the transform that ``state`` described, whose names are those of the fields."""
        fields: dict[str, Any] = {**settings, **tensors}
        return cls(**fields)

    def save(self, folder: AnyPath) -> None:
        """Write ``transform.json`` and ``transform.safetensors`` into ``folder``."""
        settings, tensors = self.state()
        save_state(folder, {"kind": self.kind, **settings}, tensors)

    @classmethod
    def load(cls: type[AnyTransform], folder: AnyPath) -> AnyTransform:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the folder holds another kind of transform, or damaged files.
        """
        settings, tensors = load_state(folder)
        kind = settings.pop("kind", None)
        if kind != cls.kind:
            raise ValueError(
                f"{Path(folder) / SETTINGS} describes a {quoted(kind)}, not a {quoted(cls.kind)}"
            )
        with explained_damage(folder):
            return cls.from_state(settings, tensors)


@dataclass(frozen=True, eq=False)
class Affine(Transform):
    """``y = (x - mean) W + bias``, then the L2 norm if ``normalize``.

    Whitening and the calibrations are such maps without a bias, and so is a linear Dense module of
    sentence-transformers, with one.

    Attributes:
        mean: ``[D]`` float64.
        matrix: ``W [D, K]`` float64.
        normalize: divide every row by its L2 norm afterwards. Cosines do not change.
        bias: ``[K]`` float64; None for zeros.
    """

    kind: ClassVar[str] = "affine"

    mean: Float[np.ndarray, " D"]
    matrix: Float[np.ndarray, "D K"]
    normalize: bool = False
    bias: Float[np.ndarray, " K"] | None = None

    def __post_init__(self) -> None:
        for name, axes in (("mean", 1), ("matrix", 2), ("bias", 1)):
            if (value := getattr(self, name)) is not None or name != "bias":
                found = np.asarray(check_array(name, value, axes))
                with np.errstate(over="ignore"):  # what float32 does not hold is infinite there
                    if not np.isfinite(found.astype(np.float32)).all():
                        raise ValueError(f"{name} must be finite, as float32 too")
                object.__setattr__(self, name, found)
        shape = self.matrix.shape
        own = self.mean.shape, None if self.bias is None else self.bias.shape
        if own[0] != shape[:1] or own[1] not in (None, shape[1:]):
            raise ValueError(f"a mean {own[0]}, a matrix {shape} and a bias {own[1]} do not fit")
        if not isinstance(self.normalize, bool):
            raise ValueError(f"normalize is {quoted(self.normalize)}; it must be true or false")

    @property
    def input_dim(self) -> int:
        """See ``Transform.input_dim``."""
        return self.matrix.shape[0]

    @property
    def output_dim(self) -> int:
        """See ``Transform.output_dim``."""
        return self.matrix.shape[1]

    def __call__(self, embeddings: Real[AnyArray, "n D"] | Lists) -> Float[np.ndarray, "n K"]:
        """Apply the map.

        Raises:
            ValueError: the embeddings are not ``[n, D]``, or not finite, or the result is not.
        """
        x = check_embeddings(embeddings, dim=self.mean.shape[0])
        # Centred before the product: embeddings that lie in a narrow cone are nearly their mean,
        # and x W - mean W would lose what is left of them.
        with np.errstate(over="ignore", invalid="ignore"):
            y = (x - self.mean.astype(np.float32)) @ self.matrix.astype(np.float32)
            if self.bias is not None:
                y += self.bias.astype(np.float32)
        check_finite_rows("transformed embeddings", y)
        return unit_rows(y) if self.normalize else y

    def dense(self) -> tuple[Float[np.ndarray, "D K"], Float[np.ndarray, " K"]]:
        """Return ``(W, b)`` float32 with ``y = x W + b``: the map as a Dense layer.

        The L2 norm is not in it. ``b = bias - mean W`` is computed in float64.
        """
        return self.matrix.astype(np.float32), self._offset().astype(np.float32)

    def then(self, after: Affine) -> Affine:
        """Return ``after(self(x))`` as one affine map.

        Raises:
            ValueError: this map normalises, so the two are not affine, or the sizes do not meet.
        """
        if self.normalize:
            raise ValueError("a map that normalises is not affine: set normalize on the last one")
        if self.output_dim != after.input_dim:
            raise ValueError(
                f"the first map gives {self.output_dim} dimensions, the second takes "
                f"{after.input_dim}"
            )
        # Centred as the first map is, so that embeddings in a narrow cone keep their digits.
        bias = np.zeros(self.output_dim) if self.bias is None else self.bias
        bias = bias @ after.matrix + after._offset()
        return Affine(self.mean, self.matrix @ after.matrix, after.normalize, bias)

    def _offset(self) -> Float[np.ndarray, " K"]:
        """What the map gives for a zero vector."""
        offset = -(self.mean @ self.matrix)
        return offset if self.bias is None else offset + self.bias

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """See ``Transform.state``."""
        tensors = {"mean": self.mean, "matrix": self.matrix}
        if self.bias is not None:
            tensors["bias"] = self.bias
        return {"normalize": self.normalize}, tensors


def check_embeddings(
    embeddings: Real[AnyArray, "n D"] | Lists,
    *,
    dim: int | None = None,
    least: int = 0,
    finite: bool = True,
) -> Float32[np.ndarray, "n D"]:
    """Return the embeddings as a float32 array on the host.

    Args:
        embeddings: ``[n, D]``, an array of any real numbers, or lists.
        dim: the D they must have.
        least: the number of rows they must at least have.
        finite: look at every number; False where the caller does.

    Raises:
        ValueError: they are not a matrix, not of ``dim`` columns, too few, or not finite; the
            message names the first rows that are not.
    """
    x = np.asarray(check_matrix("embeddings", embeddings))
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"embeddings have {x.shape[1]} dimensions, the transform takes {dim}")
    if x.shape[0] < least:
        raise ValueError(f"at least {least} embeddings are needed, got {x.shape[0]}")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32, copy=False)
    if finite:
        check_finite_rows("embeddings", x)
    return x


def save_state(folder: AnyPath, settings: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Write settings as JSON and tensors as safetensors, each beside its place, then renamed.

    The JSON comes last and holds the SHA-256 of the tensors and of the settings, so that a pair
    torn by an interruption is noticed when it is read, and so is a setting that was changed.
    """
    place = Path(folder)
    # safetensors wants C order; np.ascontiguousarray would give a scalar a dimension.
    payload = save_tensors({k: np.asarray(v, order="C") for k, v in tensors.items()})
    digests = {"sha256": _digest(payload), "settings_sha256": _digest_of(settings)}
    record = {"format": FORMAT, **digests, **settings}
    write_bytes(place / TENSORS, payload)
    write_json(place / SETTINGS, record)


def load_state(
    folder: AnyPath,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what ``save_state`` wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the JSON is not ours or was changed, or the tensors do not belong to it or are
            not finite.
    """
    place = Path(folder)
    for name in (SETTINGS, TENSORS):
        if not (place / name).is_file():
            raise FileNotFoundError(f"{place} holds no {name}: not a folder of a saved transform")
    settings = read_object(place / SETTINGS)
    if settings.pop("format", None) != FORMAT or not isinstance(settings.get("kind"), str):
        raise ValueError(f"{place / SETTINGS} is not a transform of format {FORMAT}")
    payload = (place / TENSORS).read_bytes()
    if _digest(payload) != settings.pop("sha256", None):
        raise ValueError(f"{place / TENSORS} does not match {SETTINGS}: an interrupted save?")
    said = settings.pop("settings_sha256", None)
    if said not in (None, _digest_of(settings)):  # version 0.1 has none
        raise ValueError(f"{place / SETTINGS} has been changed since it was saved; save it again")
    settings["kind"] = _RENAMED_KINDS.get(settings["kind"], settings["kind"])
    tensors = load_tensors(payload)
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{place / TENSORS}: tensor {name} holds NaN or infinite numbers")
    return settings, tensors


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _digest_of(settings: dict[str, Any]) -> str:
    """Return a digest of all settings but the kind, which is looked at by itself."""
    counted = {name: value for name, value in settings.items() if name != "kind"}
    return _digest(json.dumps(counted, sort_keys=True).encode())


@contextmanager
def explained_damage(folder: AnyPath) -> Iterator[None]:
    """Turn what rebuilding meets in settings and tensors that do not fit into a ValueError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{folder} does not hold a whole transform ({what})") from error
