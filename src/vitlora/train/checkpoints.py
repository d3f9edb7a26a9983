"""Checkpoints of a training run: whole or not there, kept apart by all that decides the result.

They lie outside DVC's outputs, which DVC deletes before a run. A resumed run gives the bytes of an undisturbed one.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlora.core.durable import faultpoint, sync, sync_one
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.core.text import shown_bytes
from vitlora.storage.manifest import problems, write_manifest

KEPT = 2  # checkpoints of a run: if the newest turns out damaged, the one before is used
KEPT_RUNS = 3  # unfinished runs with other settings, to come back to
ABOUT = "about.json"
LARGE = 64 * 2**20  # bytes of a checkpoint from which its own time counts
# A large one is due once training has gone on for so many times what the quicker of the last two took. Whoever takes
# that for the best interval expects an interruption so seldom (Young: the interval is the root of twice the cost times
# the mean time between two) that one is not worth its time where what is left is less than half of the interval.
SHARE = 20
QUICK = 500 * 10**6  # bytes a second: what none has taken yet, it would take at that rate


class Checkpoints:
    """The checkpoints of one run.

    Args:
        root: Folder of all runs' checkpoints.
        about: Everything that decides the result, by section and name: parameters, data, code, versions, device.
        size: Of one, bytes.
    """

    def __init__(self, root: Path, about: Mapping[str, Mapping[str, Any]], size: int) -> None:
        text = json.dumps(about, sort_keys=True)
        self.root, self.about = root, json.loads(text)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._began, self._took_s = time.monotonic(), math.inf
        self._set_wait(size, size / QUICK)

    def due(self, done: int, left: int) -> bool:
        """Whether another is worth its time: all of a model's weights and moments may take longer than an epoch.

        Args:
            done: Steps since this was made.
            left: Steps of the run.
        """
        now = time.monotonic()
        left_s = left * (now - self._began) / max(done, 1)
        return now >= self._last + self._wait_s and left_s >= self._wait_s / 2

    def newest(self) -> Path | None:
        """Return the newest sound checkpoint; name those that are not, and why an earlier run's are not used."""
        for folder in self._by_step():
            wrong = next(problems(folder), None)
            if wrong is None:
                return folder
            print(f"checkpoint of step {int(folder.name)} not used: {wrong}")
        if not self.folder.exists():
            for reason in self._other_run():
                print(f"no checkpoint of this run; an earlier one's are not used: {reason}")
        return None

    def at(self, step: int) -> Path:
        """Return where the checkpoint of a step lies."""
        return self.folder / f"{step:09d}"

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Let ``write`` fill a folder, then make it the checkpoint of ``step``; older ones than the last two go."""
        began = time.monotonic()
        draft = self.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        write_json(self.folder / ABOUT, self.about)
        write(draft)
        faultpoint("checkpoint-written")
        size = sum(file.stat().st_size for file in draft.iterdir())
        write_manifest(draft)
        sync(draft)
        faultpoint("checkpoint-synced")
        final = self.at(step)
        shutil.rmtree(final, ignore_errors=True)  # of the same step before validation
        draft.rename(final)
        sync_one(self.folder)
        faultpoint("checkpoint-moved")
        for old in self._by_step()[KEPT:]:
            shutil.rmtree(old)
        took_s = time.monotonic() - began
        self._set_wait(size, min(took_s, self._took_s))  # one that a busy disk held up says nothing of the next
        self._took_s = took_s

    def remove(self) -> None:
        """Delete this run's checkpoints, and those of all but the last few unfinished ones."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._runs()[KEPT_RUNS:]:
            shutil.rmtree(folder, ignore_errors=True)

    def _set_wait(self, size: int, took_s: float) -> None:
        self._wait_s = SHARE * took_s if size > LARGE else 0.0
        self._last = time.monotonic()

    def _by_step(self) -> list[Path]:
        """Newest first by the step in the name: a clock may jump."""
        return sorted((path for path in self.folder.glob("[0-9]*") if path.is_dir()), reverse=True)

    def _runs(self) -> list[Path]:
        return sorted((path.parent for path in self.root.glob(f"*/{ABOUT}")), key=_age, reverse=True)

    def _other_run(self) -> Iterator[str]:
        """Say in a line how the last unfinished run differs."""
        for folder in self._runs()[:1]:
            try:
                theirs = read_json(folder / ABOUT)
            except ValueError:
                yield f"{folder / ABOUT} is damaged"
                return
            yield "; ".join(_differences(theirs, self.about)) or "its description is damaged"


def _age(folder: Path) -> float:
    return (folder / ABOUT).stat().st_mtime


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for section in ours:
        before, now = theirs.get(section, {}), ours[section]
        for name in sorted({*before, *now}):
            old, new = before.get(name), now.get(name)
            if old != new:
                yield f"{section} {name} changed" if section in ("data", "code") else f"{name} was {old}, is {new}"


def check_room(need: int, what: str) -> None:
    """Refuse to begin what the disk of the working directory can't hold.

    Args:
        need: Bytes that will be written. DVC's cache takes no more where it can link files, its default here.
        what: For whom, as the message begins.

    Raises:
        VitloraError: Says how much is needed and how much there is.
    """
    free = shutil.disk_usage(Path()).free
    if need > free:
        raise VitloraError(
            f"{what}: disk full: need {shown_bytes(need)}, have {shown_bytes(free)}; make room, run again"
        )


State = dict[str, Tensor]


def trainable(model: Any) -> State:
    """Return the parameters that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def contiguous(state: State) -> State:
    """Return the tensors as safetensors takes them."""
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


@torch.no_grad()
def copy_into(source: State, target: State) -> None:
    """Give the tensors of ``target`` the values of those of the same names."""
    assert source.keys() == target.keys(), "the fingerprint let another model's checkpoint through"
    for name, tensor in target.items():
        tensor.copy_(source[name])
