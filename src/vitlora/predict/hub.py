"""An exported model on the Hugging Face Hub, by its id: `hf://owner/name`, or a commit or branch of it after `@`."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.predict.exported import FILES
from vitlora.storage.manifest import MANIFEST

SCHEME, SITE = "hf://", "https://huggingface.co/"
PART = r"[A-Za-z0-9][\w-]*(\.[\w-]+)*"  # of an id; no dots beside each other
ID = re.compile(rf"hf://(?P<repo>{PART}/{PART})(@(?P<revision>\w[\w./-]*))?")
COMMIT = re.compile("[0-9a-f]{40}")
TIMEOUT_S = 10.0
RULE = "hf://owner/name, or hf://owner/name@commit"


def located(model: str, precision: str = "fp32") -> Path:
    """Return the folder of an exported model; one of the Hub is fetched into the Hub client's cache first.

    No more is fetched than is read, and of a commit that is there already nothing. What arrives is checked against its
    manifest when it is opened.

    Args:
        model: A folder, or such as `hf://me/pets` or `hf://me/pets@COMMIT`. Only a commit is sure to stay the same.
        precision: Which of its files is meant.

    Raises:
        VitloraError: It is no id, the Hub client is not installed, or the Hub has no such model or can't be reached.
    """
    if model.startswith(SITE):
        raise VitloraError(f"got {printable(model)}; the rule: a folder, or {SCHEME}{model.removeprefix(SITE)}")
    if not model.startswith(SCHEME):
        return Path(model)
    match = ID.fullmatch(model)
    if not match:
        raise VitloraError(f"got {printable(model)}; the rule: {RULE}")
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError:
        raise VitloraError(f'{model}: needs huggingface-hub; `pip install "vitlora[hub]"`') from None
    repo, revision, wanted = match["repo"], match["revision"], [FILES[precision], "vitlora.json", MANIFEST]
    try:
        if kept := _kept(repo, revision, wanted):
            return kept
        # It has a time limit and says at once what is wrong; fetching would try for 24 s.
        commit = HfApi().repo_info(repo, revision=revision, timeout=TIMEOUT_S).sha
        return Path(snapshot_download(repo, revision=commit, allow_patterns=wanted))
    except Exception as error:  # the client raises its own and httpx2's errors
        raise VitloraError(_explained(error, model, urlsplit(constants.ENDPOINT).netloc)) from None


def _kept(repo: str, revision: str | None, wanted: list[str]) -> Path | None:
    """Return the snapshot of a commit if all that is wanted of it is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    if not revision or not COMMIT.fullmatch(revision):
        return None
    found = [try_to_load_from_cache(repo, name, revision=revision) for name in wanted]
    places = [Path(each) for each in found if isinstance(each, str)]
    return places[0].parent if len(places) == len(wanted) else None


def _explained(error: BaseException, model: str, host: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404):
        return f"{model}: {host} has no such model or commit (HTTP {status}); if it is private, set HF_TOKEN"
    while error.__cause__ is not None:  # what the client hides
        error = error.__cause__
    reason = f"HTTP {status}" if status else ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return f"{model}: cannot reach {host} ({printable(reason)}); try again, or name a folder that holds a copy"
