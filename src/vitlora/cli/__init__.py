"""The command line: ``vitlora <verb>``, one module a verb."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from types import ModuleType

from vitlora.core.entry import run
from vitlora.core.errors import VitloraError
from vitlora.safety.shortage import shortage_named

VERBS = (
    *("adapter", "compare", "doctor", "evaluate", "gate", "inspect"),
    *("predict", "preset", "recover", "report", "run", "verify"),
)


def command_line(names: Iterable[str] = VERBS) -> argparse.ArgumentParser:
    """Return the parser of these verbs; one whose packages are not installed is left out."""
    parser = argparse.ArgumentParser(
        prog="vitlora", description="Fine-tune a Vision Transformer with LoRA, reproducibly."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, module in _modules(names):
        summary = (module.__doc__ or "").splitlines()[0]
        verb = verbs.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(verb)
        verb.set_defaults(act=module.act, verb=name)
    return parser


def _modules(names: Iterable[str]) -> Iterator[tuple[str, ModuleType]]:
    """Yield each verb's module, imported only now: `predict` is to start at once, and where the others can't."""
    for name in names:
        try:
            yield name, import_module(f"vitlora.cli.{name}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("vitlora"):
                raise
            if names is not VERBS:
                raise VitloraError(
                    f"`vitlora {name}` needs {error.name}, which is not installed; the rule: the package alone has "
                    "`vitlora predict`; for all verbs clone the project and run `make setup`"
                ) from None


def main() -> None:
    """Run the verb that the command line names."""
    run(_act)


def _act() -> None:
    args = command_line(sys.argv[1:2] if sys.argv[1:2] and sys.argv[1] in VERBS else VERBS).parse_args()
    with shortage_named(args.verb):
        args.act(args)
