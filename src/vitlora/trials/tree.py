"""A clone of the project for one run at a time, made anew for each.

`dvc exp run --temp` would do but for one thing: it sets the user's own files and HEAD aside for a second, and a kill
-9 in that second leaves them so. A clone has nothing to lose, and its own DVC lock. It shares DVC's cache, so that
what a run does not change is not made again, and its experiment is fetched into the project once it is whole.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configobj import ConfigObj

from vitlora.compare.revisions import EXPERIMENTS, SHORT, TRIES, run_git
from vitlora.core.durable import sync_one
from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.safety.source import local_path
from vitlora.safety.workspace import PARAMS, below, cache_of, open_project

CHANGES = "changes.patch"
PATCH = ("--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
NAMES = ("user.name", "user.email")  # of whom DVC's commits are


@dataclass(frozen=True)
class Origin:
    """The project as it was when a search or a sweep began.

    Args:
        top: Folder of its Git repository.
        below: The project's folder, from there.
        commit: 40 hex digits, checked out.
        changes: What is not committed yet, as a patch.
        cache: DVC's.
    """

    top: Path
    below: Path
    commit: str
    changes: bytes
    cache: Path

    @property
    def fingerprint(self) -> str:
        """What tells it from the project after an edit."""
        return f"{self.commit[:7]}+{hashlib.sha256(self.changes).hexdigest()[:8]}" if self.changes else self.commit[:7]


def find_origin() -> Origin:
    """Read what runs start from.

    Raises:
        VitloraError: Git or DVC can't read the project, or there is no commit.
    """
    with open_project() as repo:
        cache = cache_of(repo).parents[1]
    commit = (run_git(["rev-parse", "--verify", "--quiet", "HEAD"]) or b"").decode().strip()
    if not commit:
        raise VitloraError("no commit here, and an experiment belongs to one; `git add -A && git commit -m start`")
    top, prefix = (
        (run_git(["rev-parse", word]) or b"").decode().strip() for word in ("--show-toplevel", "--show-prefix")
    )
    # `stash create` would write nothing either, but its commits are lost to Git's next clean-up.
    changes = run_git(["-C", top, "diff", *PATCH, "HEAD"]) or b""
    return Origin(Path(top), Path(prefix), commit, changes, cache)


def refuse_half_kept(values: Mapping[str, Any]) -> None:
    """Refuse a folder of pictures, or a base, of which Git keeps a part: a clone would have that part only.

    Raises:
        VitloraError: Names it.
    """
    for name in ("data", "model"):
        place = local_path(values.get(name))
        if place and not Path(place).expanduser().is_absolute() and all(below(place)):
            raise VitloraError(
                f"{PARAMS}: {name}.path: got {printable(place)}, of which Git keeps a part; the rule: "
                f"all or none, since this runs in a clone. Give the whole path: {Path(place).resolve()}"
            )


def keep_changes(folder: Path, changes: bytes) -> str:
    """Write what was not committed into a folder, for runs to come; return its SHA-256."""
    (folder / CHANGES).write_bytes(changes)
    sync_one(folder / CHANGES)
    return hashlib.sha256(changes).hexdigest()


def check_changes(folder: Path, what: str, known: Mapping[str, Any], commit: str, changes: bytes) -> None:
    """Check that the patch is still as it was, and say so if the project is not.

    Args:
        folder: Of a search or a sweep.
        what: It is, in a word.
        known: The commit and the patch's SHA-256 at its beginning.
        commit: That is checked out now.
        changes: What is not committed now.

    Raises:
        VitloraError: The patch is damaged.
    """
    path = folder / CHANGES
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != known["changes"]:
        raise VitloraError(f"{path} is damaged; `rm -r {folder}` forgets this {what}, or --name another")
    if hashlib.sha256(changes).hexdigest() != known["changes"] or commit != known["commit"]:
        print(
            f"note: files differ from when this {what} began, at {known['commit'][:SHORT]}; it goes on from there. "
            "--name another begins a new one"
        )


def begun_from(now: Origin, folder: Path, commit: str) -> Origin:
    """Return what runs start from: the project now, but for its commit and its patch, which are kept."""
    return Origin(now.top, now.below, commit, (folder / CHANGES).read_bytes(), now.cache)


class Tree:
    """One clone.

    Args:
        folder: It has for itself.
        origin: Of what.
    """

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder, self.origin = folder, origin
        self.project = folder / origin.below

    def renew(self, values: Mapping[str, Any], checkpoints: Path) -> None:
        """Make it as the project was at the beginning.

        Args:
            values: params.yaml with the run's values: where its pictures and its base lie.
            checkpoints: Folder that outlives the clone, so that a run that was killed goes on.

        Raises:
            VitloraError: Git can't, as on a full disk.
        """
        for _ in range(TRIES - 1):  # one of its processes may be killed
            with suppress(VitloraError):
                self._renew(values, checkpoints)
                return
        self._renew(values, checkpoints)

    def _renew(self, values: Mapping[str, Any], checkpoints: Path) -> None:
        if self.folder.exists():  # a stage whose dvc was killed may write there for half a second more
            gone = self.folder.with_name(f"{self.folder.name}.{time.monotonic_ns()}")
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        names = [f"--config={key}={value}" for key in NAMES if (value := self._setting(key))]
        self._git(["clone", "--quiet", "--local", "--no-checkout", *names, str(self.origin.top), str(self.folder)])
        self._git(["-C", str(self.folder), "checkout", "--quiet", "--detach", self.origin.commit])
        if self.origin.changes:
            self._git(["-C", str(self.folder), "apply", "--index", "--whitespace=nowarn"], self.origin.changes)
        self._share_cache()
        for name in ("data", "model"):
            self._link(local_path(values.get(name)))
        checkpoints.mkdir(parents=True, exist_ok=True)
        (self.project / ".work").mkdir()
        (self.project / ".work/checkpoints").symlink_to(checkpoints.resolve())

    def fetch(self, name: str) -> str:
        """Bring an experiment into the project and return its commit.

        Raises:
            VitloraError: It is not there.
        """
        words = ["fetch", "--quiet", "--no-tags", str(self.folder.resolve())]  # relative is from the repository's top
        ref = f"{EXPERIMENTS}{self.origin.commit[:2]}/{self.origin.commit[2:]}/{name}"
        for _ in range(TRIES - 1):
            if run_git([*words, f"+{ref}:{ref}"]) is not None:
                break
        else:
            self._git([*words, f"+{ref}:{ref}"])
        return (run_git(["rev-parse", ref]) or b"").decode().strip()

    def _setting(self, key: str) -> str:
        return (run_git(["config", key]) or b"").decode().strip()

    def _git(self, words: list[str], given: bytes = b"") -> None:
        if run_git(words, given) is None:
            raise VitloraError(
                f"git {' '.join(words[:4])} ... failed; is the disk full? then make room; the same command goes on"
            )

    def _share_cache(self) -> None:
        """Give the clone the project's own settings, and its cache."""
        own = self.project / ".dvc/config.local"
        settings = ConfigObj(".dvc/config.local", encoding="utf-8")  # empty where there is none
        settings.setdefault("cache", {})["dir"] = str(self.origin.cache)
        settings.filename = str(own)
        settings.write()

    def _link(self, place: str | None) -> None:
        """Let what Git does not keep lie where the clone looks for it."""
        if place is None or Path(place).expanduser().is_absolute():
            return
        here, there = Path(os.path.abspath(place)), Path(os.path.abspath(self.project / place))
        if here.exists() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(here)
