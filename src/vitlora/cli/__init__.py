"""The command line: ``vitlora <verb>``, one module a verb."""

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from vitlora.core import entry
from vitlora.core.errors import VitloraError
from vitlora.safety.ending import ends_at_once
from vitlora.safety.shortage import shortage_named

ALONE = ("page", "predict", "serve")  # need nothing of the pipeline
VERBS = (
    *("adapter", "compare", "doctor", "evaluate", "experiments", "gate", "inspect"),
    *("page", "params", "predict", "preset", "push", "recover", "report", "run", "serve", "tune", "verify"),
)


def command_line(verbs: Iterable[str] = VERBS) -> argparse.ArgumentParser:
    """Return the parser of these verbs. Each is imported here and not before, so that one alone starts at once."""
    parser = argparse.ArgumentParser(
        prog="vitlora", description="Fine-tune a Vision Transformer with LoRA, reproducibly."
    )
    parsers = parser.add_subparsers(metavar="VERB", required=True)
    for name in verbs:
        module = import_module(f"vitlora.cli.{name}")
        summary = (module.__doc__ or "").splitlines()[0]
        verb = parsers.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(act=module.act, verb=name)
    return parser


def script() -> None:
    """Be the command ``vitlora``: run the verb, then end."""
    done = ends_at_once()
    main()
    done.append(True)


def main() -> None:
    """Run the verb that the command line names."""
    entry.run(_act)  # by its module: the verb of that name becomes an attribute of this package


def _act() -> None:
    given = next(iter(sys.argv[1:]), "")
    known = VERBS if find_spec("dvc") else ALONE
    if given in VERBS and given not in known:
        raise VitloraError(
            f"`vitlora {given}` is of the pipeline, which is not installed here; the rule: the package by itself has "
            f"{' and '.join(f'`vitlora {name}`' for name in ALONE)}; clone the project and run `make setup` for others"
        )
    args = command_line([given] if given in known else known).parse_args()
    with shortage_named(args.verb):
        args.act(args)
