"""What is said where an extra is missing, and that the core does without all of them."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OF_EXTRAS = (
    *("optax", "orbax", "grain", "tensorboardX"),
    *("tensorflow_datasets", "array_record", "mwparserfromhell", "sentencex"),
    *("sklearn", "transformers", "matplotlib", "mteb"),
)


def run_without(blocked, code):
    """Run Python where these packages cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
    return subprocess.run(
        (sys.executable, "-c", f"{block}\n{code}"), capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize(
    ("package", "code", "extra"),
    [
        ("grain", "from simcse_jax import train", "train"),
        ("optax", "import simcse_jax.training", "train"),
        ("orbax.checkpoint", "import simcse_jax.training", "train"),
        (
            "tensorboardX",
            "from pathlib import Path; from simcse_jax.trainer import tensorboard\n"
            "with tensorboard(Path('nowhere')): pass",
            "train",
        ),
        ("mwparserfromhell", "import simcse_jax.data.wikipedia", "data"),
        ("sentencex", "import simcse_jax.data.wikipedia", "data"),
        ("tensorflow_datasets", "import simcse_jax.data.builders", "data"),
        ("sklearn", "import simcse_jax.evaluation.transfer", "sklearn"),
        (
            "transformers",
            "import tempfile; from pathlib import Path\n"
            "from simcse_jax.data.tokenizer import Tokenizer\n"
            "folder = Path(tempfile.mkdtemp()); (folder / 'vocab.txt').touch()\n"
            "Tokenizer.from_folder(folder)",
            "transformers",
        ),
    ],
)
def test_a_missing_extra_is_one_sentence(package, code, extra):
    done = run_without((package,), code)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    name = re.escape(package.partition(".")[0])
    install = re.escape(f'`pip install "simcse_jax[{extra}]"` brings it')
    assert re.search(rf"MissingExtra: {name}\S* is not installed; {install}$", said), done.stderr


def test_the_command_says_so_in_one_line():
    code = "from simcse_jax.cli import main; main(['train', 'unsup_simcse'])"
    done = run_without(("grain",), code)
    assert done.returncode == 2
    assert done.stderr == (
        'error: grain is not installed; `pip install "simcse_jax[train]"` brings it\n'
    )


@pytest.mark.slow
def test_the_core_encodes_transforms_and_evaluates(golden, tiny_data, tmp_path):
    (tmp_path / "text.txt").write_text("a dog eats\nthe cat sat\na bird\n")
    code = f"""
from simcse_jax import SentenceEncoder
from simcse_jax.cli import main
from simcse_jax.transforms import Whitening
encoder = SentenceEncoder.from_pretrained({str(golden / "tiny-bert")!r}, pooling="mean")
whitened = encoder.with_transform(Whitening.fit(encoder.encode(["a dog", "a cat", "one"]), k=2))
whitened.save_pretrained({str(tmp_path / "model")!r})
options = ["--model", {str(tmp_path / "model")!r}]
main(["encode", {str(tmp_path / "text.txt")!r}, "--output", {str(tmp_path / "v.npy")!r}, *options])
main(["evaluate", "--data", {str(tiny_data)!r}, "--tasks", "STS-B", *options])
"""
    done = run_without(OF_EXTRAS, code)
    assert done.returncode == 0, done.stderr
    assert "STS-B" in done.stdout


def lines_of(text):
    lines = (line.strip() for line in text.splitlines())
    return {line for line in lines if line and not line.startswith("#")}


def test_the_requirements_are_the_core_and_all_extras():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    (everything,) = lines_of(extras["all"])
    of_all = re.fullmatch(r"simcse_jax\[(.*)\]", everything)[1].split(",")
    assert {*of_all, "mteb", "all"} == set(extras)
    listed = lines_of(setup["options"]["install_requires"])
    for name in of_all:
        listed |= lines_of(extras[name])
    assert listed == lines_of((ROOT / "requirements.txt").read_text())


def test_every_extra_that_is_named_exists():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = set()
    for path in (ROOT / "simcse_jax").rglob("*.py"):
        named |= set(re.findall(r'needing\("(\w+)"\)', path.read_text()))
    assert {"train", "data", "sklearn", "transformers"} <= named
    assert named <= set(setup["options.extras_require"])
