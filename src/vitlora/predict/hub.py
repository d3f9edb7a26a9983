"""An exported model on the Hugging Face Hub, by its id: `hf://owner/name`, or a commit or branch of it after `@`."""

import re
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.predict.exported import FILES
from vitlora.storage.manifest import MANIFEST

SCHEME = "hf://"
ID = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def located(model: str, precision: str = "fp32") -> Path:
    """Return the folder of an exported model; one of the Hub is fetched into the Hub client's cache first.

    No more is fetched than is read. What arrives is checked against its manifest when it is opened.

    Args:
        model: A folder, or such as `hf://me/pets` or `hf://me/pets@COMMIT`. Only a commit is sure to stay the same.
        precision: Which of its files is meant.

    Raises:
        VitloraError: It is no id, the Hub client is not installed, or the Hub has no such model or can't be reached.
    """
    if not model.startswith(SCHEME):
        return Path(model)
    match = ID.fullmatch(model)
    if not match:
        raise VitloraError(f"got {printable(model)}; the rule: hf://owner/name, or hf://owner/name@commit")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise VitloraError(f'{model}: needs huggingface-hub; `pip install "vitlora[hub]"`') from None
    wanted = [FILES[precision], "vitlora.json", MANIFEST]
    try:
        return Path(snapshot_download(match["repo"], revision=match["revision"], allow_patterns=wanted))
    except Exception as error:  # the client raises its own and httpx2's errors
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"HTTP {status}" if status else type(error).__name__
        raise VitloraError(
            f"{model}: cannot fetch it ({reason}); is the id right, and if it is private, is HF_TOKEN set? A copy of "
            "its files in a folder works too"
        ) from None
