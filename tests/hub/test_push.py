"""Uploading to the hub, of which the calls are stubs: what would lie there, and what is refused."""

import fnmatch
import functools
import importlib
import inspect
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RemoteEntryNotFoundError,
)

from simcse_jax import SentenceEncoder
from simcse_jax.hub.card import is_unedited

# The package that speaks HTTP is another one from version to version.
httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])
TEXTS = ["a dog eats", "the cat sat"]


def refusal(kind, status, message=None):
    response = httpx.Response(status, request=httpx.Request("POST", "https://hub.test/api"))
    return kind("long\nstory", response=response, server_message=message)


def as_in(real):
    """Have a stub refuse what the real method does not take."""

    def wrap(stub):
        @functools.wraps(stub)
        def checked(*args, **options):
            inspect.signature(real).bind(*args, **options)
            return stub(*args, **options)

        return checked

    return wrap


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories are folders, and what it was asked."""
    calls = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        @as_in(HfApi.create_repo)
        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            calls.append(("create_repo", self.token, private, exist_ok))
            name = repo_id if "/" in repo_id else f"user/{repo_id}"
            return SimpleNamespace(repo_id=name)

        @as_in(HfApi.create_branch)
        def create_branch(self, repo_id, *, branch, exist_ok=False):
            calls.append(("create_branch", repo_id, branch, exist_ok))

        @as_in(HfApi.hf_hub_download)
        def hf_hub_download(self, repo_id, filename, *, revision=None):
            path = tmp_path / "hub" / repo_id / filename
            if not path.exists():
                raise refusal(RemoteEntryNotFoundError, 404)
            return str(path)

        @as_in(HfApi.upload_folder)
        def upload_folder(self, *, repo_id, folder_path, ignore_patterns=None, **options):
            calls.append(("upload_folder", repo_id, options))
            ignore = shutil.ignore_patterns(*ignore_patterns or ())
            place = tmp_path / "hub" / repo_id
            shutil.copytree(folder_path, place, ignore=ignore, dirs_exist_ok=True)
            return SimpleNamespace(commit_url=f"https://hub.test/{repo_id}/commit/1")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return SimpleNamespace(calls=calls, api=Api, place=tmp_path / "hub")


@pytest.fixture(scope="module")
def encoder(golden):
    return SentenceEncoder.from_pretrained(golden / "tiny-bert", pooling="mean")


def test_what_is_uploaded_is_the_model(encoder, hub):
    url = encoder.push_to_hub("model", private=True, token="t", revision="dev", commit_message="m")
    assert url == "https://hub.test/user/model/commit/1"
    assert hub.calls == [
        ("create_repo", "t", True, True),
        ("create_branch", "user/model", "dev", True),
        ("upload_folder", "user/model", {"revision": "dev", "commit_message": "m"}),
    ]
    again = SentenceEncoder.from_pretrained(hub.place / "user/model")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    card = (hub.place / "user/model/README.md").read_text()
    assert 'SentenceEncoder.from_pretrained("user/model")' in card
    assert 'SentenceTransformer("user/model")' in card
    assert is_unedited(card)
    names = sorted(path.name for path in (hub.place / "user/model").iterdir())
    encoder.save_pretrained(hub.place / "local")
    assert names == sorted(path.name for path in (hub.place / "local").iterdir())


def test_what_was_uploaded_is_loaded_by_its_name(encoder, hub, tmp_path, monkeypatch):
    """With its card, of which the hub is asked as of the weights."""

    @as_in(huggingface_hub.snapshot_download)
    def download(repo_id, *, allow_patterns):
        def others(folder, names):
            files = [name for name in names if not (Path(folder) / name).is_dir()]
            return [n for n in files if not any(fnmatch.fnmatch(n, p) for p in allow_patterns)]

        return shutil.copytree(hub.place / repo_id, tmp_path / "cache" / ("a" * 40), ignore=others)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    encoder.push_to_hub("user/model")
    again = SentenceEncoder.from_pretrained("user/model")
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert again.origin[:3] == ("user/model", "user/model", "a" * 40)
    again.save_pretrained(tmp_path / "saved")
    uploaded = hub.place / "user/model" / "README.md"
    assert (tmp_path / "saved" / "README.md").read_text() == uploaded.read_text()


def test_whose_card_is_uploaded(encoder, hub, tmp_path):
    """Ours, but not over one that was edited there; and one that was edited here."""
    encoder.push_to_hub("user/model")
    place = hub.place / "user/model/README.md"
    encoder.push_to_hub("user/model")
    assert is_unedited(place.read_text())
    edited = "# Edited there\n" + place.read_text()
    place.write_text(edited)
    encoder.push_to_hub("user/model")
    assert place.read_text() == edited
    encoder.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("# Edited here\n")
    SentenceEncoder.from_pretrained(tmp_path / "model").push_to_hub("user/model")
    assert place.read_text() == "# Edited here\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(HfHubHTTPError, 401), "(401: HfHubHTTPError); log in by `hf auth login`"),
        (refusal(HfHubHTTPError, 403, "No."), "(403: No); give a token that may write there"),
        (refusal(HfHubHTTPError, 500), "(500: HfHubHTTPError); try again later"),
        (LocalTokenNotFoundError("x"), "there is no token for the upload to user/model; log in"),
        (httpx.ConnectError("x"), "could not be reached for the upload to user/model (ConnectErr"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(encoder, hub, monkeypatch, error, message):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(hub.api, "upload_folder", refuse)
    with pytest.raises(OSError, match=re.escape(message)) as raised:
        encoder.push_to_hub("user/model")
    assert "\n" not in str(raised.value)


def test_without_the_network(encoder):
    """By huggingface_hub itself, which the tests have switched off."""
    with pytest.raises(OSError, match=r"could not be reached .* \(OfflineModeIsEnabled\)"):
        encoder.push_to_hub("user/model")


def test_a_name_that_cannot_be(encoder):
    with pytest.raises(ValueError, match="repo_id is 'a b/c'; it must be a name of the hub"):
        encoder.push_to_hub("a b/c")


def test_a_token_that_no_header_takes(encoder, hub, monkeypatch):
    """As httpx says of its header; the sentence does not show the token."""
    monkeypatch.setattr(hub.api, "create_repo", lambda self, *_, **__: self.token.encode("ascii"))
    message = "the token for the upload to user/model has a letter"
    with pytest.raises(ValueError, match=message) as e:
        encoder.push_to_hub("user/model", token="hf_é")
    assert "hf_" not in str(e.value)
    assert e.value.__suppress_context__
