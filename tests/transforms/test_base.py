"""The two files of a saved transform, whole or damaged; the checks that every input passes."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from simcse_jax.transforms import Affine, Standardization, Whitening, fit, load_transform, save
from simcse_jax.transforms.base import check_embeddings, save_state


@pytest.fixture
def saved(tmp_path):
    save(Affine(np.zeros(3), np.eye(3)), tmp_path)
    return tmp_path


@pytest.mark.usefixtures("unchecked")
def test_fit_by_the_name_of_a_kind():
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    found = fit("whitening", x, k=2)
    assert isinstance(found, Whitening)
    np.testing.assert_array_equal(found.matrix, Whitening.fit(x, 2).matrix)
    for kind, options in (
        ("standardization", {}),
        ("all_but_the_top", {}),
        ("flow", {"epochs": 0}),
    ):
        assert fit(kind, x, **options).kind == kind
    with pytest.raises(ValueError, match="no transform is called 'affine'; choose from whitening"):
        fit("affine", x)
    with pytest.raises(TypeError, match="seed"):
        fit("whitening", x, seed=1)


def test_missing_file(saved):
    (saved / "transform.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no transform\.safetensors"):
        load_transform(saved)


def test_files_of_two_saves(saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save(Affine(np.ones(3), np.eye(3)), other)
    (saved / "transform.safetensors").write_bytes((other / "transform.safetensors").read_bytes())
    with pytest.raises(ValueError, match="does not match"):
        load_transform(saved)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "change",
    [{"normalised": True}, {"kind": ["affine"]}, {"kind": "flow"}, {"normalize": float("nan")}],
)
def test_settings_that_do_not_fit(saved, change):
    record = json.loads((saved / "transform.json").read_text())
    (saved / "transform.json").write_text(json.dumps(record | change))
    message = r"not hold a whole transform|not a transform of format 1"
    with pytest.raises(ValueError, match=rf"transform\.json has been changed|{message}"):
        load_transform(saved)
    del record["settings_sha256"]  # as version 0.1 wrote it
    (saved / "transform.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=message):
        load_transform(saved)


@pytest.mark.usefixtures("unchecked")
def test_tensors_that_do_not_fit(tmp_path):
    for tensors, message in (
        ({"mean": np.zeros(3)}, "not hold a whole transform"),
        ({"mean": np.zeros(2), "matrix": np.eye(3)}, "do not fit"),
        ({"mean": np.zeros(3), "matrix": np.eye(3), "bias": np.zeros(2)}, "do not fit"),
        ({"mean": np.full(3, np.nan), "matrix": np.eye(3)}, "tensor mean holds NaN"),
        ({"mean": np.zeros(3), "matrix": np.full((3, 3), np.inf)}, "tensor matrix holds NaN or"),
    ):
        save_state(tmp_path, {"kind": "affine", "normalize": False}, tensors)
        with pytest.raises(ValueError, match=message):
            load_transform(tmp_path)


def test_other_kind(saved):
    with pytest.raises(ValueError, match="'affine', not a 'standardization'"):
        Standardization.load(saved)
    record = json.loads((saved / "transform.json").read_text())
    (saved / "transform.json").write_text(json.dumps({**record, "kind": "sphere"}))
    with pytest.raises(ValueError, match="'sphere'; known are affine"):
        load_transform(saved)
    (saved / "transform.json").write_text(json.dumps({**record, "format": 99}))
    with pytest.raises(ValueError, match="format 1"):
        load_transform(saved)
    (saved / "transform.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_transform(saved)


def test_a_failed_save_leaves_the_old_one(saved, monkeypatch):
    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("simcse_jax.io.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(Affine(np.ones(3), np.eye(3)), saved)
    monkeypatch.undo()
    np.testing.assert_array_equal(load_transform(saved)(np.ones((1, 3))), np.ones((1, 3)))
    assert len(list(saved.iterdir())) == 2


def test_saving_again_replaces(saved):
    save(Affine(np.ones(3), np.eye(3)), saved)
    np.testing.assert_array_equal(load_transform(saved)(np.ones((1, 3))), np.zeros((1, 3)))


@pytest.mark.usefixtures("unchecked")
def test_check_embeddings():
    assert check_embeddings(jnp.ones((2, 3), jnp.bfloat16)).dtype == np.float32
    assert check_embeddings(np.full((2, 3), 3e38, np.float32)).shape == (2, 3)
    x = np.zeros((9, 2))
    x[[1, 2, 4, 5, 6, 8], 0] = np.inf
    with pytest.raises(
        ValueError, match="embeddings must be finite; rows 1, 2, 4, 5, 6, … are not"
    ):
        check_embeddings(x)
    with pytest.raises(ValueError, match="real numbers"):
        check_embeddings(np.array([["a"]]))


@pytest.mark.usefixtures("unchecked")
def test_an_affine_map_is_of_real_numbers():
    with pytest.raises(ValueError, match="matrix must be real numbers, not complex128"):
        Affine(np.zeros(2), 1j)
    for broken in (np.inf, np.nan, 1e300):  # float32 ends at 3e38
        with pytest.raises(ValueError, match="mean must be finite"):
            Affine(np.array([0.0, broken]), np.eye(2))
    with pytest.raises(ValueError, match="mean must have 1 axes"):
        Affine(np.zeros((2, 2)), np.eye(2))
    np.testing.assert_array_equal(Affine([1, 2], [[1], [0]])([[3, 4]]), [[2]])
    with pytest.raises(ValueError, match="transformed embeddings must be finite; row 1 is not"):
        Affine([0, 0], np.eye(2) * 1e38)([[1, 2], [10, 20]])
