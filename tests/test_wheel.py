"""The wheel alone, outside the checkout: trains on a text file and encodes with what came out."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tiny_data import SENTENCES

ROOT = Path(__file__).resolve().parents[1]


def run(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_train_and_encode_from_the_wheel(tmp_path, golden):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "simcse_jax", source / "simcse_jax")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    run(*pip, *build, cwd=tmp_path)
    (wheel,) = tmp_path.glob("simcse_jax-*.whl")

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
    run(*pip, "--python", str(python), *install, cwd=tmp_path)
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
