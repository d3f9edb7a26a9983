"""Put an exported folder into a repository of the Hugging Face Hub, as one commit."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vitlora.core.errors import VitloraError
from vitlora.export.params import FILES
from vitlora.model.params import WITHOUT_ADAPTER
from vitlora.storage.manifest import problems


class Pushed(NamedTuple):
    """Address of the repository, and the commit."""

    url: str
    commit: str


def files(folder: Path) -> list[tuple[str, int]]:
    """Return name and bytes of every file of an exported folder, in name order.

    Raises:
        VitloraError: A file is damaged, missing or not of the export.
    """
    damage = list(problems(folder))
    if damage:
        raise VitloraError(f"{'; '.join(damage[:3])}; the rule: a whole export, as `dvc repro` makes it")
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in found)


def lacking(names: list[str], method: str) -> Iterator[str]:
    """Yield which programs will not find their form of a model that this method made, and the format that helps."""
    if "model.safetensors" not in names:
        yield "transformers can't load it: the format transformers is not exported"
    if not any(name.startswith("adapter/") for name in names):
        has_none = method in WITHOUT_ADAPTER
        why = f"lora.method {method} has no adapter" if has_none else "the format adapter is not exported"
        yield f"PEFT can't load it: {why}"
    if "onnx/model_quantized.onnx" not in names:
        yield "transformers.js can't load it as it does by default (q8): the format plain-int8 is not exported"
    if "onnx/model.onnx" not in names:
        yield "transformers.js can't load it with dtype fp32: the format plain is not exported"


def push(folder: Path, repo_id: str, private: bool, branch: str | None, message: str) -> Pushed:
    """Make the repository if it is not there, and commit the folder to it.

    Files of formats that an earlier push left there and this export lacks are removed in the same commit, so no old
    form stands beside a new model. Others, such as a licence, stay.

    Args:
        folder: That ``files`` has passed.
        repo_id: Such as `me/pets`.
        private: Of a new repository.
        branch: To commit to; None is the main one. It is made if it is not there.
        message: Of the commit.

    Raises:
        VitloraError: The id is none, nobody is logged in, or the Hub refuses or can't be reached.

    Source:
        huggingface_hub.HfApi.upload_folder.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    old = [f"{name}/*" if "." not in name.rpartition("/")[2] else name for names in FILES.values() for name in names]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if branch:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        made = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=branch, commit_message=message, delete_patterns=old
        )
    except Exception as error:  # the client raises its own, httpx2's and hf_xet's errors
        raise VitloraError(_explain(error, repo_id)) from None
    return Pushed(str(made.repo_url), made.oid)


def _explain(error: Exception, repo_id: str) -> str:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, HFValidationError):
        return f"got {repo_id}; the rule: a Hub id such as owner/name"
    if status in (401, 403, 404):
        known = "the token may not write there" if get_token() else "nobody is logged in"
        return (
            f"{repo_id}: the Hub refuses (HTTP {status}): {known}; `hf auth login` with a token that has the right to "
            "write, or set HF_TOKEN to one"
        )
    said = str(error).splitlines()[:1]
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repo_id}: HF_HUB_OFFLINE is set, so nothing can be sent; unset it"
    reason = f"HTTP {status}" if status else ": ".join([type(error).__name__, *said])
    return f"{repo_id}: cannot push to {constants.ENDPOINT} ({reason}); try again later, nothing is half there"
