"""Check every output and everything in DVC's caches, byte by byte, or the manifests of folders named."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, printable
from vitlora.download.layout import is_litter
from vitlora.safety.workspace import (
    Finding,
    cache_folder,
    check_cache,
    check_outputs,
    check_run_cache,
    outputs,
    require_project,
)
from vitlora.storage.manifest import problems

FOREIGN = "not in the manifest"  # as ``problems`` says it
CURE = "`vitlora recover` takes what is damaged away, then `dvc repro` makes or fetches it anew"


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
    found = list(_folders(args.folders) if args.folders else _workspace())
    for each in found:
        print(printable(str(each)))
    if found:
        cure = "copy the folder anew" if args.folders else CURE
        raise VitloraError(f"{len(found)} finding{'s' if len(found) > 1 else ''}, named above; {cure}")
    what = counted(len(args.folders), "folder") if args.folders else f"{len(outputs())} outputs and DVC's cache"
    print(f"{what}: sound")


def _folders(folders: list[Path]) -> Iterator[str]:
    for folder in folders:
        yield from (problem for problem in problems(folder) if not _is_stray(folder, problem))


def _is_stray(folder: Path, problem: str) -> bool:
    """Whether a file that the manifest doesn't list is only what a system left in a copied folder."""
    name = problem.removeprefix(f"{folder}/").removesuffix(f": {FOREIGN}")
    return problem.endswith(FOREIGN) and is_litter(Path(name).parts)


def _workspace() -> Iterator[Finding]:
    require_project()
    cache = cache_folder()
    yield from check_outputs(cache)
    yield from check_cache(cache)
    yield from check_run_cache(cache)
