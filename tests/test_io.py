"""Files: whole or not at all, with the right permissions; what a broken file is told apart by."""

import bz2
import concurrent.futures
import contextlib
import errno
import gzip
import io
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from simcse_jax import io as io_module
from simcse_jax.io import (
    cache_folder,
    finish_write,
    is_special,
    is_written,
    iter_lines,
    read_json,
    read_json_lines,
    read_lines,
    remove_leftovers,
    write_bytes,
    write_json,
    write_tensors,
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


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    real, link = tmp_path / "data" / "real.txt", tmp_path / "link.txt"
    link.symlink_to(real)
    for text in ("old", "new"):  # it leads to nothing at first
        write_text(link, text)
        assert link.is_symlink()
        assert real.read_text() == text
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "link.txt", "real.txt"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through")
    reader.join()
    assert read == [b"through"]
    assert pipe.is_fifo()
    assert is_special(pipe)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_devices_and_descriptors_are_never_replaced(tmp_path):
    before = os.stat("/dev/full")
    with pytest.raises(OSError, match="cannot write /dev/full: No space left on device"):
        write_text("/dev/full", "text")
    assert os.path.samestat(os.stat("/dev/full"), before)
    write_text("/dev/null", "text")
    # A descriptor that leads to a file: what others write there stays.
    path = tmp_path / "log"
    path.write_text("old\n")
    with path.open("a") as file:
        inode = path.stat().st_ino
        write_text(f"/dev/fd/{file.fileno()}", "new\n")
    assert path.read_text() == "old\nnew\n"
    assert path.stat().st_ino == inode
    for place in (tmp_path, path, tmp_path / "none"):
        assert not is_special(place)


def test_a_socket_is_refused(tmp_path):
    place = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(place)
        with pytest.raises(OSError, match="it is a disk or a socket"), written_file(place):
            pytest.fail("the work has begun")
    assert os.path.exists(place)


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path):
    path = tmp_path / "out.npy"
    code = (
        "import os, signal, sys; from simcse_jax.io import written_file\n"
        "with written_file(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.npy.")
    others = [
        left.name.replace("out", "other"),  # of another file
        f".out.npy.{left.name.split('.')[-1].split('-')[0]}-{os.getpid()}-00000000",  # of a living
        ".out.npy.ffffffff-1-00000000",  # of another machine
        ".out.npy.backup",  # of nobody
    ]
    for name in others:
        (tmp_path / name).touch()
    write_text(path, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "out.npy"])
    remove_leftovers(tmp_path, of_anyone=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others[1::2], "out.npy"])


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path):
    for name in ("n" * 255, "\N{SNOWMAN}" * 85):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_text("utf-8") == name


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "folder"
    for name in ("old", "new"):
        with written_folder(folder, "list.json") as temporary:
            write_text(temporary / name, name)
        assert sorted(p.name for p in folder.iterdir()) == ["list.json", name]
    assert read_json(folder / "list.json") == {"files": ["list.json", "new"]}

    def spoil(folder):
        with written_folder(folder, "list.json") as temporary:
            write_text(temporary / "half", "")
            raise KeyboardInterrupt

    for place in (folder, tmp_path / "deep" / "other"):
        with pytest.raises(KeyboardInterrupt):
            spoil(place)
    assert sorted(p.name for p in folder.iterdir()) == ["list.json", "new"]
    assert list(folder.parent.iterdir()) == [folder]


def test_what_lies_in_a_folder_and_is_not_ours_stays(tmp_path):
    """Whatever its marker says: files outside of it are not ours to remove either."""
    folder = tmp_path / "folder"
    outside = tmp_path / "outside"
    for path in (folder / "thesis.txt", outside / "file", tmp_path / "file"):
        write_text(path, "mine")
    message = r"folder: it holds thesis\.txt and no list\.json"
    with pytest.raises(FileExistsError, match=message), written_folder(folder, "list.json"):
        pytest.fail("the work has begun")
    (folder / "link").symlink_to(outside)
    files = ["../file", str(tmp_path / "file"), "link/file", "deep/old", "deep/down/old", ".."]
    write_json(folder / "list.json", {"files": files})
    write_text(folder / "deep" / "old", "ours")
    write_text(folder / "deep" / "down" / "old", "ours")
    with written_folder(folder, "list.json") as temporary:
        write_text(temporary / "new" / "file", "ours")
    assert sorted(p.name for p in folder.iterdir()) == ["link", "list.json", "new", "thesis.txt"]
    assert (outside / "file").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_way_is_found_before_anything_is_moved(tmp_path):
    folder = tmp_path / "folder"
    write_text(folder / "b" / "mine", "mine")
    write_text(folder / "c", "mine")
    before = sorted(folder.rglob("*"))

    def write(name):
        with written_folder(folder, "list.json", lambda _: True) as temporary:
            write_text(temporary / "a", "ours")
            write_text(temporary / name, "ours")

    for name in ("b", "c/d"):
        with pytest.raises(FileExistsError, match=f"{name}: a folder, file or link is in the way"):
            write(name)
    assert sorted(folder.rglob("*")) == before


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "place")
    for _ in range(2):
        with written_folder(tmp_path / "link", "list.json") as temporary:
            write_text(temporary / "a", "ours")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "place" / "a").read_text() == "ours"


def test_a_killed_write_leaves_the_old_the_new_or_what_nobody_reads(tmp_path, monkeypatch):
    """Killed before each change in the folder: the files are of one write, or say otherwise."""
    names = ["a", "config.json", "sub/config.json", "sub/b"]

    def write(folder, text):
        with written_folder(folder, "list.json") as temporary:
            for name in (*names, text):
                write_text(temporary / name, text)

    class Killed(BaseException):
        pass

    def kill_at(moment):
        def counted(function):
            def call(*args, **kwargs):
                nonlocal moment
                moment -= 1
                if moment < 0:
                    raise Killed
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)
            write(folder, "new")

    outcomes = set()
    for moment in range(40):
        folder = tmp_path / str(moment)
        write(folder, "old")
        try:
            kill_at(moment)
        except Killed:
            pass
        else:
            break
        texts = {(folder / n).read_text() for n in names if (folder / n).exists()}
        refused = "incomplete" in read_json(folder / "list.json")
        assert is_written(folder, "list.json") != refused
        if refused:
            outcomes.add("refused")
            assert not (folder / "config.json").exists() or len(texts) == 1
        else:
            assert len(texts) == 1
            outcomes |= texts
        finish_write(folder, "list.json")
        assert is_written(folder, "list.json")
        assert {(folder / n).read_text() for n in names} == ({"new"} if refused else texts)
        write(folder, "again")
        found = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".list.json."))
        assert found == ["a", "again", "config.json", "list.json", "sub"]
    assert outcomes >= {"old", "refused"}
    assert moment > 8


def test_of_two_that_write_at_once_one_is_there_whole(tmp_path, monkeypatch):
    """Both move their files slowly: without a lock the folder is a mixture, or one fails."""
    move = os.replace

    def slowly(source, target):
        time.sleep(0.02)
        move(source, target)

    folder = tmp_path / "model"
    with written_folder(folder, "list.json") as temporary:  # both write over an older one
        write_text(temporary / "config.json", "old")
    monkeypatch.setattr(os, "replace", slowly)
    ready = threading.Barrier(2)

    def write(content):
        with written_folder(folder, "list.json") as temporary:
            for name in ("config.json", "a", "b", content):
                (temporary / name).write_text(content)
            ready.wait()

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, content) for content in ("first", "second")]:
            done.result()
    found = {path.name: path.read_text() for path in folder.iterdir()}
    listed = read_json(folder / "list.json")
    del found["list.json"]
    (content,) = set(found.values())
    assert sorted(found) == sorted(["config.json", "a", "b", content])
    assert sorted(listed["files"]) == sorted([*found, "list.json"])
    assert "incomplete" not in listed


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_umask_is_followed(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "f.txt", "")
        with written_folder(tmp_path / "folder", "list.json"):
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
        (tmp_path / "file" / "f", r"cannot write .*f/list\.json: "),
        (tmp_path / "file", "it is a file; give the name of a folder"),
    ]:
        with pytest.raises(OSError, match=message), written_folder(place, "list.json"):
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
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb\xbf\n\xef\xbb\xbfa\r\n\r\n", ["", "\ufeffa", ""]),
    ]:
        path.write_bytes(text)
        assert read_lines(path) == lines
        for start in range(len(lines) + 2):
            assert list(iter_lines(path, start)) == lines[start:]
        for read in (read_lines, iter_lines):
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
            assert list(read("-")) == lines


def test_bytes_of_another_encoding_are_named_with_their_line(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbf\n\xe9\n")
    for read in (read_lines, iter_lines):
        message = r"t\.txt, line 2: not UTF-8 \(byte 0xe9\); convert it"
        with pytest.raises(ValueError, match=message):
            list(read(path))
    assert read_lines(path, "latin-1") == ["ï»¿", "é"]
    path.write_bytes(b"a\rb\r\xe9\r")
    for read in (read_lines, iter_lines):
        with pytest.raises(ValueError, match=r"t\.txt, line 3: not UTF-8"):
            list(read(path))
    path.write_bytes(b"a\n\nb\0\n")
    for read in (read_lines, iter_lines):
        with pytest.raises(ValueError, match=r"t\.txt, line 3: holds a NUL byte"):
            list(read(path))


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
        for read in (read_lines, read_json, read_json_lines, lambda path: list(iter_lines(path))):
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
        for read in (read_lines, iter_lines):
            message = rf"t\.txt is compressed; unpack it with {unpack}"
            with pytest.raises(ValueError, match=message):
                list(read(path))


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "simcse_jax"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_folder() == Path.home() / ".cache" / "simcse_jax"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_with_the_file(tmp_path, code):
    """The system names none where writing to an open file fails."""
    for make in (
        lambda: written_file(tmp_path / "x.npy"),
        lambda: written_folder(tmp_path / "x.npy", "m.json"),
    ):
        with (
            pytest.raises(OSError, match=rf"^cannot write {tmp_path}/x\.npy: {os.strerror(code)}$"),
            make(),
        ):
            raise OSError(code, os.strerror(code))
        assert not list(tmp_path.iterdir())


def killed_write(folder, monkeypatch):
    """Leave a folder as a process does that is killed while it moves its files."""
    with written_folder(folder, "list.json") as temporary:
        write_text(temporary / "config.json", "old")

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        patch.setattr(io_module, "_move", kill)
        with pytest.raises(Killed), written_folder(folder, "list.json") as temporary:
            write_text(temporary / "config.json", "new")
    assert not is_written(folder, "list.json")


def test_who_waits_to_finish_a_write_finds_it_finished(tmp_path, monkeypatch):
    """Of two processes that start after a kill, the second must not take the first one's files."""
    folder = tmp_path / "model"
    killed_write(folder, monkeypatch)
    alone = io_module._alone

    @contextlib.contextmanager
    def after_another(place):
        monkeypatch.setattr(io_module, "_alone", alone)
        finish_write(folder, "list.json")  # of the process that had the lock meanwhile
        with alone(place):
            yield

    monkeypatch.setattr(io_module, "_alone", after_another)
    finish_write(folder, "list.json")
    assert is_written(folder, "list.json")
    assert (folder / "config.json").read_text() == "new"


def test_a_write_of_another_thread_is_not_taken_for_an_abandoned_one(tmp_path, monkeypatch):
    """The second thread starts while the first moves its files, and then writes nothing itself."""
    folder, moving, started = tmp_path / "model", threading.Event(), threading.Event()
    with written_folder(folder, "list.json") as temporary:
        write_text(temporary / "config.json", "old")
    move, look = io_module._move, io_module._unfinished

    def slowly(*arguments):
        moving.set()
        assert started.wait(10)
        time.sleep(0.1)
        move(*arguments)

    def first():
        with written_folder(folder, "list.json") as temporary:
            write_text(temporary / "config.json", "new")

    def second():
        assert moving.wait(10)
        monkeypatch.setattr(io_module, "_unfinished", lambda *a: (started.set(), look(*a))[1])
        with contextlib.suppress(KeyError), written_folder(folder, "list.json"):
            raise KeyError("what was to be written could not be made")

    monkeypatch.setattr(io_module, "_move", slowly)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert is_written(folder, "list.json")
    assert (folder / "config.json").read_text() == "new"


def test_a_name_that_is_not_utf_8_goes_through_json(tmp_path):
    value = {"file": os.fsdecode(b"\xff.csv"), "text": "é\\udcff"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert b'"\\udcff.csv"' in (tmp_path / "x.json").read_bytes()


@pytest.mark.parametrize("files", [[["x"]], [1], {"a": 1}, "a", None])
def test_a_list_of_files_that_is_none_is_not_whole(tmp_path, files):
    (tmp_path / "a").write_text("")
    write_json(tmp_path / "list.json", {"files": ["a"]})
    assert is_written(tmp_path, "list.json")
    write_json(tmp_path / "list.json", {"files": files})
    assert not is_written(tmp_path, "list.json")


def test_weights_may_be_read_by_whom_other_files_may(tmp_path):
    """Safetensors' own mode is the owner's alone."""
    write_tensors(tmp_path / "weights.safetensors", {"w": np.zeros(2, np.float32)})
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1
