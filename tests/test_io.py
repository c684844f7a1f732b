"""Files: whole or not at all, with the right permissions; what a broken file is told apart by."""

import bz2
import gzip
import io
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from simcse_jax.io import (
    cache_folder,
    read_json,
    read_json_lines,
    read_lines,
    write_bytes,
    write_json,
    write_text,
    written_file,
    written_folder,
)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "f.txt"
    with written_file(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()

    def spoil():
        with written_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoil()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "folder"
    for name in ("old", "new"):
        with written_folder(folder) as temporary:
            write_text(temporary / name, name)
        assert [p.name for p in folder.iterdir()] == [name]

    def spoil():
        with written_folder(folder) as temporary:
            write_text(temporary / "half", "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spoil()
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_is_followed(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "f.txt", "")
        with written_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f.txt").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask


def test_places_that_cannot_be_written_are_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place, message in [
        (tmp_path / "file" / "f", "cannot write .*f: "),
        (tmp_path, "it is a folder; give the name of a file"),
    ]:
        with pytest.raises(OSError, match=message), written_file(place):
            pytest.fail("the work has begun")
    for place, message in [
        (tmp_path / "file" / "f", "cannot write .*f: "),
        (tmp_path / "file", "it is a file; give the name of a folder"),
    ]:
        with pytest.raises(OSError, match=message), written_folder(place):
            pytest.fail("the work has begun")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_json_is_for_people_and_read_back(tmp_path):
    path = tmp_path / "new" / "f.json"
    value = {"τ": [0.05, None], "name": "café"}
    write_json(path, value)
    assert path.read_text(encoding="utf-8").startswith('{\n  "τ": [')
    assert read_json(path) == value
    write_json(path, value, indent=None)
    assert path.read_text(encoding="utf-8").count("\n") == 1
    assert read_json_lines(path) == [value]
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == value


def test_broken_json_is_named_with_its_line(tmp_path):
    path = tmp_path / "f.json"
    with pytest.raises(FileNotFoundError, match=r"f\.json does not exist"):
        read_json(path)
    write_text(path, '{\n  "a": 1,\n  b\n}\n')
    with pytest.raises(ValueError, match=r"f\.json, line 3: not JSON \(.* at column 3\)"):
        read_json(path)
    write_bytes(path, b'{\n"a": "\xff"}')
    with pytest.raises(ValueError, match=r"f\.json, line 2: not UTF-8 \(byte 0xff\)"):
        read_json(path)
    write_text(path, '{"step": 1}\n{"step": 2}\n{"ste')
    with pytest.raises(ValueError, match=r"f\.json, line 3: not JSON"):
        read_json_lines(path)


def test_lines_keep_their_numbers(tmp_path, monkeypatch):
    path = tmp_path / "t.txt"
    for text, lines in [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb", ["a", "", "b"]),
        ("\ufeffa\u2028b\r\nc\n".encode(), ["a\u2028b", "c"]),
        (b"a\rb\r\rc\r", ["a", "b", "", "c"]),
        (b"a\rb\r\nc\nd", ["a", "b", "c", "d"]),
    ]:
        path.write_bytes(text)
        assert read_lines(path) == lines
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        assert read_lines("-") == lines


def test_bytes_of_another_encoding_are_named_with_their_line(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbf\n\xe9\n")
    with pytest.raises(ValueError, match=r"t\.txt, line 2: not UTF-8 \(byte 0xe9\); convert it"):
        read_lines(path)
    assert read_lines(path, "latin-1") == ["ï»¿", "é"]
    path.write_bytes(b"a\rb\r\xe9\r")
    with pytest.raises(ValueError, match=r"t\.txt, line 3: not UTF-8"):
        read_lines(path)


def test_what_is_no_readable_file_is_refused_and_never_waited_for(tmp_path, monkeypatch):
    pipe, folder, text = tmp_path / "pipe", tmp_path / "folder", tmp_path / "t.txt"
    os.mkfifo(pipe)
    folder.mkdir()
    text.write_text("a")
    for path, error, message in (
        (pipe, OSError, "pipe is a pipe or a device; give a file, or - for standard input"),
        ("/dev/zero", OSError, "/dev/zero is a pipe or a device"),
        (folder, IsADirectoryError, "folder is a folder; give a file"),
        (text / "below", NotADirectoryError, "below lies below a file"),
    ):
        for read in (read_lines, read_json, read_json_lines):
            with pytest.raises(error, match=message):
                read(path)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)  # the tests may run as root, who may read all
    with pytest.raises(PermissionError, match=r"t\.txt may not be read; change its permissions"):
        read_lines(text)


def test_what_a_process_is_given_as_input_is_read(tmp_path):
    read, write = os.pipe()
    os.write(write, b"a\nb\n")
    os.close(write)
    try:
        assert read_lines(f"/dev/fd/{read}") == ["a", "b"]
    finally:
        os.close(read)


def test_a_compressed_file_is_no_text(tmp_path):
    for pack, unpack in ((gzip.compress, "gunzip"), (bz2.compress, "bunzip2")):
        path = tmp_path / "t.txt"
        path.write_bytes(pack(b"a\n"))
        with pytest.raises(ValueError, match=rf"t\.txt is compressed; unpack it with {unpack}"):
            read_lines(path)


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "simcse_jax"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == Path.home() / ".cache" / "simcse_jax"
