"""Fetch a pinned revision from the Hugging Face Hub, or say in one line what to do instead."""

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

from vitlora.errors import VitloraError

TRIES = 3
PAUSE_S = 2.0
MODEL_FILES = ["config.json", "preprocessor_config.json", "*.safetensors", "*.safetensors.index.json"]
DATA_FILES = ["*.parquet", "*.arrow", "*.tar", "*.zip", "*.jsonl", "*.csv", "README.md", "*.jpg", "*.jpeg", "*.png"]
Result = TypeVar("Result")


def fetch(repo_id: str, revision: str, repo_type: str, section: str) -> Path:
    """Download one commit of a repository into the Hub client's cache and check its large files.

    ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_TOKEN`` mean what they mean to ``huggingface_hub``.

    Args:
        repo_id: Such as `ethz/food101`.
        revision: Commit, 40 hex digits.
        repo_type: `model` or `dataset`.
        section: `model` or `data`: where the reader can change the source.

    Returns:
        Folder of the snapshot.

    Raises:
        VitloraError: The Hub can't be reached, has no such repository or commit, asks for a login, or sent a file
            whose SHA-256 is not the one it announced.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    host = urlparse(constants.ENDPOINT).netloc
    what = f"{repo_type} {repo_id} at {revision[:12]}"
    patterns = MODEL_FILES if repo_type == "model" else DATA_FILES

    def download() -> Path:
        return Path(
            snapshot_download(repo_id, repo_type=repo_type, revision=revision, allow_patterns=patterns)  # pinned
        )

    try:
        snapshot = _with_retries(download, (HfHubHTTPError, LocalEntryNotFoundError, OSError), constants.HF_HUB_OFFLINE)
    except HFValidationError as error:
        raise VitloraError(f"{section}.path: got {repo_id}; the rule: a Hub id such as owner/name ({error})") from None
    except GatedRepoError:
        raise VitloraError(f"{section}: {host} asks for a login for {what}; accept its terms, set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise VitloraError(f"{section}.revision: {host} has {repo_id} but no commit {revision}") from None
    except RepositoryNotFoundError:
        raise VitloraError(
            f"{section}.path: {host} has no {repo_type} {repo_id} (or it is private: set HF_TOKEN)"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        source = "folder" if repo_type == "model" else "hub_folder"
        why = "HF_HUB_OFFLINE is set and the cache lacks it" if constants.HF_HUB_OFFLINE else type(error).__name__
        raise VitloraError(
            f"{section}: cannot fetch {what} from {host} ({why}); put a copy of its files in a folder and set "
            f"{section}.source: {source}, {section}.path: that folder, {section}.revision: null"
        ) from None
    _verify(snapshot, host)
    return snapshot


def _with_retries(action: Callable[[], Result], passing: tuple[type[Exception], ...], offline: bool) -> Result:
    """Try a few times where the failure may pass; a clear 'no' (4xx) is final at once."""
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except passing as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if offline or attempt == TRIES or (status is not None and status < 500 and status != 429):
                raise
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")


def _verify(snapshot: Path, host: str) -> None:
    """Check large files against their announced SHA-256, which names the cached blob; the client checks only size."""
    for path in sorted(snapshot.rglob("*")):
        blob = path.resolve()
        if path.is_file() and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            with blob.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != blob.name:
                blob.unlink()
                raise VitloraError(
                    f"{path.name} from {host}: SHA-256 {found}, announced {blob.name}; removed it, run again"
                )
