"""README and docs: their snippets run, their commands parse, their tables are what was measured."""

import importlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro
from tiny_data import THINGS, VERBS, WORDS

import simcse_jax
from simcse_jax import SentenceEncoder, cli, hosts, hub, trainer
from simcse_jax.config import load_config
from simcse_jax.data import datasets, wikipedia
from simcse_jax.data.nli import read_nli
from simcse_jax.data.tables import table_of
from simcse_jax.help_texts import shown
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
    """The commands of a block, those that go over several lines in one.

    Of the words that the shell makes of braces there are two.
    """
    joined = block.replace("\\\n", " ").replace("{0..29}", "0 29").splitlines()
    return [words for line in joined if (words := shlex.split(line, comments=True))]


def methods_commands():
    """The commands of README's table of methods."""
    return re.findall(r"\| `([^`|]+)` \|$", fill_tables.methods(), re.MULTILINE)


def all_commands():
    """Every command that README, docs and their generated tables have, once, by where it stands."""
    found = {}
    for page in PAGES:
        own = blocks(page, "sh")
        own += re.findall(r"^    (python -m .*)$", page.read_text("utf-8"), re.MULTILINE)
        if page.name == "coming_from.md":  # whose tables say what is typed
            own += re.findall(r"`((?:simcse-jax|python -m) [^`]+)`", page.read_text("utf-8"))
        for words in (words for block in own for words in lines_of(block)):
            found.setdefault(tuple(words), name_of(page))
    for name, made in result_tables.TABLES.items():
        for words in lines_of(made.command):
            found.setdefault(tuple(words), f"the table {name}")
    for command in methods_commands():
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
    assert 'if __name__ == "__main__":' in source, f"{module} is no script"
    if module.startswith("tests.campaign."):
        return  # which read their options by other means
    settings = re.search(r"run_script\(\w+, (\w+), __doc__\)", source)
    assert tyro.cli(shown(getattr(script, settings[1])), args=args) is not None


class Parsed(Exception):
    """A command was understood."""


def check_simcse_jax(words, monkeypatch):
    """The console command takes these options; it is not run."""

    def parsed(*_, **__):
        raise Parsed

    monkeypatch.setattr(cli.Encode, "run", parsed)
    monkeypatch.setattr(cli.Whiten, "run", parsed)
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
        case ["printf", text, ">", "sentences.txt"]:  # for the commands after it
            assert text.count("\\n") == 2
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
    (printed,) = (
        w[1] for b in blocks(ROOT / "README.md", "sh") for w in lines_of(b) if w[0] == "printf"
    )
    (tmp_path / "sentences.txt").write_text(printed.replace("\\n", "\n"))
    lines = ["A man plays a flute.", "Someone makes music."]
    cli.main(words[1:])
    expected = SentenceEncoder.from_pretrained("minilm").encode(lines)
    np.testing.assert_allclose(np.load("vectors.npy"), expected, atol=1e-5)


def own_commands(page):
    """The console commands of a page that one process can run, in order."""
    commands = [words for block in blocks(page, "sh") for words in lines_of(block)]
    if page.name == "README.md":
        commands += [shlex.split(line) for line in methods_commands()]
    mine = [words[1:] for words in commands if words[0] == "simcse-jax"]
    # tests/test_hosts.py runs commands in several processes.
    return [words for words in mine if "--distributed" not in words]


PAGES_WITH_COMMANDS = [page for page in PAGES if own_commands(page)]


def option(words, name):
    """The value of an option of a command, or None."""
    return words[words.index(name) + 1] if name in words else None


def test_the_commands_are_found():
    of_pages = {name_of(page): {words[0] for words in own_commands(page)} for page in PAGES}
    everything = {"encode", "whiten", "train", "evaluate"}
    assert of_pages["README.md"] == everything
    assert of_pages["docs/quickstart.md"] >= {"encode", "whiten", "train"}
    assert of_pages["docs/corpora.md"] == {"encode"}
    assert of_pages["docs/training.md"] == {"train"}


@pytest.fixture
def files(tiny_data, tmp_path, monkeypatch):
    """The files that the pages' commands read, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name in ("sentences", "wikipedia", "corpus", "text", "wiki1m_head", "wiki1m_for_simcse"):
        (tmp_path / f"{name}.txt").write_text("\n".join(SENTENCES[:64]) + "\n")
    column = SENTENCES[:64]
    pq.write_table(pa.table({"body": column}), "corpus.parquet")
    pq.write_table(pa.table({"text": column}), "reviews.parquet")
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"body": "{s}"}}\n' for s in column))
    pairs = list(itertools.pairwise(column))
    write = {
        "pairs.csv": ["question,answer,rating", *(f"{a},{b},{len(a) % 6}" for a, b in pairs)],
        "pairs.tsv": ["a\tb\tstars", *(f"{a}\t{b}\t{len(a) % 6}" for a, b in pairs)],
        "quora.csv": ["question1,question2,same", *(f"{a},{b},{len(a) % 2}" for a, b in pairs)],
        "nli_for_simcse.csv": ["sent0,sent1,hard_neg", *(f"{a},{b},{a} {b}" for a, b in pairs)],
    }
    for name, lines in write.items():
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    rows = [
        {"premise": column[i], "hypothesis": column[(i + k) % 64], "label": label}
        for i in range(64)
        for k, label in enumerate(("entailment", "neutral", "contradiction"), 1)
    ]
    write_nli(tmp_path, rows)
    write_nli(tmp_path / "two_labels", [row for row in rows if row["label"] != "neutral"])
    names = ("premise", "entailment", "contradiction")
    triplets = [dict(zip(names, (a, b, f"{a} {b}"), strict=True)) for a, b in pairs]
    (tmp_path / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triplets))


def write_nli(folder, rows):
    (folder / "snli_test").mkdir(parents=True)
    for name in ("nli", "snli_dev", "mnli_dev"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, field in (("s1", "premise"), ("s2", "hypothesis"), ("labels", "label")):
        lines = "".join(row[field] + "\n" for row in rows)
        (folder / "snli_test" / f"{name}.test").write_text(lines)


def downloaded(name, folder, columns):
    """Stand for a data set that is not at hand: text in every column, but for labels."""
    data = {c: [i % 3 for i in range(64)] if c == "label" else SENTENCES[:64] for c in columns}
    return table_of(data, name, columns)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*encoded sentences w(as|ere) cut")
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name_of)
def test_the_commands_run(page, tiny_data, golden, files, monkeypatch, capsys):
    """In the order of the page, of a tiny model, for a step."""
    monkeypatch.setattr(trainer, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(datasets, "read_named", downloaded)
    tiny = ["--model", str(golden / "tiny-bert"), "--num-layers", "1"]
    short = ["--max-length", "16", "--batch-size", "8"]
    if page.name == "evaluation.md":  # what the pages before it have trained
        encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
        encoder.save_pretrained("runs/second/best")
    for words in own_commands(page):
        words = [str(tiny_data) if word == "DATA" else word for word in words]
        more = []
        if words[0] == "train":
            more = [*tiny, *short]
            more += ["--epochs", "1"] if words[1] == "flow" else ["--max-steps", "1"]
            if words[1] == "whitened_cse":  # of which the tiny model's 32 channels are no multiple
                more += ["--groups", "16"]
            if words[1] == "esimcse":  # the text here is short
                more += ["--queue-size", "8"]
            if words[1].endswith(".py"):  # a paper's, of several seeds and all tasks
                more += ["--seeds", "0", "--no-all-tasks"]
        elif words[0] == "whiten":
            words = ["8" if word == "256" else word for word in words]
            more = [*tiny, "--pooling", "mean"]
        elif words[0] == "evaluate" and "--pairs" not in words:
            more = ["--tasks", "STS-B"]
        if "--help" in words:
            with pytest.raises(SystemExit):
                cli.main(words)
            continue
        cli.main(changed(words, more))
        if words[0] == "whiten":
            saved = SentenceEncoder.from_pretrained(option(words, "--output-dir"))
            assert saved.transform.kind == "whitening"
        elif words[0] == "train":
            folder = Path(option(words, "--output-dir") or load_config(words[1]).run.output_dir)
            assert list(folder.glob("**/best/model.safetensors")), words
            if "--output-dir" not in words:  # of each example the same
                shutil.rmtree(folder)
        elif output := option(words, "--output"):
            assert made(Path(output)) == (64 if words[0] == "encode" else "STS-B"), words


def changed(words, more):
    """The words with these options instead of their own, whose values end at the next option."""
    options = [word for word in more if word.startswith("--")]
    kept, skipped = [], False
    for word in words:
        skipped = word in options if word.startswith("--") else skipped
        if not skipped:
            kept.append(word)
    return kept + more


def made(output):
    """How many vectors are in an output, or the first task that it has scores of."""
    if output.suffix == ".json":
        return next(iter(json.loads(output.read_text())["tasks"]))
    return len(np.load(output) if output.suffix == ".npy" else pq.read_table(output))


# ---------------------------------------------------------------------------------------------
# What is written
# ---------------------------------------------------------------------------------------------


def test_the_lines_that_make_data_make_them(files, tmp_path):
    for name in ("tune", "validation", "test"):
        (tmp_path / f"{name}.tsv").write_text(f"{name} one\tone <::::> two\n")
    shutil.rmtree("two_labels")
    for block in blocks(ROOT / "docs" / "data.md", "bash"):
        subprocess.run(["bash", "-e", "-c", block], check=True, cwd=tmp_path)
    assert Path("wiki_split_15k.txt").read_text() == "tune one\nvalidation one\ntest one\n"
    for name in ("snli_dev.jsonl", "mnli_dev.jsonl", "snli_test"):
        whole, two = (read_nli(folder / name) for folder in (tmp_path, tmp_path / "two_labels"))
        assert two.examples == tuple(e for e in whole.examples if e.label != "neutral")


def test_no_page_waits_for_a_number():
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        assert not re.search(r"MEASURE|\b(TODO|FIXME|XXX)\b", page.read_text("utf-8")), name_of(
            page
        )


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


def test_the_seeds_of_a_table_learnt_from_one_text():
    """A deviation is that of the seeds alone; made positives are drawn anew for each seed."""
    checked = []
    for file in (ROOT / "experiments" / "results").glob("*.json"):
        found = json.loads(file.read_text())
        runs = found.get("runs") if isinstance(found, dict) else None
        texts = {run["settings"].get("text") for run in runs} if isinstance(runs, list) else set()
        if texts - {None}:
            assert len(texts) == 1, file.name
            checked.append(file.name)
    assert "sbert_wikisections.json" in checked


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
