"""README and docs: their snippets run, their commands parse, their tables are what was measured."""

import importlib
import re
import shlex
import sys
from configparser import ConfigParser
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
from tiny_data import THINGS, VERBS, WORDS

import simcse_jax
from simcse_jax import SentenceEncoder, cli, hosts, hub, trainer
from simcse_jax.data import wikipedia
from simcse_jax.training import make_mesh

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import api_pages  # noqa: E402
import fill_tables  # noqa: E402
import result_tables  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "methods").glob("*.md"))


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    """The fenced blocks of a page in a language."""
    text = page.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# ---------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------


def lines_of(block):
    """The commands of a block, those that go over several lines in one."""
    joined = block.replace("\\\n", " ").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def all_commands():
    """Every command that README, docs and their generated tables have, once, by where it stands."""
    found = {}
    for page in PAGES:
        own = blocks(page, "sh")
        own += re.findall(r"^    (python -m .*)$", page.read_text("utf-8"), re.MULTILINE)
        for words in (words for block in own for words in lines_of(block)):
            found.setdefault(tuple(words), name_of(page))
    for name, made in result_tables.TABLES.items():
        for words in lines_of(made.command):
            found.setdefault(tuple(words), f"the table {name}")
    for command in re.findall(r"\| `([^`|]+)` \|$", fill_tables.methods(), re.MULTILINE):
        found.setdefault(tuple(shlex.split(command)), "README's methods")
    return found


def check_pip(words):
    """Only extras and packages that exist are installed, those without dependencies as pinned."""
    if words[0] == "--no-deps":
        pinned = (ROOT / "requirements-embedded.txt").read_text().splitlines()
        assert set(words[1:]) <= set(pinned)
        return
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    own, jax = r"(?:\.|simcse_jax)(?:\[([\w,]+)\])?", r"jax\[(cuda13|tpu)\]"
    for requirement in words:
        match = re.fullmatch(own, requirement)
        assert match or re.fullmatch(jax, requirement), requirement
        if match and match[1]:
            assert set(match[1].split(",")) <= extras, requirement


def check_make(words):
    """The targets exist."""
    makefile = (ROOT / "Makefile").read_text()
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def check_module(module, args):
    """A script of the experiments takes these options."""
    if (ROOT / module.replace(".", "/")).is_dir():
        module += ".__main__"
    script = importlib.import_module(module)
    source = Path(script.__file__).read_text("utf-8")
    if not (settings := re.search(r"tyro\.cli\((\w+), description", source)):
        assert 'if __name__ == "__main__":' in source, f"{module} is no script"
        return  # the campaigns, which read their options by other means
    assert tyro.cli(getattr(script, settings[1]), args=args) is not None


class Parsed(Exception):
    """A command was understood."""


def check_simcse_jax(words, monkeypatch):
    """The console command takes these options; it is not run."""

    def parsed(*_, **__):
        raise Parsed

    monkeypatch.setattr(cli.Encode, "run", parsed)
    monkeypatch.setattr(cli.Evaluate, "run", parsed)
    monkeypatch.setattr(cli, "run_or_explain", lambda run, *_: run())
    monkeypatch.setattr(trainer, "train", parsed)
    monkeypatch.setattr(hosts, "is_child", lambda: True)
    monkeypatch.setattr(hosts, "run_as_child", lambda run: run())
    if "--help" in words:
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0
        return
    with pytest.raises(Parsed):
        cli.main(words)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(list(words), id=f"{at}: {' '.join(words)}")
        for words, at in all_commands().items()
    ],
)
def test_a_command_is_understood(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    # What starts it on several hosts, as those programs understand it.
    if words[0] == "gcloud":
        (inner,) = (word.partition("=")[2] for word in words if word.startswith("--command="))
        words = shlex.split(inner)
    words = words[words.index("simcse-jax") :] if words[0] in ("srun", "mpirun") else words
    match words:
        case ["pip", "install", *packages]:
            check_pip(packages)
        case ["make", *targets]:
            check_make(targets)
        case ["tensorboard", "--logdir", folder]:
            assert folder == "runs"  # where configurations put their runs
        case ["simcse-jax", *args]:
            check_simcse_jax(args, monkeypatch)
        case ["python" | ".venv-oracle/bin/python", "-m", module, *args]:
            check_module(module, args)
        case ["python", script]:
            assert (ROOT / script).is_file()
        case _:
            pytest.fail(f"no test knows the command {' '.join(words)}")


# ---------------------------------------------------------------------------------------------
# Snippets
# ---------------------------------------------------------------------------------------------

PAGES_WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
SENTENCES = [
    f"a {one} {verb} with the {thing} of a {other}"
    for one in WORDS
    for verb in VERBS
    for thing in THINGS
    for other in (*WORDS, *THINGS)
]  # 540, more than whitening keeps directions


@pytest.fixture(scope="module")
def minilm():
    return SentenceEncoder.from_pretrained("minilm", pooling="mean")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name_of)
def test_snippets_run(page, minilm, tiny_data, golden, tmp_path, monkeypatch, capsys):
    """In the order of the page, each with what the ones before it left."""
    # mteb is in the other environment, where tests/oracle/test_mteb.py runs its snippet.
    snippets = [code for code in blocks(page, "python") if "import mteb" not in code]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES) + "\n")
    # As written, but of a tiny model and for a step.
    short = {"model": str(golden / "tiny-bert"), "max_length": 16, "max_steps": 1}
    short["eval_data"] = tiny_data
    monkeypatch.setattr(trainer, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
    real = simcse_jax.train
    monkeypatch.setattr(
        simcse_jax,
        "train",
        lambda config, **options: real(config, **options | short),
        raising=False,
    )
    monkeypatch.setattr(hub, "upload", lambda folder, name, **_: f"{name}: {folder}")
    # Wikipedia takes long to read.
    monkeypatch.setattr(wikipedia, "embedded_wikipedia", lambda: ())
    monkeypatch.setattr(wikipedia, "sentences", lambda articles: SENTENCES)
    rng = np.random.default_rng(0)
    names = ("anchors", "positives", "hard_negatives")
    known = {name: rng.normal(size=(8, 4)).astype(np.float32) for name in names}
    known |= {"encoder": minilm, "sentences": SENTENCES, "DATA": tiny_data}
    for number, code in enumerate(snippets):
        exec(compile(code, f"{name_of(page)}, snippet {number + 1}", "exec"), known)


def test_encode_by_the_command(tmp_path, monkeypatch, capsys):
    """README's command for encoding does what README's snippet does."""
    (words,) = (
        words
        for block in blocks(ROOT / "README.md", "sh")
        for words in lines_of(block)
        if words[:2] == ["simcse-jax", "encode"]
    )
    monkeypatch.chdir(tmp_path)
    lines = ["A man plays a flute.", "Someone makes music."]
    (tmp_path / "sentences.txt").write_text("\n".join(lines) + "\n")
    cli.main(words[1:])
    expected = SentenceEncoder.from_pretrained("minilm").encode(lines)
    np.testing.assert_allclose(np.load("vectors.npy"), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_first_commands_run(page, tiny_data, golden, tmp_path, monkeypatch, capsys):
    """In the order of the page; training and what is evaluated are a tiny model's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES[:64]) + "\n")
    short = ["--model", str(golden / "tiny-bert"), "--max-length", "16", "--max-steps", "1"]
    also = {"train": [*short, "--batch-size", "8"], "evaluate": ["--tasks", "STS-B"]}
    commands = [words[1:] for block in blocks(ROOT / page, "sh") for words in lines_of(block)]
    ours = [words for words in commands if words[0] in ("encode", "train", "evaluate")]
    assert {words[0] for words in ours} >= {"encode", "train"}
    for words in ours:
        words = [str(tiny_data) if word == "DATA" else word for word in words]
        cli.main(words + also.get(words[0], []))
    assert np.load("vectors.npy").shape[0] == 64


# ---------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) < 10_000


def test_tables_are_the_measured_ones_and_every_one_is_shown():
    for page in fill_tables.PAGES:
        text = page.read_text("utf-8")
        assert text == fill_tables.filled(text), f"{name_of(page)}: run python docs/fill_tables.py"
    shown = [name for page in PAGES for _, kind, name, _ in marked(page) if kind == "table"]
    assert set(shown) == {*fill_tables.README_TABLES, *result_tables.TABLES}


def marked(page):
    return fill_tables.MARKED.findall(page.read_text("utf-8"))


def test_every_table_has_its_command():
    for name, made in result_tables.TABLES.items():
        table = result_tables.table(name)
        assert len(re.findall(r"^\|", table, re.MULTILINE)) >= 4, name
        assert made.command in table
        assert re.search(r"jax \d|A CPU, which was not recorded", table), name


def test_the_api_pages_have_every_module_and_public_name():
    pages = {room: api_pages.page(room, names) for room, names in api_pages.modules().items()}
    text = "\n".join(pages.values())
    for path in (ROOT / "simcse_jax").rglob("[a-z]*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert f".. automodule:: {module}\n" in text, module
    for name in simcse_jax.__all__:
        if callable(getattr(simcse_jax, name)):
            assert f":py:obj:`{name} <" in pages["simcse_jax"], name


def test_links_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            # The API pages are made while the site is built, and looked for then.
            if not target.startswith(("http", "api/")):
                assert (page.parent / target).exists(), (name_of(page), target)


def test_no_number_contradicts_another():
    """Scores that pages repeat in words are those of the generated tables."""
    tables = "\n".join(result_tables.table(name) for name in result_tables.TABLES)
    known = {float(number) for number in re.findall(r"(?<![\d.,])\d\d\.\d\d?(?![\d.])", tables)}
    rounded = known | {round(number, 1) for number in known}
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        (result,) = re.findall(r"^\*\*Result\.\*\*.*?\n\n", page.read_text("utf-8"), re.M | re.S)
        numbers = [float(n) for n in re.findall(r"\d\d\.\d+", result)]
        assert numbers, name_of(page)
        assert set(numbers) <= rounded, name_of(page)
