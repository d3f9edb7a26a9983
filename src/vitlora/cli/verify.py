"""Check every output and everything in DVC's caches, byte by byte, or the manifests of folders named."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, printable
from vitlora.download.layout import is_litter
from vitlora.safety.workspace import (
    MISSING,
    Finding,
    cache_of,
    check_cache,
    check_outputs,
    check_run_cache,
    open_project,
    outputs,
)
from vitlora.storage.manifest import problems

FOREIGN = "not in the manifest"  # as ``problems`` says it
CURE = "`vitlora recover` takes what is damaged away, then `dvc repro` makes or fetches it anew"
MOVED = "if DVC's cache has moved, say first where it is now: `dvc cache dir --local FOLDER`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="folders with a MANIFEST.sha256, such as a copied model"
    )


def act(args: argparse.Namespace) -> None:
    """Print a line for every damaged, missing or foreign file.

    Raises:
        VitloraError: There is one.
    """
    if args.folders:
        found = list(_folders(args.folders))
        _tell(found, "copy the folder anew")
        print(f"{counted(len(args.folders), 'folder')}: sound")
        return
    with open_project() as repo:
        findings = list(_workspace(repo))
        _tell([str(finding) for finding in findings], cure_of(findings, bool(repo.config["remote"])))
        print(f"{counted(len(outputs(repo)), 'output')} and DVC's cache: sound")


def _tell(found: list[str], cure: str) -> None:
    for each in found:
        print(printable(each))
    if found:
        raise VitloraError(f"{counted(len(found), 'finding')}, named above; {cure}")


def _folders(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        yield from (problem for problem in problems(folder) if not _is_stray(folder, problem))


def _is_stray(folder: Path, problem: str) -> bool:
    """Whether a file that the manifest doesn't list is only what a system left in a copied folder."""
    name = problem.removeprefix(f"{folder}/").removesuffix(f": {FOREIGN}")
    return problem.endswith(FOREIGN) and is_litter(Path(name).parts)


def cure_of(findings: list[Finding], remote: bool) -> str:
    """Say what mends the findings: what is only missing needs no recovery.

    Args:
        findings: Any number.
        remote: Whether there is a place to pull from.
    """
    if all(finding.what == MISSING for finding in findings):
        theirs = any(finding.output and not finding.output.remade for finding in findings)
        pull = "`dvc pull` fetches them" if remote else "`dvc checkout` brings them back" if theirs else ""
        return f"{pull}{', or ' if pull else ''}`dvc repro` brings back or makes anew what stages make"
    dead = any("link to nothing" in finding.what for finding in findings)
    return f"{MOVED}; then {CURE}" if dead else CURE


def _workspace(repo: Any) -> Iterator[Finding]:
    yield from check_outputs(repo)
    yield from check_cache(cache_of(repo))
    yield from check_run_cache(cache_of(repo))
