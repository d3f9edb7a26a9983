"""Search over parameters: each trial is a DVC experiment, judged on val, not on test.

    vitlora tune --space lora.r=4,8,16,32 train.learning_rate=1e-4:1e-2:log
    vitlora tune --space ... -S train.num_train_epochs=5 --trials 40 --name rates

Hopeless trials are stopped early. The same command goes on with a search that was stopped or
killed. docs/tune.md says how trials are judged, and how much of the best one's lead is luck.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, printable

TRIALS, NAME, SEED = 20, "tune", 0
FOLDER = Path(".work/tune")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--space",
        nargs="+",
        action="extend",
        required=True,
        metavar="KEY=VALUES",
        help="A,B,C or LOW:HIGH or LOW:HIGH:log",
    )
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="KEY=VALUE", help="for all trials; not in params.yaml"
    )
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help=f"in all ({TRIALS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trials at once, one GPU each (1)")
    parser.add_argument("--name", default=NAME, help=f"of the search, and the start of its experiments' names ({NAME})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the draws ({SEED})")


def act(args: argparse.Namespace) -> None:
    """Search, then print what was found.

    Raises:
        VitloraError: The space or an option is wrong, Optuna is missing, another search has this name or is running,
            or all trials have failed.
    """
    _refuse_options(args)
    from vitlora.trials.lock import only_runner

    folder = FOLDER / args.name
    with only_runner(folder, "search") as lock:
        _search(args, folder, lock)


def _refuse_options(args: argparse.Namespace) -> None:
    from vitlora.safety.workspace import require_project
    from vitlora.trials.names import refuse_name

    require_project()
    if not find_spec("optuna"):
        raise VitloraError(
            "vitlora tune needs optuna, which is not installed; `make setup`, or `.venv/bin/uv pip install --python "
            ".venv optuna`"
        )
    refuse_name(args.name)
    if args.trials < 1:
        raise VitloraError(f"--trials: got {args.trials}; the rule: at least 1")
    if not 0 <= args.seed < 2**32:
        raise VitloraError(f"--seed: got {args.seed}; the rule: 0 to 4294967295")


def _search(args: argparse.Namespace, folder: Path, lock: int) -> None:
    from vitlora.tune.begin import prepare
    from vitlora.tune.search import Search

    plan, study = prepare(args, folder)
    metric = f"val {plan.metric}, {'lowest' if plan.metric == 'loss' else 'highest'} is best"
    print(f"{folder.name}: {counted(plan.trials, 'trial')} from commit {plan.origin.fingerprint}; {metric}", flush=True)
    try:
        Search(plan, study, lock).run()
    finally:
        for tree in folder.glob("tree-*"):
            rmtree(tree, ignore_errors=True)
    _show(plan, study)


def _show(plan: Any, study: Any) -> None:
    from vitlora.compare.screen import grid, make_console, say
    from vitlora.trials.sources import other_sources
    from vitlora.tune import results

    rows = results.finished(study, plan)
    console = make_console()
    console.print()
    grid(console, [(head, "left") for head in results.HEAD], list(results.table(study, plan, rows)))
    if not rows:
        raise VitloraError(
            f"no trial of {plan.folder} has finished; the errors stand above, and in its files NUMBER.log; "
            "--name another begins anew"
        )
    for note in other_sources([plan.name(row.trial.number) for row in rows], plan.space):
        say(console, f"note: {note}", "red")
    for line in (*results.verdict(plan, rows), results.importance(study, plan, rows)):
        say(console, line)
    path = plan.folder / "search.png"
    results.draw_search(study, plan, rows, path)
    say(console, f"picture: {path}")
    print(f"{results.ONCE}\n  {printable(results.command(plan, rows[0]))}")  # as one line, to be copied
