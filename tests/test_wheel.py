"""The wheel alone, outside the checkout: with the core it encodes, with everything it trains."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tiny_data import SENTENCES

from simcse_jax import SentenceEncoder

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "simcse_jax", source / "simcse_jax")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = ("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source))
    run(*PIP, *build, cwd=folder)
    (built,) = folder.glob("simcse_jax-*.whl")
    return built


@pytest.mark.slow
def test_the_core_alone_encodes(wheel, tmp_path, golden):
    """Installed by pip into an empty environment, as a user does; the network is pip's only."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=tmp_path)
    python = str(environment / "bin" / "python")
    run(*PIP, "--python", python, "install", "-q", str(wheel), cwd=tmp_path)
    listed = run(*PIP, "--python", python, "list", "--format=freeze", cwd=tmp_path).split()
    names = {line.partition("==")[0] for line in listed}
    assert "simcse_jax" in names
    assert not names & {
        *("torch", "transformers", "scikit-learn", "grain", "tensorboardX"),
        *("tensorflow-datasets", "mwparserfromhell", "matplotlib"),
    }

    model = shutil.copytree(golden / "tiny-bert", tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    command = str(environment / "bin" / "simcse-jax")
    options = ("--model", str(model), "--pooling", "mean")
    run(command, "encode", "text.txt", "--output", "vectors.npy", *options, cwd=tmp_path)
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape == (len(SENTENCES), 32)
    expected = SentenceEncoder.from_pretrained(model, pooling="mean").encode(SENTENCES)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.slow
def test_train_and_encode_from_the_wheel(wheel, tmp_path, golden):
    # An environment with the wheel and, for the dependencies, a path to where they lie. The
    # checkout is not on it: what a path file adds is not searched for other path files. Nor are
    # the embedded corpora, which a user need not have: an empty package stands before them.
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=tmp_path)
    python = environment / "bin" / "python"
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (packages / "gensim").mkdir()
    (packages / "gensim" / "__init__.py").touch()
    install = ("install", "-q", "--no-deps", "--no-index", str(wheel))
    run(*PIP, "--python", str(python), *install, cwd=tmp_path)
    place = run(str(python), "-c", "import simcse_jax; print(simcse_jax.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(environment)

    model = shutil.copytree(golden / "tiny-bert", tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES) + "\n")
    command = str(environment / "bin" / "simcse-jax")
    options = "--train-files text.txt --num-layers 1 --batch-size 8 --max-length 16 --max-steps 2"
    printed = run(
        *(command, "train", "unsup_simcse", "--model", str(model), *options.split()),
        *("--output-dir", "run"),
        cwd=tmp_path,
    )
    assert "nothing is scored and the last model is kept" in " ".join(printed.split())
    assert "from_pretrained('run/best')" in printed
    encode = ("encode", "text.txt", "--model", "run/best", "--output", "vectors.npy")
    run(command, *encode, cwd=tmp_path)
    vectors = np.load(tmp_path / "vectors.npy")
    assert vectors.shape == (len(SENTENCES), 32)
    assert np.isfinite(vectors).all()
