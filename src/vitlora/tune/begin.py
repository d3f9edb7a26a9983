"""The first steps of a search: all that can be refused is, before anything runs."""

import argparse
from pathlib import Path

import optuna
from optuna.trial import TrialState

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.safety.preflight import check_params
from vitlora.safety.source import write_source
from vitlora.safety.workspace import PARAMS, require_project
from vitlora.trials.devices import slots
from vitlora.trials.names import refuse_taken
from vitlora.trials.tree import begun_from, find_origin, refuse_half_kept
from vitlora.trials.values import with_values
from vitlora.tune.journal import agree, open_study
from vitlora.tune.search import Plan
from vitlora.tune.space import current, members, read_fixed, read_space, refuse_idle, size


def prepare(args: argparse.Namespace, folder: Path) -> tuple[Plan, optuna.Study]:
    """Check what was typed and open the search's memory; for the holder of its lock.

    Args:
        args: Of the verb.
        folder: Of the search.

    Raises:
        VitloraError: A mistake in params.yaml, the space or an option, or another search has this name.
    """
    require_project()
    check_params()
    write_source()  # as dvc's wrapper does: trials must know what lies at data.path
    places = slots(args.jobs)
    now = read_document(PARAMS)
    fixed = read_fixed(args.set_param, now)
    document = with_values(now, fixed)
    refuse_half_kept(document)
    space = read_space(args.space, document)
    both = [key for key in fixed if key in space]
    if both:
        raise VitloraError(f"-S {both[0]}: --space has it too; the rule: one of the two")
    refuse_idle(space, fixed, now)
    origin = find_origin()
    study = open_study(folder, document["train"]["metric_for_best_model"] == "loss")
    about = {
        "space": {key: str(within) for key, within in space.items()},
        "fixed": fixed,
        "seed": args.seed,
        "commit": origin.commit,
        "document": document,
    }
    if "about" not in study.user_attrs:
        refuse_taken(folder)
    known = agree(study, folder, about, origin.changes)
    start = begun_from(origin, folder, known["commit"])
    trials = min(args.trials, size(space))
    plan = Plan(folder, space, fixed, known["document"], start, args.seed, trials, places)
    _enqueue(study, plan)
    return plan, study


def _enqueue(study: optuna.Study, plan: Plan) -> None:
    """Let the first trial have the values of params.yaml, if the space holds them: what the best is compared with.

    A space with no more members than there are trials is tried whole: Optuna's draws would repeat some.
    """
    begun = any(trial.state != TrialState.WAITING for trial in study.trials)
    own = None if begun else current(plan.document, plan.space)
    for values in [*([own] if own else []), *(members(plan.space) if plan.trials == size(plan.space) else [])]:
        study.enqueue_trial(values, skip_if_exists=True)
