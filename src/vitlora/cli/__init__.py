"""The command line: ``vitlora <verb>``, one module a verb."""

import argparse

from vitlora.cli import adapter, compare, doctor, evaluate, gate, inspect, predict, preset, recover, report, verify
from vitlora.cli import run as run_verb
from vitlora.core.entry import run
from vitlora.safety.guard import shortage_named

VERBS = {
    "adapter": adapter,
    "compare": compare,
    "doctor": doctor,
    "evaluate": evaluate,
    "gate": gate,
    "inspect": inspect,
    "predict": predict,
    "preset": preset,
    "recover": recover,
    "report": report,
    "run": run_verb,
    "verify": verify,
}


def command_line() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="vitlora", description="Fine-tune a Vision Transformer with LoRA, reproducibly."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, module in VERBS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        verb = verbs.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(act=module.act, verb=name)
    return parser


def main() -> None:
    """Run the verb that the command line names."""
    args = command_line().parse_args()
    run(lambda: _act(args))


def _act(args: argparse.Namespace) -> None:
    with shortage_named(args.verb):
        args.act(args)
