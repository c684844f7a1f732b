"""What runs without the extras, what then says which one it needs, and one list of requirements."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

NAMES = %r
sys.meta_path.insert(0, Missing())
from simcse_jax import SentenceEncoder, cli
"""


# What the tests have stand-ins for; `make test-oracle` has the first itself.
STOOD_IN_FOR = ("datasets", "wandb")


def sections():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = {name: lines.split() for name, lines in parser["options.extras_require"].items()}
    return parser["options"]["install_requires"].split(), extras


def names(lines):
    return {re.split(r"[><=\[]", line)[0] for line in lines}


def without(missing, code):
    modules = [
        {"orbax-checkpoint": "orbax", "scikit-learn": "sklearn"}.get(n, n.replace("-", "_"))
        for n in missing
    ]
    script = WITHOUT % (modules,) + code
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def every_extra():
    _, extras = sections()
    return sorted(set().union(*(names(lines) for name, lines in extras.items() if name != "all")))


def test_the_core_and_the_extras_are_the_whole():
    core, extras = sections()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    whole = [line for line in lines if line and not line.startswith("#")]
    parts = [name for name in extras if name not in ("all", "mteb")]
    needed = [name for name in parts if name not in STOOD_IN_FOR]
    listed = core + [line for name in needed for line in extras[name]]
    assert sorted(listed) == sorted(whole)
    assert extras["all"] == [f"simcse_jax[{','.join(parts)}]"]
    # mteb brings torch, and so is of the other environment.
    assert set(extras["mteb"]) <= set((ROOT / "requirements-oracle.txt").read_text().splitlines())


def test_encoding_transforms_and_sts_need_no_extra(golden):
    done = without(
        every_extra(),
        f"""
import numpy as np
import simcse_jax.evaluation.isotropy, simcse_jax.evaluation.search, simcse_jax.evaluation.sts
from simcse_jax.transforms import FlowConfig, Whitening
encoder = SentenceEncoder.from_pretrained({str(golden / "tiny-bert")!r}, pooling="mean")
vectors = encoder.encode(["a dog", "a cat eats", "the man", "music"])
print(Whitening.fit(vectors, k=2)(vectors).shape)
""",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "(4, 2)"


@pytest.mark.parametrize(
    ("extra", "package", "command"),
    [
        ("train", "grain", ["train", "unsup_simcse", "--train-files", "text.txt"]),
        ("data", "sentencex", ["train", "unsup_simcse", "--dataset", "embedded_wikipedia"]),
        ("parquet", "pyarrow", ["train", "unsup_simcse", "--train-files", "text.parquet"]),
        ("datasets", "datasets", ["train", "unsup_simcse", "--dataset", "hf:somebody/something"]),
        ("wandb", "wandb", ["train", "unsup_simcse", "--wandb", "project"]),
    ],
)
def test_a_missing_extra_is_one_sentence_with_the_line_for_pip(extra, package, command, tmp_path):
    assert package in names(sections()[1][extra])
    (tmp_path / "text.parquet").touch()
    command = [*command, "--output-dir", str(tmp_path / "run")]
    done = without([package], f"import os; os.chdir({str(tmp_path)!r}); cli.main({command!r})")
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert line.endswith(f"pip install 'simcse_jax[{extra}]'")
    assert "Traceback" not in done.stderr


def test_the_transfer_tasks_name_theirs():
    code = "from simcse_jax import *\nevaluate_transfer(len, [])"
    done = without(["scikit-learn"], code)
    assert "pip install 'simcse_jax[transfer]'" in done.stderr.splitlines()[-1]


def test_what_draws_says_at_once_that_matplotlib_is_missing():
    scripts = [f"experiments.{n}" for n in ("demo", "figures", "tables.retrieval")]
    scripts.append("experiments.tables.pair_search")
    done = without(
        ["matplotlib"],
        f"""
import runpy
for script in {scripts!r}:
    sys.argv = [script]
    try:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(end.code)
""",
    )
    assert done.stdout.split() == ["2"] * len(scripts), done.stderr[-2000:]
    sentence = "error: drawing needs the package matplotlib: pip install 'simcse_jax[plots]'"
    assert done.stderr.splitlines() == [sentence] * len(scripts)


def test_mteb_is_missed_before_a_model_is_looked_for():
    done = without(["mteb"], "from simcse_jax import mteb\nmteb.load('/no/such/folder')")
    assert done.stderr.splitlines()[-1].endswith(
        "a model for mteb needs the package mteb: pip install 'simcse_jax[mteb]'"
    )
