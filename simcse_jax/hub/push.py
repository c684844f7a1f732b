"""Uploading a model folder to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from simcse_jax.checks import quoted
from simcse_jax.hub.card import CARD_FILE, is_unedited, placed, read_card
from simcse_jax.io import write_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Upload a model folder; its card's snippets are changed to load it from the hub.

    Args:
        folder: as `simcse_jax.hub.save_model` has written it, and the caller's to change.
        repo_id: the repository, made where there is none.
        private: whether a repository that is made is private; None is what the hub says.
        token: of the hub; None is the stored one.
        revision: the branch, made where there is none; None is the main one.
        commit_message: the commit's title.

    Returns:
        The address of the commit.

    Raises:
        ValueError: ``repo_id`` is no name of a repository, or the token none of the hub.
        OSError: the hub cannot be reached or refuses it.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _explained(repo_id):
        # The hub puts the user's name before a name without one.
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        card = read_card(folder)
        kept = None
        if card is not None:
            write_text(folder / CARD_FILE, placed(card, repo_id))
            if is_unedited(card) and _has_users_card(api, repo_id, revision):
                kept = [CARD_FILE]
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=kept,
        )
    return str(done.commit_url)


def _has_users_card(api: HfApi, repo_id: str, revision: str | None) -> bool:
    """Tell whether a repository has a card that is not to be overwritten."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        file = api.hf_hub_download(repo_id, CARD_FILE, revision=revision)
    except RemoteEntryNotFoundError:
        return False
    found = read_card(Path(file).parent)  # by a link of the cache
    return found is None or not is_unedited(found)


_LOG_IN = "log in by `hf auth login`, or give a token"
_MENDS = {
    401: _LOG_IN,
    403: "give a token that may write there, or log in with one by `hf auth login`",
    404: "check the name, and that your token may see it",
}


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Say in a sentence why the hub took nothing, and what mends it."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"repo_id is {quoted(repo_id)}; it must be a name of the hub, such as 'user/model'"
        ) from error
    except UnicodeEncodeError as error:
        if error.encoding != "ascii":
            raise
        raise ValueError(  # not from the error, which holds the token
            f"the token for the upload to {repo_id} has a letter that no token of the hub has; "
            "copy it again from huggingface.co/settings/tokens"
        ) from None
    except LocalTokenNotFoundError as error:
        raise OSError(f"there is no token for the upload to {repo_id}; {_LOG_IN}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = (error.server_message or type(error).__name__).strip().rstrip(".")
        raise OSError(
            f"the Hugging Face hub refused the upload to {repo_id} ({status}: {said}); "
            f"{_MENDS.get(status, 'try again later')}"
        ) from error
    except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise OSError(
            f"the Hugging Face hub could not be reached for the upload to {repo_id} "
            f"({type(error).__name__}); check the network, and HF_HUB_OFFLINE"
        ) from error
