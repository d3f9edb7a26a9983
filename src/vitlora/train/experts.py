"""Trained adapters to make a mixture of, each named by a string that is pinned to its content.

`PATH@COMMIT` is a path of this repository as it was at a commit, files that DVC keeps included; `PATH@sha256:HEX` is a
folder, with what ``vitlora.manifest.digest`` says of it or the first digits of that. So a name gives the same adapter
next year, or an error.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, sha256_file
from vitlora.model.adapters import BUNDLE, IN_FOUR_BITS
from vitlora.model.layer_names import ADAPTER_WEIGHTS
from vitlora.model.mixture import Expert
from vitlora.model.params import WITHOUT_ADAPTER
from vitlora.processes.peers import ALONE, Peers
from vitlora.storage.manifest import MANIFEST, digest, problems

STORE = Path(".work/adapters")
KEY = "lora.options.adapters"
COMMIT, HEX = re.compile("[0-9a-f]{7,40}"), re.compile("[0-9a-f]{12,64}")
SHOWN = 16  # digits of a hash in a name that we propose
RULE = "the rule: PATH@COMMIT or PATH@sha256:HEX"
PLAIN_LORA = (
    "the rule: plain LoRA without biases, whose parts can be mixed: methods lora, rslora, pissa, olora and gaussian"
)


def find_experts(names: Sequence[str], base: Path, peers: Peers = ALONE) -> list[Expert]:
    """Find, check and read adapters.

    Args:
        names: As in ``lora.options.adapters``.
        base: Base model folder, which all of them must have been trained on.
        peers: The processes that all find the same; the first one brings.

    Raises:
        VitloraError: A name is not pinned to its content or the content is another, or an adapter is not of plain LoRA,
            of another base, or no safetensors.
    """
    weights = {path.name: sha256_file(path) for path in sorted(base.glob("*.safetensors"))}
    return [_read(name, locate(name, peers=peers), base, weights) for name in names]


def locate(name: str, key: str = KEY, peers: Peers = ALONE) -> Path:
    """Return the folder that a pinned name stands for; a commit's is fetched from DVC's cache.

    Args:
        name: As the parameters have it.
        key: The parameter.
        peers: The processes that all call this; the first one brings, and the others wait for it.
    """
    path, at, pin = name.rpartition("@")
    if not at or not path:
        raise VitloraError(f"{key}: got {name}, which is pinned to no content; {_proposal(name)}")
    digits = pin.removeprefix("sha256:")
    folder = _fetch(key, name, path, pin, peers) if digits == pin else _pinned(key, name, path, digits)
    damage = next(problems(folder), None) if (folder / MANIFEST).exists() else None
    if damage:
        raise VitloraError(f"{key}: {name}: {damage}; bring the folder anew")
    return folder


def _proposal(path: str) -> str:
    """Say what to write instead of a path alone."""
    if Path(path).is_dir():
        return f"write {path}@sha256:{digest(Path(path))[:SHOWN]}"
    newest = _commit("HEAD")  # train's own output is deleted before it runs
    return f"{RULE}; the last commit's is {path}@{newest[:SHOWN]}" if newest else f"{RULE}, and there is no such folder"


def _pinned(key: str, name: str, path: str, wanted: str) -> Path:
    if not Path(path).is_dir():
        raise VitloraError(
            f"{key}: got {name}, and there is no folder {path}; train's own output is deleted before "
            "it runs: copy it elsewhere, or write PATH@COMMIT"
        )
    found = digest(Path(path))
    if not HEX.fullmatch(wanted) or not found.startswith(wanted):
        raise VitloraError(
            f"{key}: got {name}; the rule: 12 or more digits of the folder's own hash; if it is the "
            f"one you mean, write {path}@sha256:{found[:SHOWN]}"
        )
    return Path(path)


def _fetch(key: str, name: str, path: str, pin: str, peers: Peers) -> Path:
    """Bring a folder as it was at a commit; brought anew each time, for nobody watches what lies about."""
    full = _commit(pin)
    if full is None:
        raise VitloraError(f"{key}: got {name}, and this repository has no commit {pin}; {RULE}")
    if not COMMIT.fullmatch(pin) or not full.startswith(pin):
        raise VitloraError(
            f"{key}: got {name}; the rule: a commit's 7 or more digits, for branches and tags move; "
            f"write {path}@{full[:SHOWN]}"
        )
    target = STORE / full / path
    if not target.resolve().is_relative_to((STORE / full).resolve()):
        raise VitloraError(f"{key}: got {name}; the rule: a path inside this repository")
    if peers.writes:
        _bring(key, name, path, full, target)
    peers.any(False)  # it is there from now on
    return target


def _bring(key: str, name: str, path: str, full: str, target: Path) -> None:
    from dvc.api import DVCFileSystem  # 1 s to import, and not there where only folders are used
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError  # of a folder's list of files, which the cache lacks

    draft = STORE / "draft"
    for old in (draft, target):
        shutil.rmtree(old, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        DVCFileSystem(rev=full).get(path, str(draft), recursive=True)
    except (DvcException, DataIndexDirError, OSError) as error:
        raise VitloraError(
            f"{key}: {name} cannot be brought from DVC's cache ({_first_line(error)}); `dvc fetch "
            "--all-commits` brings it from a remote, `git checkout` of that commit and `dvc repro` make it anew"
        ) from None
    draft.rename(target)


def _commit(revision: str) -> str | None:
    """Return the full hash of a commit, branch or tag, or None if there is none."""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _read(name: str, folder: Path, base: Path, weights: Mapping[str, str]) -> Expert:
    where = f"{KEY}: {name}"
    _refuse_without(where, folder)
    if not all((folder / file).is_file() for file in (BUNDLE, "adapter_config.json", ADAPTER_WEIGHTS)):
        raise VitloraError(f"{where} holds no adapter as train writes it: {BUNDLE} and PEFT's two files")
    try:
        bundle, content = read_json(folder / BUNDLE), read_json(folder / "adapter_config.json")
        if bundle["base"]["sha256"] != weights:
            raise VitloraError(f"{where} was trained on another base than {base}; the rule: one base for all")
        if bundle["base"].get(IN_FOUR_BITS):
            raise VitloraError(f"{where} was trained on a base in four bits; the rule: one base for all, as it is")
        _refuse_others(where, content)
        config = LoraConfig.from_pretrained(folder)
        config.modules_to_save, config.inference_mode = None, False
        config.base_model_name_or_path = None  # PEFT warns if it is another name for the base
        return Expert(name, folder, list(bundle["class_names"]), config, load_file(folder / ADAPTER_WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise VitloraError(f"{where} cannot be read: {_first_line(error)}") from None


def _refuse_without(where: str, folder: Path) -> None:
    """Refuse what train writes of methods without adapters, such as all weights."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # told by those who read all of it
        method = read_json(folder / BUNDLE)["method"]["name"]
        if method in WITHOUT_ADAPTER:
            raise VitloraError(f"{where} is of method {method}, which has no adapter; {PLAIN_LORA}")


def _refuse_others(where: str, content: Mapping[str, Any]) -> None:
    kind = "DORA" if content.get("use_dora") else content.get("peft_type")
    if kind != "LORA" or content.get("bias", "none") != "none":
        raise VitloraError(f"{where} is {kind}, bias {content.get('bias', 'none')}; {PLAIN_LORA}")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
