"""Fetch a pinned revision from the Hugging Face Hub, or say in one line what to do instead."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from vitlora.core.errors import VitloraError

TRIES = 3
PAUSE_S = 2.0
TIMEOUT_S = 10.0
XET_RETRIES = "30s"  # for each piece of a file; unset, a blocked Xet storage means five minutes of silence
Result = TypeVar("Result")


def fetch(
    repo_id: str, revision: str, repo_type: str, section: str, copied: str, only: Sequence[str] | None = None
) -> Path:
    """Download one commit of a repository into the Hub client's cache and check its large files.

    What is in the cache is taken from there without a request: a commit never changes.

    ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_TOKEN`` mean what they mean to ``huggingface_hub``.

    Args:
        repo_id: Such as `ethz/food101`.
        revision: Commit, 40 hex digits.
        repo_type: `model` or `dataset`.
        section: `model` or `data`: where the reader can change the source.
        copied: The section's source that reads a copy of it in a folder.
        only: Patterns of the files to take, none of them in a sub-folder; all files without. Of a data set one left out
            would halve it silently.

    Returns:
        Folder of the snapshot.

    Raises:
        VitloraError: The Hub can't be reached, has no such repository or commit, asks for a login, or sent a file
            whose SHA-256 is not the one it announced.
    """
    from huggingface_hub import constants

    host = urlparse(constants.ENDPOINT).netloc.rpartition("@")[2]
    try:
        snapshot = _cached(repo_id, revision, repo_type, only)
        if snapshot is None:
            snapshot = _with_retries(lambda: _download(repo_id, revision, repo_type, only))
    except Exception as error:  # the client raises its own, httpx2's, json's and hf_xet's errors
        raise VitloraError(_explain(error, repo_id, revision, repo_type, section, copied, host)) from None
    _verify(snapshot, only, host)
    return snapshot


def _explain(
    error: Exception, repo_id: str, revision: str, repo_type: str, section: str, copied: str, host: str
) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{repo_type} {repo_id} at {revision[:12]}"
    if isinstance(error, HFValidationError):
        return f"{section}.path: got {repo_id}; the rule: a Hub id such as owner/name"
    if isinstance(error, GatedRepoError):
        page = f"{host}/{'datasets/' * (repo_type == 'dataset')}{repo_id}"
        cure = f"ask for access on its page, {page}, then `hf auth login` (or set HF_TOKEN), and run again"
        return f"{section}: {host} asks for a login for {what}, which is gated; {cure}"
    if isinstance(error, RevisionNotFoundError):
        return f"{section}.revision: {host} has {repo_id} but no commit {revision}"
    if isinstance(error, RepositoryNotFoundError) or _status(error) == 401:
        return (
            f"{section}.path: {host} has no {repo_type} {repo_id} (or it is private: `hf auth login`, or set HF_TOKEN)"
        )
    return (
        f"{section}: cannot fetch {what} from {host} ({_reason(error)}); put a copy of its files in a folder and set "
        f"{section}.source: {copied}, {section}.path: that folder, {section}.revision: null"
    )


def _cached(repo_id: str, revision: str, repo_type: str, only: Sequence[str] | None) -> Path | None:
    """Return the snapshot if the cache holds all of it; a commit never changes, so that needs no request."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        # Without the list of files, the client would take a part (one file that another program fetched) for the whole.
        get_cached_repo_tree(repo_id, repo_type=repo_type, revision=revision)
        return Path(
            snapshot_download(repo_id, repo_type=repo_type, revision=revision, local_files_only=True, **_chosen(only))
        )
    except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
        return None


def _download(repo_id: str, revision: str, repo_type: str, only: Sequence[str] | None) -> Path:
    """Ask once whether the repository is there, then fetch it.

    The question has a time limit and gives every "no" at once. ``snapshot_download`` begins with a request that it
    repeats for 23 s, whatever the fault, and that would each time wait for ever.
    """
    from huggingface_hub import get_session, repo_info, snapshot_download

    hooks = get_session().event_hooks["request"]
    if _limit not in hooks:
        hooks.append(_limit)

    os.environ.setdefault("HF_XET_CLIENT_RETRY_MAX_DURATION", XET_RETRIES)
    repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=TIMEOUT_S)
    return Path(snapshot_download(repo_id, repo_type=repo_type, revision=revision, **_chosen(only)))


def _chosen(only: Sequence[str] | None) -> dict[str, Any]:
    """Return the client's arguments for files by patterns; its `*` matches slashes too."""
    return {} if only is None else {"allow_patterns": list(only), "ignore_patterns": ["*/*"]}


def _limit(request: Any) -> None:
    """Give a request of the client a time limit where it has none; that for a list of files takes none from us."""
    given = request.extensions.get("timeout", {})
    kinds = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {kind: given.get(kind) or TIMEOUT_S for kind in kinds}


def _with_retries(action: Callable[[], Result]) -> Result:
    """Try a few times where the failure may pass."""
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except Exception as error:
            if attempt == TRIES or not _may_pass(error):
                raise
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    """Say whether to try again: not after a clear "no" (4xx), a full disk, or what the client retried by itself."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    status = _status(error)
    if status is not None:
        return status >= 500 or status == 429
    # hf_xet raises RuntimeError.
    final = isinstance(error, ValueError | LocalEntryNotFoundError | OfflineModeIsEnabled | RuntimeError)
    return not final and getattr(error, "errno", None) is None


def _reason(error: BaseException) -> str:
    """Name the fault in one line: the status if the server answered, else the innermost error that the client hides."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the cache lacks it"
    while error.__cause__ is not None and _status(error) is None:
        error = error.__cause__
    status = _status(error)
    if status is not None:
        return f"HTTP {status}"
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _verify(snapshot: Path, only: Sequence[str] | None, host: str) -> None:
    """Check large files against their announced SHA-256, which names the cached blob; the client checks only size."""
    for path in sorted(snapshot.rglob("*")):
        # One step only: the blob may itself be a link, into a store whose names are hashes of another kind.
        announced = path.readlink().name if path.is_symlink() else ""
        wanted = only is None or any(path.match(pattern) for pattern in only)
        if wanted and path.is_file() and re.fullmatch(r"[0-9a-f]{64}", announced):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != announced:
                path.resolve().unlink()
                raise VitloraError(
                    f"{path.name} from {host}: SHA-256 {found}, announced {announced}; removed it, run again"
                )
