"""Push the exported model to the Hugging Face Hub, where transformers, PEFT and transformers.js load it by its id."""

import argparse
import re
import sys
from pathlib import Path

from vitlora.cli.exported import note_if_old, refuse_missing
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.text import counted, printable, shown_bytes
from vitlora.predict.hub import PART, SCHEME, SITE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("repo_id", metavar="OWNER/NAME", help="the repository; it is made if it is not there")
    parser.add_argument("--model", type=Path, default=Path("models/export"), help="exported folder (models/export)")
    parser.add_argument("--dry-run", action="store_true", help="list files and sizes, send nothing")
    parser.add_argument("--private", action="store_true", help="a new repository is yours alone; else all may read it")
    parser.add_argument("--branch", help="commit to this branch in place of the main one")
    parser.add_argument("--message", default="vitlora push", help="of the commit")


def act(args: argparse.Namespace) -> None:
    """List what goes there, send it as one commit, and say how to load it.

    Raises:
        VitloraError: There is no whole exported model, or the Hub refuses.
    """
    from vitlora.push.upload import files, lacking, push

    _refuse_odd(args)
    refuse_missing(args.model)
    found = files(args.model)
    note_if_old(args.model)
    for name, size in found:
        print(f"{_shown(size):>10}  {name}")
    total = shown_bytes(sum(size for _, size in found))
    method = read_json(args.model / "vitlora.json")["method"]["name"]
    for line in lacking([name for name, _ in found], method):
        print(f"note: {line}", file=sys.stderr)
    whose = "private" if args.private else "public"
    if args.dry_run:
        where = f"{args.repo_id}, branch {args.branch or 'main'}"
        print(f"{counted(len(found), 'file')}, {total}, to {where}; nothing was sent. If it is new it will be {whose}")
        return
    pushed = push(args.model, args.repo_id, args.private, args.branch, args.message)
    print(f"{counted(len(found), 'file')}, {total}, at {pushed.url}")
    print(f"vitlora predict --model hf://{args.repo_id}@{pushed.commit} cat.jpg")


def _refuse_odd(args: argparse.Namespace) -> None:
    repo = args.repo_id
    if not re.fullmatch(f"{PART}/{PART}", repo):
        inner = re.search(f"{PART}/{PART}", repo.removeprefix(SITE))
        hint = f" such as {inner[0]}" if (inner and repo.startswith((SITE, SCHEME))) or ("@" in repo and inner) else ""
        branch = "; a branch goes to --branch" if "@" in repo else ""
        raise VitloraError(f"got {printable(repo)}; the rule: a Hub id, owner/name{hint}{branch}")
    if args.branch is not None and not re.fullmatch(r"\w[\w-]*([./][\w-]+)*", args.branch):
        raise VitloraError(f"--branch: got {printable(args.branch)!r}; the rule: letters, digits, -, _, single . and /")
    if not args.message.strip():
        raise VitloraError("--message: got nothing; the rule: some words")


def _shown(size: int) -> str:
    return f"{size / 1000:,.1f} kB" if size < 1_000_000 else shown_bytes(size)
