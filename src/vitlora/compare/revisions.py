"""Files of other commits: what a name means to Git, what a commit holds, and what DVC's cache holds of it.

Git is asked by its command; DVC's cache is read as the files that it is, for DVC itself takes a second to start.
"""

import configparser
import difflib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

from vitlora.core.errors import VitloraError

HERE = Path(".")
EXPERIMENTS = "refs/exps/"
NOT_EXPERIMENTS = ("apply", "celery", "exec", "stash", "temp")  # what DVC keeps beside them
SHORT = 7  # digits of a commit
TRIES = 3  # of a git that is killed


class Revision(NamedTuple):
    """What a name stands for: a commit, 40 hex digits, and how it was found: branch, tag, commit or experiment."""

    commit: str
    kind: str


def run_git(words: Sequence[str], given: bytes = b"", place: Path = HERE) -> bytes | None:
    """Return what Git prints; None where it fails.

    Raises:
        VitloraError: There is no git.
    """
    try:
        command = ["git", "-C", str(place), *words]
        for _ in range(TRIES):
            done = subprocess.run(command, input=given, capture_output=True, check=False)
            if done.returncode >= 0:
                break
    except FileNotFoundError:
        raise VitloraError("git is not installed, or not on the PATH; commits can't be read without it") from None
    return done.stdout if done.returncode == 0 else None


def require_git() -> None:
    """Refuse a folder that is in no Git repository.

    Raises:
        VitloraError: It is in none.
    """
    if run_git(["rev-parse", "--git-dir"]) is None:
        raise VitloraError(
            "this folder is in no Git repository, so there are no commits to compare with; name two folders, such as "
            "`vitlora compare ../before ../after`, or type `git init && git add -A && git commit -m start`"
        )


def resolve(name: str) -> Revision:
    """Return what a name of a branch, tag, commit or experiment stands for.

    Raises:
        VitloraError: Nothing has this name, or two experiments have it; like names are told.
    """
    require_git()
    found = run_git(["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"])
    if found:
        kind = next((k for k, ref in (("branch", "heads"), ("tag", "tags")) if _is_ref(f"refs/{ref}/{name}")), "commit")
        return Revision(found.decode().strip(), kind)
    named = [commit for ref, commit in experiments() if ref.rpartition("/")[2] == name]
    if len(named) > 1:
        raise VitloraError(
            f"{name}: {len(named)} experiments have this name, on other commits; take one by its own commit: "
            + ", ".join(commit[:SHORT] for commit in named)
        )
    if not named:
        raise VitloraError(_unknown(name))
    return Revision(named[0], "experiment")


def _is_ref(ref: str) -> bool:
    return run_git(["show-ref", "--verify", "--quiet", ref]) is not None


def _unknown(name: str) -> str:
    listed = run_git(["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads", "refs/tags"]) or b""
    known = {"HEAD", "workspace", *listed.decode().split(), *(ref.rpartition("/")[2] for ref, _ in experiments())}
    near = difflib.get_close_matches(name, sorted(known), cutoff=0.5)
    like = f"; like it: {', '.join(near)}" if near else ""
    return (
        f"{name}: no branch, tag, commit, experiment or folder has this name{like}. `git branch -a`, `git tag` and "
        "`dvc exp list -A` list them"
    )


def experiments() -> Iterator[tuple[str, str]]:
    """Yield the name of every experiment's ref, and its commit."""
    listed = run_git(["for-each-ref", "--format=%(refname) %(objectname)", EXPERIMENTS]) or b""
    for line in listed.decode().splitlines():
        ref, commit = line.split()
        if ref.split("/")[2] not in NOT_EXPERIMENTS:
            yield ref, commit


def read_commit(commit: str, paths: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a commit that it has, of those named; paths are from the working folder."""
    return next(iter(read_commits([commit], paths)))


def read_commits(commits: Sequence[str], paths: Sequence[str]) -> list[dict[str, bytes]]:
    """Return for each commit the files that it has, of those named: one question to Git for all of them."""
    asked = "".join(f"{commit}:./{path}\n" for commit in commits for path in paths)
    answer = run_git(["cat-file", "--batch"], asked.encode()) or b""
    contents = _objects(answer)
    return [{path: content for path in paths if (content := next(contents, None)) is not None} for _ in commits]


def object_ids(commits: Sequence[str], paths: Sequence[str]) -> list[list[str | None]]:
    """Return for each commit the ids of these files, None where it has no such file: equal ids are equal bytes."""
    asked = "".join(f"{commit}:./{path}\n" for commit in commits for path in paths)
    answer = run_git(["cat-file", "--batch-check=%(objectname) %(objecttype)"], asked.encode()) or b""
    ids = [line.partition(" ")[0] if line.endswith(" blob") else None for line in answer.decode().splitlines()]
    return [ids[start : start + len(paths)] for start in range(0, len(ids), len(paths))]


def _objects(answer: bytes) -> Iterator[bytes | None]:
    """Yield each object that ``git cat-file --batch`` printed; None for one that is not there, or is a folder."""
    start = 0
    while start < len(answer):
        end = answer.index(b"\n", start)
        head = answer[start:end].split(b" ")
        start = end + 1
        if len(head) == 3 and head[1] in (b"blob", b"tree", b"commit", b"tag"):
            size = int(head[2])
            yield answer[start : start + size] if head[1] == b"blob" else None
            start += size + 1
        else:
            yield None


class Cache(NamedTuple):
    """DVC's cache as a project's configuration names it, and whether there is a place to fetch from."""

    folder: Path
    remote: bool


def find_cache(project: Path) -> Cache:
    """Read where a project keeps its cache: ``cache.dir`` of .dvc/config and .dvc/config.local.

    Raises:
        VitloraError: One of them can't be read.
    """
    settings = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        settings.read([project / ".dvc/config", project / ".dvc/config.local"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise VitloraError(f"{project / '.dvc'}: its config can't be read: {str(error).splitlines()[0]}") from None
    folder = settings.get("cache", "dir", fallback="cache").strip("'\"")
    remote = any(name.strip("'").startswith("remote ") for name in settings.sections())
    return Cache(project / ".dvc" / os.path.expanduser(folder) / "files" / "md5", remote)


def read_cached(cache: Path, digest: str) -> bytes | None:
    """Return an object of DVC's cache; None where it is not there.

    Args:
        cache: Folder of objects by MD5.
        digest: 32 hex digits; those of a folder's listing end in `.dir`.

    Raises:
        VitloraError: Its bytes are not those that its name says.
    """
    path = cache / digest[:2] / digest[2:]
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if md5(content, usedforsecurity=False).hexdigest() != digest.removesuffix(".dir"):
        raise VitloraError(
            f"{path}: its bytes are not those that its name says; the rule: the MD5. `vitlora recover` takes it out of "
            "DVC's cache; compare then goes on without it"
        )
    return content


def read_cached_folder(cache: Path, digest: str, names: Sequence[str]) -> Mapping[str, bytes] | None:
    """Return the named files of a folder in DVC's cache; None where one of them is not there."""
    listing = read_cached(cache, digest)
    if listing is None:
        return None
    digests = {entry["relpath"]: entry["md5"] for entry in json.loads(listing)}
    contents = {name: content for name in names if (content := read_cached(cache, digests.get(name, "-"))) is not None}
    return contents if len(contents) == len(names) else None
