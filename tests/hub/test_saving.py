"""Saving into folders that are there already: nothing of the user's is lost, nothing mixed."""

import errno
import shutil

import numpy as np
import pytest
from hub_support import assert_same, load, make_pooled
from safetensors.numpy import load_file, save_file

from simcse_jax import SentenceEncoder, hub
from simcse_jax.io import read_json, write_json
from simcse_jax.transforms import Whitening

TEXTS = ["a dog eats", "the cat sat", "a bird", "two dogs eat the bird"]


@pytest.fixture(scope="module")
def encoder(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("theirs", ["thesis.txt", ".git", "config.json"])
def test_another_folder_is_refused_and_left_alone(encoder, tmp_path, monkeypatch, theirs):
    folder = tmp_path / "work"
    if theirs == ".git":
        (folder / theirs).mkdir(parents=True)
    else:
        write_json(folder / theirs, {"mine": True})
    monkeypatch.chdir(folder)
    for place in (folder, "."):
        with pytest.raises(
            FileExistsError, match=f"work: it holds {theirs} and no simcse_jax.json"
        ):
            encoder.save_pretrained(place)
    assert names(folder) == [theirs]


def test_the_current_folder_stays_the_same_folder(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inode = tmp_path.stat().st_ino
    for _ in range(2):
        encoder.save_pretrained(".")
    assert tmp_path.stat().st_ino == inode
    assert hub.read_settings(tmp_path) == encoder.settings


def test_a_user_s_files_beside_a_model_stay(encoder, tmp_path):
    """Beside one of ours, and beside one of transformers, whose other files stay too."""
    folder = tmp_path / "ours"
    encoder.save_pretrained(folder)
    theirs = make_pooled(encoder.tokenizer_folder, tmp_path / "theirs")
    for place in (folder, theirs):
        (place / "thesis.txt").write_text("years of work")
        (place / "transform").mkdir(exist_ok=True)
        (place / "transform" / "mine.txt").write_text("mine")
        before = names(place)
        encoder.save_pretrained(place)
        assert set(before) <= set(names(place))
        assert (place / "thesis.txt").read_text() == "years of work"
        assert (place / "transform" / "mine.txt").read_text() == "mine"
        again = SentenceEncoder.from_pretrained(place)
        assert again.transform is None
        np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_what_an_earlier_save_put_there_goes(encoder, tmp_path):
    folder = tmp_path / "model"
    encoder.save_pretrained(folder)
    plain = names(folder)
    whitening = Whitening.fit(encoder.encode(TEXTS), k=2)
    encoder.with_transform(whitening).save_pretrained(folder)
    assert {"transform", "2_Dense"} <= set(names(folder))
    listed = read_json(folder / "simcse_jax.json")["files"]
    assert listed == sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    encoder.save_pretrained(folder)
    assert names(folder) == plain


def test_a_link_to_a_folder_stays_a_link(encoder, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    encoder.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert hub.read_settings(tmp_path / "real") == encoder.settings


def test_the_shards_of_another_model_are_not_read(encoder, tmp_path):
    """As in transformers, the single file comes before the list of shards."""
    folder = make_pooled(encoder.tokenizer_folder, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({k: v + 1 for k, v in tensors.items()}, folder / "a.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "a.safetensors")}
    write_json(folder / "model.safetensors.index.json", index)
    encoder.save_pretrained(folder)
    assert_same(load(folder), (encoder.config, encoder.params))


def test_an_interrupted_save_is_refused(encoder, tmp_path, monkeypatch):
    """Killed while its files are moved, a save leaves neither the old model nor a mixture."""
    folder = tmp_path / "model"
    encoder.save_pretrained(folder)
    moved = []

    def killed(*args, **kwargs):
        moved.append(args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("simcse_jax.io._move", killed)
        with pytest.raises(KeyboardInterrupt):
            encoder.save_pretrained(folder)
    assert moved
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        SentenceEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"simcse_jax\.json: the last save was interrupted"):
        hub.read_settings(folder)
    encoder.save_pretrained(folder)
    assert hub.read_settings(folder) == encoder.settings


def test_a_model_of_version_0_1_is_replaced(encoder, tmp_path):
    """It has no list of its files, and its transform is known by its folder."""
    whitening = Whitening.fit(encoder.encode(TEXTS), k=2)
    folder = tmp_path / "model"
    encoder.with_transform(whitening).save_pretrained(folder)
    old = ("pooling", "normalize", "max_length", "do_lower_case")
    raw = read_json(folder / "simcse_jax.json")
    write_json(folder / "simcse_jax.json", {name: raw[name] for name in old})
    assert SentenceEncoder.from_pretrained(folder).dimension == 2
    encoder.save_pretrained(folder)
    assert SentenceEncoder.from_pretrained(folder).transform is None


def test_a_model_is_saved_over_itself(golden, tmp_path):
    shutil.copytree(golden / "tiny-bert", tmp_path / "model")
    encoder = SentenceEncoder.from_pretrained(tmp_path / "model", pooling="mean")
    encoder.save_pretrained(tmp_path / "model")
    again = SentenceEncoder.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert (tmp_path / "model" / "golden.safetensors").exists()


def test_files_of_another_tokenizer_are_not_left_beside_ours(encoder, tmp_path):
    """They would be read together; ours of an earlier save are not another's."""
    theirs = make_pooled(encoder.tokenizer_folder, tmp_path / "theirs")
    (theirs / "vocab.txt").write_text("[PAD]\nother\nwords\n")
    before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"theirs/vocab\.txt is of another model's tokenizer"):
        encoder.save_pretrained(theirs)
    assert before == {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    (theirs / "vocab.txt").unlink()
    encoder.save_pretrained(theirs)
    encoder.save_pretrained(theirs)


def test_a_full_disk_is_told_of_the_tokenizer_too(encoder, tmp_path, monkeypatch):
    """Its own save raises a bare Exception, without the file."""
    real = open

    def full(file, *arguments, **options):
        if str(file).endswith("tokenizer.json") or "/.tokenizer.json." in str(file):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", full)
    monkeypatch.setattr("io.open", full)
    with pytest.raises(OSError, match="cannot write .*: No space left on device"):
        encoder.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_unknown_setting_is_quoted_in_short(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    raw = read_json(tmp_path / "simcse_jax.json")
    write_json(tmp_path / "simcse_jax.json", raw | {"word " * 100_000: 1})
    with pytest.raises(ValueError, match="is not known") as raised:
        SentenceEncoder.from_pretrained(tmp_path)
    assert len(str(raised.value)) < 500
