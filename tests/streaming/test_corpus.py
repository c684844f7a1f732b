"""A corpus to a file: gone on with to the same bytes, whatever ended it, and never mixed."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import SENTENCES

from simcse_jax import SentenceEncoder, Whitening, streaming
from simcse_jax.data.tokenizer import Tokenizer
from simcse_jax.process import Interrupted, Terminated
from simcse_jax.streaming import encode_source, fingerprint, open_source, partial_output
from simcse_jax.streaming import output as output_module

ROOT = Path(__file__).resolve().parents[2]
ROWS = 8  # of a piece; there are eight pieces


@pytest.fixture(scope="module")
def tiny(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")


@pytest.fixture
def text(tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(SENTENCES) + "\n")
    return tmp_path / "c.txt"


def encode(encoder, path, output, resume=False, **options):
    source = open_source(str(path), piece_rows=ROWS)
    with partial_output(output, resume) as part:
        return encode_source(encoder, source, part, **options)


class Killed(BaseException):
    """Stands for a kill: nothing is put in order after it."""


@contextlib.contextmanager
def killed(module, name, number):
    """End the block as a kill does, before the n-th call of a function."""
    real, calls = getattr(module, name), 0

    def killing(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            raise Killed
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output_module, "_clear", lambda _: None)
        patch.setattr(module, name, killing)
        with pytest.raises(Killed):
            yield


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_npy_is_as_numpy_saves_it(tiny, text, tmp_path):
    assert encode(tiny, text, tmp_path / "v.npy") == 60
    expected = np.concatenate(list(tiny.encode_stream(SENTENCES, chunk_size=ROWS)))
    found = np.load(tmp_path / "v.npy", mmap_mode="r")
    np.testing.assert_array_equal(found, expected)
    np.save(tmp_path / "saved.npy", expected)
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()
    assert names(tmp_path) == ["c.txt", "saved.npy", "v.npy"]
    text.write_text("")
    assert encode(tiny, text, tmp_path / "v.npy") == 0
    assert np.load(tmp_path / "v.npy").shape == (0, 32)


def test_parquet_has_the_columns_of_the_input(tiny, tmp_path):
    rows = [{"id": i, "text": text, "tags": ["x"] * (i % 2)} for i, text in enumerate(SENTENCES)]
    expected = np.concatenate(list(tiny.encode_stream(SENTENCES, chunk_size=ROWS)))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pa.Table.from_pylist(rows)
    kinds = pa.array(["a"] * 60).dictionary_encode()
    pq.write_table(table.append_column("kind", kinds), tmp_path / "c.parquet", row_group_size=11)
    for name in ("c.jsonl", "c.parquet"):
        assert encode(tiny, tmp_path / name, tmp_path / "v.parquet") == 60
        found = pq.read_table(tmp_path / "v.parquet")
        assert found.schema.field("embedding").type == pa.list_(pa.float32(), 32)
        vectors = np.stack(found.column("embedding").to_numpy(zero_copy_only=False))
        np.testing.assert_array_equal(vectors, expected)
        assert found.select(["id", "text", "tags"]).to_pylist() == rows
        assert ("kind" in found.column_names) == (name == "c.parquet")
    with pytest.raises(ValueError, match="the input has a column 'embedding' already"):
        encode(tiny, tmp_path / "v.parquet", tmp_path / "again.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    assert encode(tiny, tmp_path / "none.parquet", tmp_path / "v.parquet") == 0
    assert pq.read_schema(tmp_path / "v.parquet").names == ["id", "text", "tags", "embedding"]
    (tmp_path / "c.jsonl").write_text('{"text": "a dog", "nothing": {}}\n')
    with pytest.raises(ValueError, match="columns cannot be written as parquet .*; write to a .np"):
        encode(tiny, tmp_path / "c.jsonl", tmp_path / "w.parquet")
    assert names(tmp_path) == ["c.jsonl", "c.parquet", "none.parquet", "v.parquet"]


# Before which call of what, and how many rows are done by then.
MOMENTS = {
    "in the middle": (streaming.PartialOutput, "keep", 5, 24),
    "while the progress is written": (os, "replace", 4, 16),
    "before the output is in its place": (os, "replace", 9, 56),
    "once the output is in its place": (output_module, "_clear", 1, None),
}


@pytest.mark.parametrize("ending", ["npy", "parquet"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_killed_goes_on_to_the_same_bytes(tiny, tmp_path, text, ending, moment):
    expected, output = tmp_path / f"whole.{ending}", tmp_path / f"v.{ending}"
    encode(tiny, text, expected)
    output.write_bytes(b"older")
    *at, rows = MOMENTS[moment]
    with killed(*at):
        encode(tiny, text, output)
    assert output.read_bytes() == (b"older" if rows else expected.read_bytes())
    folder = tmp_path / f".v.{ending}.part"
    assert folder.is_dir()
    taken, real = [], tiny.encode_stream
    with pytest.MonkeyPatch.context() as patch:

        def watched(texts, **options):
            return real((taken.append(text) or text for text in texts), **options)

        patch.setattr(tiny, "encode_stream", watched)
        encode(tiny, text, output, resume=True)
    assert output.read_bytes() == expected.read_bytes()
    assert not folder.exists()
    # Of parquet the vectors are still there once the output is, of .npy they are the output.
    assert taken == SENTENCES[0 if rows is None and ending == "npy" else rows or 56 :]


def test_a_real_kill(tiny, golden, tmp_path, text):
    """Of the command, by SIGKILL; without --resume what it has left is not touched."""
    output = tmp_path / "v.npy"
    command = ["encode", str(text), "--output", str(output)]
    command += ["--model", str(golden / "tiny-bert"), "--pooling", "mean"]
    code = f"""
import os, signal
from simcse_jax import cli, streaming
real_source, real_keep = streaming.open_source, streaming.PartialOutput.keep
streaming.open_source = lambda path, column: real_source(path, column, {ROWS})
def keep(part, settings, rows, *rest):
    real_keep(part, settings, rows, *rest)
    if rows == 24:
        os.kill(os.getpid(), signal.SIGKILL)
streaming.PartialOutput.keep = keep
cli.main({command!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names(tmp_path) == [".v.npy.part", "c.txt"]
    message = r"v\.npy was begun and is at row 24; go on with --resume, or delete .*\.v\.npy\.part"
    with pytest.raises(FileExistsError, match=message):
        encode(tiny, text, output)
    encode(tiny, text, output, resume=True)
    encode(tiny, text, tmp_path / "whole.npy")
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert names(tmp_path) == ["c.txt", "v.npy", "whole.npy"]


def in_the_middle():
    return killed(*MOMENTS["in the middle"][:3])


def test_what_is_of_something_else_is_never_gone_on_with(tiny, golden, tmp_path, text):
    output = tmp_path / "v.npy"
    with in_the_middle():
        encode(tiny, text, output)
    record = (tmp_path / ".v.npy.part" / "progress.json").read_bytes()
    other = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="cls")
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in SENTENCES))
    mend = r"delete .*\.v\.npy\.part to begin anew"
    for encoder, path, options, message in (
        (other, text, {}, f"v.npy was begun with another model; .*{mend}"),
        (tiny, text, {"batch_size": 7}, r"another batch_size \(None then, 7 now\)"),
        (tiny, text, {"normalize": True}, r"another normalize \(None then, True now\)"),
        (tiny, tmp_path / "c.jsonl", {}, r"another input \(lines of text then, field 'text' of JS"),
        (tiny, text, {"start": 3}, f"c.txt begins with other text than the 24 rows .*{mend}"),
        (tiny, text, {"stop": 20}, r"another share \(None then, rows 0 to 20 now\)"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(encoder, path, output, resume=True, **options)
    text.write_text("\n".join(["a", *SENTENCES[1:]]))
    with pytest.raises(ValueError, match="begins with other text"):
        encode(tiny, text, output, resume=True)
    assert (tmp_path / ".v.npy.part" / "progress.json").read_bytes() == record
    # What follows after the rows that are done may have changed: it is as if it had been so.
    text.write_text("\n".join([*SENTENCES, "a dog"]))
    assert encode(tiny, text, output, resume=True) == 61
    encode(tiny, text, tmp_path / "whole.npy")
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_columns_that_changed_are_not_gone_on_with(tiny, tmp_path):
    """Under the same text and the same footer; of .npy they are no concern."""
    path = tmp_path / "c.parquet"

    def write(ids):
        ids = pa.array([None, *ids], pa.int64())
        pq.write_table(
            pa.table({"text": SENTENCES, "id": ids}), path, use_dictionary=False, compression="none"
        )

    write(range(59))
    first = path.read_bytes()
    for output in (tmp_path / "v.parquet", tmp_path / "v.npy"):
        path.write_bytes(first)
        with in_the_middle():
            encode(tiny, path, output)
        write([0, *range(1, 58)[::-1], 58])
        if output.suffix == ".npy":
            assert encode(tiny, path, output, resume=True) == 60
            continue
        with pytest.raises(ValueError, match="begins with other text or columns than the 24 rows"):
            encode(tiny, path, output, resume=True)
        path.write_bytes(first)
        assert encode(tiny, path, output, resume=True) == 60
        assert pq.read_table(output)["id"].to_pylist() == [None, *range(59)]


def test_standard_input_goes_on_where_it_is_fed_again(tiny, tmp_path, text, monkeypatch):
    def encode_input(raw, resume):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        return encode(tiny, "-", tmp_path / "v.npy", resume)

    raw = text.read_bytes()
    with in_the_middle():
        encode_input(raw, False)
    with pytest.raises(ValueError, match="standard input begins with other text"):
        encode_input(raw[200:], True)
    assert encode_input(raw, True) == 60


def test_a_mistake_late_in_the_input_costs_nothing_that_was_done(tiny, tmp_path):
    lines = [json.dumps({"text": s}) for s in SENTENCES]
    path, output = tmp_path / "c.jsonl", tmp_path / "v.npy"
    path.write_text("\n".join([*lines[:40], "{", *lines[41:]]))
    with pytest.raises(ValueError, match="line 41: not JSON"):
        encode(tiny, path, output)
    path.write_text("\n".join(lines))
    assert json.loads((tmp_path / ".v.npy.part" / "progress.json").read_text())["rows"] == 32
    assert encode(tiny, path, output, resume=True) == 60
    path.write_text("\n".join(["{", *lines[1:]]))
    with pytest.raises(ValueError, match="line 1: not JSON"):
        encode(tiny, path, tmp_path / "w.npy")
    assert names(tmp_path) == ["c.jsonl", "v.npy"]


@pytest.mark.parametrize(
    ("error", "by", "code"), [(Terminated(), "SIGTERM", 143), (KeyboardInterrupt(), "Ctrl-C", 130)]
)
def test_a_signal_says_how_far_it_came(tiny, tmp_path, text, monkeypatch, error, by, code):
    real = streaming.PartialOutput.keep

    def keep(part, settings, rows, *rest):
        real(part, settings, rows, *rest)
        if rows == 24:
            raise error

    monkeypatch.setattr(streaming.PartialOutput, "keep", keep)
    message = f"stopped by {by} with 24 rows of .*v.npy kept"
    with pytest.raises(Interrupted, match=message) as stop:
        encode(tiny, text, tmp_path / "v.npy")
    assert stop.value.exit_code == code


def test_of_two_that_write_at_once_the_second_is_refused(tiny, tmp_path, text):
    with partial_output(tmp_path / "v.npy"):
        with pytest.raises(FileExistsError, match=r"another process is writing .*v\.npy; wait"):
            encode(tiny, text, tmp_path / "v.npy")
        assert encode(tiny, text, tmp_path / "other.npy") == 60
        assert names(tmp_path) == [".v.npy.part", "c.txt", "other.npy"]
    assert names(tmp_path) == ["c.txt", "other.npy"]


def test_what_others_put_there_is_not_touched(tmp_path):
    folder = tmp_path / ".v.npy.part"
    folder.mkdir()
    for name, content in (
        ("thesis.txt", "mine"),
        ("progress.json", "[]"),
        ("progress.json", "{}"),
        ("vectors", "mine"),
        ("whole", "mine"),
        (".progress.json.bak", "mine"),
    ):
        (folder / name).write_text(content)
        with pytest.raises(FileExistsError, match=f"{name} is not of an encoding that was begun"):  # noqa: SIM117
            with partial_output(tmp_path / "v.npy", resume=True):
                pytest.fail("it began")
        assert (folder / name).read_text() == content
        (folder / name).unlink()
    for name in ("vectors", "whole", "progress.json"):
        (folder / name).mkdir()
        with pytest.raises(FileExistsError, match=f"{name} is not of an encoding"):  # noqa: SIM117
            with partial_output(tmp_path / "v.npy"):
                pytest.fail("it began")
        (folder / name).rmdir()
    folder.rename(tmp_path / "users")
    (tmp_path / "users" / "vectors").write_text("mine")
    for make in (lambda: folder.symlink_to("users"), lambda: folder.write_text("mine")):
        make()
        with pytest.raises(FileExistsError, match="part is a link or a file, .* move it away"):  # noqa: SIM117
            with partial_output(tmp_path / "v.npy"):
                pytest.fail("it began")
        folder.unlink()
    assert (tmp_path / "users" / "vectors").read_text() == "mine"


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_what_was_damaged_is_never_gone_on_with(tiny, tmp_path, text, ending):
    output, folder = tmp_path / f"v.{ending}", tmp_path / f".v.{ending}.part"
    with in_the_middle():
        encode(tiny, text, output)
    vectors = (folder / "vectors").read_bytes()
    progress = json.loads((folder / "progress.json").read_text())
    size = progress["bytes"]
    flipped = vectors[: size - 9] + bytes([vectors[size - 9] ^ 1]) + vectors[size - 8 :]
    changes = [{"bytes": size - 128}, {"bytes": -5}, {"rows": 0}, {"rows": 2.0}, {"settings": {}}]
    for raw, record, message in (
        (
            flipped,
            progress,
            rf"vectors is damaged: its first {size:,} bytes .*; delete .*\.part",
        ),
        (vectors[: size - 1], progress, "vectors is damaged"),
        *((vectors, progress | change, "progress.json is damaged, or was") for change in changes),
    ):
        (folder / "vectors").write_bytes(raw)
        (folder / "progress.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            encode(tiny, text, output, resume=True)
        assert names(tmp_path) == [folder.name, "c.txt"]
    # What follows was written after the progress, and is written again.
    (folder / "vectors").write_bytes(vectors[:size] + b"half a piece")
    (folder / "progress.json").write_text(json.dumps(progress))
    encode(tiny, text, output, resume=True)
    encode(tiny, text, tmp_path / f"whole.{ending}")
    assert output.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()


def test_what_was_killed_before_its_first_rows_is_begun_anew(tiny, tmp_path, text):
    with killed(streaming.PartialOutput, "keep", 2):
        encode(tiny, text, tmp_path / "v.npy")
    assert names(tmp_path / ".v.npy.part") == ["progress.json", "vectors"]
    encode(tiny, text, tmp_path / "v.npy")
    assert names(tmp_path) == ["c.txt", "v.npy"]


def test_what_a_kill_left_of_the_progress_alone_is_begun_anew(tiny, tmp_path, text):
    with in_the_middle():
        encode(tiny, text, tmp_path / "v.npy")
    folder = tmp_path / ".v.npy.part"
    (folder / "vectors").unlink()
    (folder / ".progress.json.0badcafe-1-0badcafe").write_text("{")  # of another machine
    encode(tiny, text, tmp_path / "v.npy")
    assert names(tmp_path) == ["c.txt", "v.npy"]


def test_json_too_deep_for_a_table_is_said_in_one_sentence(tiny, tmp_path):
    deep = '{"a":' * 100 + "1" + "}" * 100
    (tmp_path / "c.jsonl").write_text(f'{{"text": "a dog", "x": {deep}}}\n')
    with pytest.raises(
        ValueError, match="columns cannot be written as parquet .*; write to a .npy"
    ):
        encode(tiny, tmp_path / "c.jsonl", tmp_path / "v.parquet")
    assert names(tmp_path) == ["c.jsonl"]


def test_what_is_no_text_is_told_by_the_stream(tiny, unchecked):
    for sentences, options, error, message in (
        (["a", "b\0"], {}, ValueError, "sentence 1 holds a NUL character; leave it out"),
        (["a", "\ud83d"], {}, ValueError, r"the sentence '\\ud83d' holds half of a surrogate pair"),
        (["a"], {"on_progress": 3}, TypeError, "on_progress is 3; it must be a function, or None"),
        (
            ["a"],
            {"normalize": "x"},
            ValueError,
            "normalize is 'x'; it must be true or false or None",
        ),
    ):
        with pytest.raises(error, match=message):
            list(tiny.encode_stream(sentences, **options))


def test_long_names_stay_two(tiny, tmp_path, text):
    for end in ("1", "2"):
        output = tmp_path / f"{'x' * 240}{end}.npy"
        with in_the_middle():
            encode(tiny, text, output)
    assert len(list(tmp_path.glob(".x*.part"))) == 2
    with pytest.raises(OSError, match="^cannot write .*: File name too long; give a shorter name$"):
        encode(tiny, text, tmp_path / "new" / ("x" * 300))
    assert not (tmp_path / "new").exists()


def test_the_fingerprint_is_of_all_that_vectors_depend_on(tiny, golden):
    same = SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")
    assert fingerprint(same) == fingerprint(tiny)
    vectors = tiny.encode(SENTENCES)
    options = ({"max_length": 9}, {"normalize": True}, {"dtype": "bfloat16"}, {"num_layers": 1})
    others = [
        SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean", **o) for o in options
    ]
    others += [tiny.with_transform(Whitening.fit(vectors[:n], k=4)) for n in (50, 60)]
    others.append(SentenceEncoder.from_pretrained(golden / "tiny-roberta", pooling="mean"))
    assert len({fingerprint(encoder) for encoder in (tiny, *others)}) == 8


def test_shares_cover_the_rows():
    for rows in (0, 1, 7, 100):
        shares = [streaming.share_of(rows, i, 3) for i in range(3)]
        assert [row for share in shares for row in range(*share)] == list(range(rows))
    assert streaming.shard_of(Path("a/v.npy"), 3, 16) == Path("a/v-00003-of-00016.npy")


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    tiny, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("simcse_jax.progress.LINE_SECONDS", 0)
    encode(tiny, text, tmp_path / "v.npy")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 8
    assert re.fullmatch(r"encode: 8 of 60 sentences, [\d,]+/s, [\d:]+ left", lines[0])
    assert re.fullmatch(r"encode: 60 of 60 sentences, [\d,]+/s, 00:00 left", lines[-1])
    encode(tiny, text, tmp_path / "v.npy", show_progress=False)
    assert capsys.readouterr().err == ""


def test_a_million_lines_need_the_memory_of_a_few_pieces(tiny, tmp_path, monkeypatch):
    """The text alone would take 60 MB as a list, its vectors 128 MB."""
    path = tmp_path / "c.txt"
    path.write_text("".join(f"{i}\n" for i in range(1_000_000)))
    ids = np.array([2, 5, 3], np.int32)
    monkeypatch.setattr(
        Tokenizer, "__call__", lambda _, sentences, limit: ([ids] * len(sentences), 0)
    )

    sizes = []

    def numbers(_, ids, *__):
        sizes.append(
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
        )
        yield list(range(len(ids))), np.ones((len(ids), 32), np.float32)

    monkeypatch.setattr(SentenceEncoder, "_embed_chunk", numbers)
    with partial_output(tmp_path / "v.npy") as part:
        assert encode_source(tiny, open_source(str(path)), part) == 1_000_000
    assert len(sizes) == 62
    assert max(sizes) - sizes[3] < 30e6
    assert np.load(tmp_path / "v.npy", mmap_mode="r").shape == (1_000_000, 32)


def test_a_share_that_is_done_is_not_taken_for_a_longer_one(tiny, text, tmp_path):
    """As it would be where the input grew, and with it each process' share."""
    source = open_source(str(text), piece_rows=ROWS)
    with contextlib.suppress(Killed), partial_output(tmp_path / "v.npy", False) as part:
        encode_source(tiny, source, part, start=0, stop=16, keep_progress=True)
        raise Killed
    with (
        pytest.raises(ValueError, match=r"another share \(rows 0 to 16 then, rows 0 to 24 now\)"),
        partial_output(tmp_path / "v.npy", True) as part,
    ):
        encode_source(tiny, source, part, start=0, stop=24, keep_progress=True)
