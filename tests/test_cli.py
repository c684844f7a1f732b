"""The console command: what it writes, and that a wrong input costs one sentence."""

import _thread
import gc
import inspect
import io
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_data import SENTENCES

from simcse_jax import SentenceEncoder, Whitening, __version__
from simcse_jax.cli import (
    Encode,
    Processes,
    is_not_from_below,
    main,
    pass_over_event_loops,
    print_what_ends_the_program,
    run_or_explain,
)
from simcse_jax.encoder import CHUNK


@pytest.fixture
def model(golden):
    return ["--model", str(golden / "tiny-bert"), "--pooling", "mean"]


def test_encode_a_file(golden, model, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a dog\n\na cat eats\n")
    out = tmp_path / "new" / "out.npy"
    main(["encode", str(tmp_path / "in.txt"), "--output", str(out), *model])
    expected = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean").encode(
        ["a dog", "", "a cat eats"]
    )
    np.testing.assert_array_equal(np.load(out), expected)
    assert "float32 [3, 32]" in capsys.readouterr().out
    assert [p.name for p in out.parent.iterdir()] == ["out.npy"]


def test_sentences_are_cut_where_the_folder_says(golden, tmp_path):
    """As `SentenceEncoder.from_pretrained` cuts them."""
    short = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", max_length=5)
    short.save_pretrained(tmp_path / "model")
    (tmp_path / "in.txt").write_text("a dog eats a cat eats a dog eats a cat\n")
    command = ["encode", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.npy")]
    with pytest.warns(UserWarning, match="was cut to 5 tokens"):
        main([*command, "--model", str(tmp_path / "model")])
    with pytest.warns(UserWarning, match="was cut to 5 tokens"):
        expected = short.encode(["a dog eats a cat eats a dog eats a cat"])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_encode_standard_input(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a dog\r\na cat")))
    main(["encode", "-", "--output", str(tmp_path / "o.npy"), "--normalize", "True", *model])
    vectors = np.load(tmp_path / "o.npy")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1], atol=1e-6)


def fails(args, capsys, message):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error


def test_what_cannot_be_read(model, tmp_path, capsys):
    out = ["--output", str(tmp_path / "o.npy")]
    (tmp_path / "bytes.txt").write_bytes(b"a dog\na \xff cat\n")
    fails(["encode", str(tmp_path / "no.txt"), *out, *model], capsys, "no.txt does not exist")
    fails(["encode", str(tmp_path), *out, *model], capsys, "is a folder")
    bad = ["encode", str(tmp_path / "bytes.txt"), *out, *model]
    fails(bad, capsys, "bytes.txt, line 2: not UTF-8")
    no_model = ["encode", str(tmp_path / "in.txt"), *out, "--model", str(tmp_path / "none")]
    (tmp_path / "in.txt").write_text("a dog\n")
    fails(no_model, capsys, "does not exist")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bytes.txt", "in.txt"]


def test_what_cannot_be_written(model, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a dog\n")
    source = ["encode", str(tmp_path / "in.txt"), *model, "--output"]
    fails([*source, str(tmp_path / "in.txt" / "o.npy")], capsys, "cannot write")
    fails([*source, str(tmp_path)], capsys, "it is a folder")


def test_the_input_is_never_overwritten(tmp_path, capsys, monkeypatch):
    """Nor through a link, nor as standard input; nothing is read before."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a dog\n")
    (tmp_path / "link.npy").symlink_to("in.txt")
    os.link("in.txt", "hard.npy")
    message = "is the same file as the input in.txt, which would be lost; give another output"
    for output in ("in.txt", "./in.txt", "link.npy", "hard.npy"):
        fails(["encode", "in.txt", "--output", output, "--model", "none"], capsys, message)
    pairs = ["evaluate", "--pairs", "none.csv", "hf:x", "in.txt", "--model", "none"]
    fails([*pairs, "--output", "link.npy"], capsys, message)
    kept = os.dup(0)
    with (tmp_path / "in.txt").open() as file:
        os.dup2(file.fileno(), 0)
    try:
        fails(["encode", "-", "--output", "in.txt"], capsys, "same file as the input standard inp")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert (tmp_path / "in.txt").read_text() == "a dog\n"
    assert sorted(os.listdir()) == ["hard.npy", "in.txt", "link.npy"]


def test_names_that_hold_anything_are_told_on_one_line(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a dog\n")
    for name, error in (
        ("no\nfile.txt", r"no\nfile.txt does not exist; check the path"),
        ("x" * 300, "cannot be read: File name too long; check the path"),
        ("no\udcff.txt", r"no\udcff.txt does not exist"),
    ):
        fails(["encode", name, "--output", "o.npy", *model], capsys, error)
    fails(["encode", "in.txt", "--output", "x" * 300, *model], capsys, "give a shorter name")
    for name in ("-", "v.txt", "v.CSV"):
        said = f"cannot be written to '{name}'; name a file that ends in .npy or .parquet"
        fails(["encode", "in.txt", "--output", name, *model], capsys, said)
    for name, shown in (("\udcff.npy", r"\udcff.npy"), ("a\nb.npy", r"a\nb.npy")):
        main(["encode", "in.txt", "--output", name, *model])
        assert capsys.readouterr().out == f"{shown}: float32 [1, 32]\n"
        assert np.load(name).shape == (1, 32)
    (tmp_path / "\udcff.csv").write_text("sentence1,sentence2,score\na,b,1\nc d,d,2\n")
    main(["evaluate", "--pairs", "\udcff.csv", "--output", "r.json", *model])
    assert r"\udcff" in capsys.readouterr().out
    assert "\udcff" in json.loads((tmp_path / "r.json").read_text())["tasks"]


def test_a_model_that_is_not_there_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a dog\n")
    (tmp_path / "p.csv").write_text("sentence1,sentence2,score\na,b,1\nc,d,2\n")
    end = ["--output", str(tmp_path / "new" / "o"), "--model", str(tmp_path / "none")]
    for command in (
        ["encode", str(tmp_path / "in.txt")],
        ["evaluate", "--pairs", f"{tmp_path}/p.csv"],
    ):
        fails([*command, *end], capsys, "does not exist")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", "p.csv"]


by_a_signal = pytest.mark.parametrize(
    ("number", "code", "message"),
    [(signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGINT, 130, "stopped by Ctrl-C")],
)


@by_a_signal
def test_a_signal_leaves_nothing_half_made(
    model, tmp_path, capsys, monkeypatch, number, code, message
):
    (tmp_path / "in.txt").write_text("a dog\n")
    before = signal.getsignal(signal.SIGTERM)

    def stopped(*_, **__):
        assert len(list(tmp_path.iterdir())) == 2  # what is being written lies there
        os.kill(os.getpid(), number)
        pytest.fail("it went on")

    monkeypatch.setattr(SentenceEncoder, "encode_stream", stopped)
    with pytest.raises(SystemExit) as stop:
        main(["encode", str(tmp_path / "in.txt"), "--output", str(tmp_path / "o.npy"), *model])
    assert stop.value.code == code
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message}; start it again by: simcse-jax encode {tmp_path}/")
    assert said.endswith(" --pooling mean --resume\n")
    assert [p.name for p in tmp_path.iterdir()] == ["in.txt"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_the_command_that_goes_on(model, tmp_path, monkeypatch):
    lines = "".join(f"a dog eats {n}\n" for n in range(2 * CHUNK + 1)).encode()
    output = tmp_path / "o.npy"
    command = ["encode", "-", "--output", str(output), *model]
    process = subprocess.Popen(
        [sys.executable, "-m", "simcse_jax.cli", *command],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(lines)  # and no end: it waits for more
    process.stdin.flush()
    record = tmp_path / ".o.npy.part" / "progress.json"
    while process.poll() is None and not (
        record.exists() and json.loads(record.read_text())["rows"]
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    said = errors.decode().splitlines()[-1]
    assert process.returncode == 130
    kept = f"error: stopped by Ctrl-C with {CHUNK:,} rows of {output} kept; "
    again = said.removeprefix(f"{kept}it goes on by: ")
    assert again == f"simcse-jax {shlex.join(command)} --resume"
    for args in (shlex.split(again)[1:], [*command[:3], str(tmp_path / "whole.npy"), *model]):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
        main(args)
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


@by_a_signal
def test_a_signal_in_a_garbage_collection_is_not_lost(
    model, tmp_path, capsys, monkeypatch, number, code, message
):
    """Python drops what is raised in a callback of the collector, of which JAX has one."""
    (tmp_path / "in.txt").write_text("a dog\n")
    came = []

    def callback(phase, info):
        if not came:
            came.append(number)
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # the handler is called in here

    def collecting(*_, **__):
        gc.callbacks.append(callback)
        try:
            gc.collect()
            assert came
            time.sleep(10)
        finally:
            gc.callbacks.remove(callback)
        pytest.fail("it went on")

    monkeypatch.setattr(SentenceEncoder, "encode_stream", collecting)
    with pytest.raises(SystemExit) as stop:
        main(["encode", str(tmp_path / "in.txt"), "--output", str(tmp_path / "o.npy"), *model])
    assert stop.value.code == code
    assert capsys.readouterr().err.startswith(f"error: {message}; start it again by: simcse-jax")


def test_vectors_go_through_a_pipe_and_words_beside_it(golden, model, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a dog\n")
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    main(["encode", str(tmp_path / "in.txt"), "--output", str(tmp_path / "pipe"), *model])
    reader.join()
    encoder = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    expected = encoder.encode(["a dog"])
    np.testing.assert_array_equal(np.load(io.BytesIO(read[0])), expected)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "float32 [1, 32]" in printed.err


def test_a_corpus_of_json_lines_to_parquet(golden, model, tmp_path, capsys):
    corpus, out = tmp_path / "c.jsonl", tmp_path / "v.parquet"
    corpus.write_text('{"id": 7, "body": "a dog"}\n{"id": 8, "body": "a cat eats"}\n')
    command = ["encode", str(corpus), "--output", str(out), *model]
    main([*command, "--column", "body"])
    assert capsys.readouterr().out == f"{out}: float32 [2, 32]\n"
    found = pq.read_table(out)
    assert found.column("id").to_pylist() == [7, 8]
    expected = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean").encode(
        ["a dog", "a cat eats"]
    )
    np.testing.assert_array_equal(found.column("embedding").to_pylist(), expected)
    fails(command, capsys, "c.jsonl, line 1: has no field 'text'; it has id, body")


def test_options_of_a_corpus_that_cannot_be(model, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("a dog\n")
    os.mkfifo(tmp_path / "pipe")
    base = ["encode", str(tmp_path / "in.txt"), *model]
    out = ["--output", str(tmp_path / "v.npy")]
    pipe = ["--output", str(tmp_path / "pipe")]
    for options, message in (
        ([*out, "--column", "text"], "--column is given, and"),
        ([*pipe, "--resume"], "pipe is no regular file; leave --resume out"),
        ([*out, "--num-processes", "2"], "--coordinator, --num-processes and --process-id go"),
        ([*out, "--join-timeout", "0"], "error: --join-timeout is 0; it must be at least 1"),
    ):
        fails([*base, *options], capsys, message)
    shared = Encode(str(tmp_path / "in.txt"), tmp_path / "pipe", processes=Processes(True))
    with pytest.raises(ValueError, match="pipe is no regular file; each process writes"):
        shared.run()
    shared = Encode("-", tmp_path / "v.npy", processes=Processes(True))
    with pytest.raises(ValueError, match="standard input cannot be shared by several processes"):
        shared.run()


def test_log_lines_of_the_libraries_below_are_kept_from_people():
    for name, shown in (
        ("absl", False),
        ("asyncio", False),
        ("orbax.checkpoint", False),
        ("simcse_jax.training.loop", True),
        ("orbaxes", True),
    ):
        record = logging.LogRecord(name, logging.WARNING, "", 0, "said", None, None)
        assert is_not_from_below(record) == shown


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"simcse-jax {__version__}\n"


def test_help_that_nobody_reads_on_ends_in_silence():
    """As it is piped into `head`."""
    for args in (["train"], ["train", "unsup_simcse", "--help"]):
        gone, write = os.pipe()
        os.close(gone)
        with os.fdopen(write, "w") as out:
            command = [sys.executable, "-m", "simcse_jax.cli", *args]
            found = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
        assert (found.returncode, found.stderr) == (141, "")


def test_a_warning_is_a_line_without_source(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    run_or_explain(lambda: None)
    text = warnings.formatwarning("3 sentences were cut", UserWarning, "encoder.py", 3, "warn()")
    assert text == "warning: 3 sentences were cut\n"


def test_the_folder_of_a_run_names_its_model(golden, tmp_path, capsys):
    shutil.copytree(golden / "tiny-bert", tmp_path / "run" / "seed-3" / "best")
    (tmp_path / "in.txt").write_text("a dog\n")
    command = ["encode", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.npy")]
    message = f"its best model is {tmp_path / 'run' / 'seed-3' / 'best'}"
    fails([*command, "--model", str(tmp_path / "run")], capsys, message)


def write_stsb(folder, rows):
    path = folder / "STS" / "STSBenchmark" / "sts-test.csv"
    path.parent.mkdir(parents=True)
    lines = ["\t".join(["g", "f", "y", str(i), *row]) + "\n" for i, row in enumerate(rows)]
    path.write_text("".join(lines))


def test_evaluate(model, tmp_path, capsys):
    rows = [("5.0", "a dog", "the dog"), ("1.0", "a cat eats", "the piano"), ("3", "man", "woman")]
    write_stsb(tmp_path, rows)
    results = tmp_path / "results.json"
    args = ["evaluate", "--data", str(tmp_path), "--tasks", "STS-B", "--output", str(results)]
    main([*args, *model])
    value = json.loads(results.read_text())
    task = value["tasks"]["STS-B"]
    assert task["pairs"] == 3
    assert task["all"] == task["mean"] == task["wmean"]
    assert value["average"]["all"] == pytest.approx(task["all"], abs=0.005)
    assert value["settings"]["pooling"] == "mean"
    assert f"{task['all']:.2f}" in capsys.readouterr().out


def test_evaluate_on_pairs_of_ones_own(model, tmp_path, capsys):
    rows = [("5.0", "a dog", "the dog"), ("1.0", "a cat eats", "the piano"), ("3", "man", "woman")]
    write_stsb(tmp_path, rows)
    own = tmp_path / "own.tsv"
    own.write_text("stars\tone\tthe other\n" + "".join("\t".join(row) + "\n" for row in rows))
    results = tmp_path / "results.json"
    args = ["evaluate", "--pairs", str(own), "--columns", "one", "the other", "stars"]
    main([*args, "--data", str(tmp_path), "--tasks", "STS-B", "--output", str(results), *model])
    tasks = json.loads(results.read_text())["tasks"]
    same = tasks["STS-B"] | {"subsets": {"own": tasks["STS-B"]["subsets"]["test"]}}
    assert tasks == {"STS-B": tasks["STS-B"], "own": same}
    main([*args, *model, "--output", str(results)])  # its own result is replaced
    assert json.loads(results.read_text())["tasks"].keys() == {"own"}
    assert f"{tasks['own']['all']:.2f}" in capsys.readouterr().out
    for text in ("my notes", '{"model_type": "bert"}', "[]"):
        (tmp_path / "notes").write_text(text)
        is_there = "notes is there and is no result of evaluate"
        fails([*args, *model, "--output", str(tmp_path / "notes")], capsys, is_there)
        assert (tmp_path / "notes").read_text() == text
    fails(args[:3], capsys, "own.tsv has no column 'sentence1'; name one of those it has: stars,")
    fails(["evaluate"], capsys, "give --data, SentEval's folder, or --pairs")
    fails(["evaluate", "--pairs", str(own), "--tasks", "STS-B"], capsys, "--tasks has no effect")
    fails(["evaluate", "--data", "x", *args[3:]], capsys, "--columns has no effect without --pairs")


def test_evaluate_what_is_not_there(model, tmp_path, capsys):
    fails(["evaluate", "--data", str(tmp_path), *model], capsys, "lacks 50 of 50 files")
    fails(
        ["evaluate", "--data", str(tmp_path), "--tasks", "STS17", *model],
        capsys,
        "no STS task is called 'STS17'",
    )


@pytest.mark.slow
def test_minilm_on_stsb(shared_data, tmp_path):
    """The numbers of the docs: sentence-transformers gives 82.03 and, for cls, 73.50."""
    for pooling, expected in (("mean", 82.03), ("cls", 73.50)):
        output = tmp_path / "r.json"
        args = ["evaluate", "--data", str(shared_data / "senteval"), "--tasks", "STS-B"]
        main([*args, "--pooling", pooling, "--output", str(output)])
        assert json.loads(output.read_text())["average"]["all"] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("option", "least"), [("--max-length", 2), ("--batch-size", 1), ("--num-layers", 1)]
)
def test_a_size_that_cannot_be_is_refused_before_any_file_is_read(option, least, capsys):
    for command in (["encode", "absent.txt", "--output", "x.npy"], ["evaluate", "--data", "no"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, option, "0"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"error: {option} is 0; it must be at least {least}\n"


def test_callbacks_of_other_threads_print_no_traceback(capsys):
    """Orbax's threads call into an event loop that is closed once a checkpoint has failed."""
    error = RuntimeError("Event loop is closed")
    # Straight from C, with no Python below it.
    hook = inspect.unwrap(print_what_ends_the_program)  # of what checks its types here
    _thread.start_new_thread(hook, (type(error), error, None))
    time.sleep(0.2)
    print_what_ends_the_program(type(error), error, None)  # Python is below, and goes on
    assert capsys.readouterr().err == ""


def test_only_event_loops_of_orbax_are_passed_over(monkeypatch):
    """Their destructors complain after a checkpoint that failed; other errors are told."""
    told, spaces = [], {}
    monkeypatch.setattr(sys, "__unraisablehook__", told.append)
    for name, file in (("y", "/x/orbax/y.py"), ("loop", "uvloop/loop.pyx")):
        exec(compile(f"def {name}():\n    raise RuntimeError", file, "exec"), spaces)
    for fail in (spaces["y"], spaces["loop"], lambda: 1 / 0):
        with pytest.raises((RuntimeError, ZeroDivisionError)) as caught:
            fail()
        pass_over_event_loops(types.SimpleNamespace(exc_traceback=caught.tb))
    assert [found.exc_traceback for found in told] == [caught.tb]


def test_a_warning_of_whiten_names_no_folder_of_its_own(golden, tmp_path, caplog):
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    options = ["--model", str(golden / "tiny-bert"), "--pooling", "ditto-1-2", "--k", "5"]
    main(["whiten", str(tmp_path / "text.txt"), "--output-dir", str(tmp_path / "w"), *options])
    (warning,) = caplog.messages
    assert "no module for the pooling ditto-1-2: it will refuse the model" in warning
    assert "/" not in warning


def test_whiten_writes_a_model_that_applies_it(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_model = golden / "tiny-bert"
    (tmp_path / "text.csv").write_text("n,text\n" + "".join(f"1,{s}\n" for s in SENTENCES))
    options = ["--model", str(tiny_model), "--pooling", "cls"]
    main(["whiten", "text.csv", "--k", "5", "--output-dir", "whitened", *options])
    assert capsys.readouterr().out == (
        f"whitened: {tiny_model}, cls pooling, whitened from 32 to 5 dimensions by 60 sentences\n"
    )
    encoder = SentenceEncoder.from_pretrained(tiny_model, pooling="cls")
    expected = encoder.fit(Whitening, SENTENCES, k=5)
    loaded = SentenceEncoder.from_pretrained("whitened")
    np.testing.assert_array_equal(loaded.encode(SENTENCES), expected.encode(SENTENCES))
    # Nothing is left of what fails, and what is not a model's is kept.
    (tmp_path / "few.txt").write_text("a dog\na cat\n")
    few = ["whiten", "few.txt", "--output-dir", "other", *options]
    fails(few, capsys, "few.txt: 2 embeddings of 32 dimensions")
    again = ["whiten", "text.csv", "--output-dir", "other", "--model", "whitened"]
    fails(again, capsys, "whitened ends with a whitening, which whitening would replace; whiten")
    empty = "--output-dir is given an empty value; give another, or leave it out"
    fails(["whiten", "text.csv", "--output-dir", ""], capsys, empty)
    fails(["whiten", "", "--output-dir", "other"], capsys, "the file is empty text; name a file")
    os.mkfifo("pipe.csv")
    fails(
        ["whiten", "pipe.csv", "--output-dir", "other"], capsys, "pipe.csv is a pipe, and .csv is"
    )
    os.remove("pipe.csv")
    os.remove("few.txt")
    for command, message in (
        (["--k", "33", "--output-dir", "other"], "k is 33; the model's vectors have 32"),
        (["--k", "0", "--output-dir", "other"], "k is 0; it must be"),
        (["--output-dir", "mine"], "holds kept and no simcse_jax.json"),
    ):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "kept").touch()
        fails(["whiten", "text.csv", *command, *options], capsys, message)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "text.csv", "whitened"]
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["kept"]


def test_a_device_that_is_not_there_is_one_sentence(capsys):
    def run(message):
        raise RuntimeError(message)

    with pytest.raises(SystemExit, match="2"):
        run_or_explain(lambda: run("Unable to initialize backend 'rocm': not known"))
    assert "JAX has no such device as JAX_PLATFORMS asks for: Unable" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="of another kind"):
        run_or_explain(lambda: run("of another kind"))
