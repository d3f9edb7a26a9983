"""The trials of a search: begun, followed, stopped early, brought home, and begun again after a kill."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from vitlora.compare.revisions import read_commit
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.text import printable, shown_seconds
from vitlora.trials.child import AGAIN, DONE, FAILED, FULL, LIVE, POLL_S, Child, live
from vitlora.trials.signals import stop_signals
from vitlora.trials.tree import Origin, Tree
from vitlora.trials.values import shown_values, with_values
from vitlora.tune.journal import sampler
from vitlora.tune.space import Choices, Space, current

TRAINED, COUNTS = "metrics/train/metrics.json", "metrics/preprocess.json"
GO_ON = "the same command goes on"


@dataclass(frozen=True)
class Plan:
    """A search.

    Args:
        folder: Of its own, named as it is.
        space: What is searched.
        fixed: What is set for all trials, by dotted key.
        document: params.yaml with that.
        origin: What trials start from.
        seed: Of the draws.
        trials: In all.
        slots: What each of the trials that run at once has in its environment.
    """

    folder: Path
    space: Space
    fixed: Mapping[str, Any]
    document: Mapping[str, Any]
    origin: Origin
    seed: int
    trials: int
    slots: Sequence[Mapping[str, str]]

    @property
    def metric(self) -> str:
        """Val's score that decides, as the Trainer names it."""
        return str(self.document["train"]["metric_for_best_model"])

    def name(self, number: int) -> str:
        """Return a trial's name as an experiment."""
        return f"{self.folder.name}-{number:03d}"


@dataclass
class Job:
    """A trial at work."""

    trial: Trial
    values: dict[str, Any]
    child: Child
    slot: int
    seen: set[int] = field(default_factory=set)  # epochs
    stopped_early: bool = False


class Search:
    """Runs a plan's trials to their end.

    Args:
        plan: What is searched.
        study: Its memory.
        lock: Handle of the search's lock, which children hold too.
    """

    def __init__(self, plan: Plan, study: optuna.Study, lock: int) -> None:
        self.plan, self.study, self.lock = plan, study, lock
        self.jobs: list[Job] = []
        self.full = ""  # what a trial said of a full disk

    def run(self) -> None:
        """Run what is left of the trials.

        Raises:
            StoppedError: A signal asked to stop.
            VitloraError: The disk is full.
        """
        left = self._left()
        with stop_signals() as stop:
            while True:
                halted = bool(stop or self.full)
                while not halted and len(self.jobs) < len(self.plan.slots) and (trial := next(left, None)):
                    self._begin(trial)
                if not self.jobs:
                    break
                for job in list(self.jobs):
                    self._look_after(job, halted)
                time.sleep(POLL_S)
        if self.full:
            raise VitloraError(f"stopped: {self.full}\nnothing is lost; {GO_ON}")
        if stop:
            done = sum(trial.state.is_finished() for trial in self.study.trials)
            raise StoppedError(stop[0], f"stopped after {done} of {self.plan.trials} trials, which are kept; {GO_ON}")

    def _left(self) -> Iterator[Trial]:
        """Yield the trials that a runner before this one left at work, then new ones."""
        for number in [trial.number for trial in self.study.trials if trial.state == TrialState.RUNNING]:
            yield Trial(self.study, self.study.trials[number]._trial_id)
        while sum(trial.state != TrialState.WAITING for trial in self.study.trials) < self.plan.trials:
            yield self.study.ask()

    def _begin(self, trial: Trial) -> None:
        plan, number, values = self.plan, trial.number, draw(trial, self.plan)
        slot = min(set(range(len(plan.slots))) - {job.slot for job in self.jobs})
        child = Child(
            Tree(plan.folder / f"tree-{slot}", plan.origin),
            plan.folder,
            plan.name(number),
            number,
            {**plan.fixed, **values},
            with_values(plan.document, values),
            ("train",),  # nothing looks at test
            plan.slots[slot],
            (self.lock,),
        )
        print(f"{child.name}  begins   {shown_values(values)}", flush=True)
        self.jobs.append(Job(trial, values, child, slot))
        child.start()

    def _look_after(self, job: Job, halted: bool) -> None:
        over = job.child.is_over()
        self._follow(job)
        if over:
            self._settle(job, halted)
        elif halted or job.stopped_early:
            job.child.stop()

    def _follow(self, job: Job) -> None:
        """Hand new val scores to the pruner; what it says depends on them alone, not on when they are seen.

        A trial in its last epoch has nothing to save by being stopped. Where trials have schedules of different length,
        or a part that begins later, scores of one epoch are no match.
        """
        train = with_values(self.plan.document, job.values)["train"]
        settled = max(train["head_only_epochs"], train["swa_epoch_start"] or 0)
        comparable = "train.num_train_epochs" not in self.plan.space
        known = self.study.trials[job.trial.number].intermediate_values
        for entry in live(job.child.tree.project / LIVE):
            epoch, value = round(entry["epoch"]) - 1, entry.get(f"eval_{self.plan.metric}")
            if value is None or epoch in job.seen or job.stopped_early:
                continue
            job.seen.add(epoch)
            if epoch not in known:
                job.trial.report(value, epoch)
            if comparable and epoch >= settled and entry["step"] < entry["steps"]:
                job.stopped_early = bool(job.trial.should_prune())

    def _settle(self, job: Job, halted: bool) -> None:
        """Record how a trial ended; leave it as one at work where it was killed or asked to stop."""
        if job.stopped_early:  # even where it was over before it could be stopped
            self._tell(job, "stopped early", state=TrialState.PRUNED)
        else:
            ending = job.child.settle(halted)
            if ending.kind == AGAIN:
                print(f"{job.child.name}  killed; begins again", flush=True)
                return
            if ending.kind == DONE:
                self._bring_home(job)
            elif ending.kind == FULL:
                self.full = ending.error
            elif ending.kind == FAILED:
                job.trial.set_user_attr("error", ending.error)
                self._tell(job, f"failed: {printable(ending.error)}", state=TrialState.FAIL)
        self.jobs.remove(job)

    def _bring_home(self, job: Job) -> None:
        plan = self.plan
        commit = job.child.tree.fetch(job.child.name)
        trained, counts = map(json.loads, read_commit(commit, (TRAINED, COUNTS)).values())
        value = float(trained[f"val_{plan.metric}"])  # of what training has kept
        per_class = [row["val"] for row in counts["images_per_class"]]
        job.trial.set_user_attr("pictures", sum(per_class))
        job.trial.set_user_attr("worth_pictures", worth_pictures(plan.metric, per_class))
        self._tell(job, f"{value:.4f}", value)

    def _tell(self, job: Job, said: str, value: float | None = None, state: TrialState | None = None) -> None:
        seconds = job.child.seconds
        job.trial.set_user_attr("seconds", round(seconds, 1))
        job.trial.set_user_attr("values", job.values)
        self.study.tell(job.trial, value, state)
        job.child.forget()
        print(f"{job.child.name}  {said}, {shown_seconds(seconds)}", flush=True)


def draw(trial: Trial, plan: Plan) -> dict[str, Any]:
    """Return a trial's values by dotted key: those it has, or those its samplers draw now."""
    own = current(plan.document, plan.space) or {}
    values: dict[str, Any] = {}
    trial.study.sampler = sampler(plan.seed, trial.number)
    trial.relative_params  # noqa: B018 - those that TPE draws together: first, whatever a kill has left of the others
    for key, within in plan.space.items():
        trial.study.sampler = sampler(plan.seed, trial.number, key)
        if isinstance(within, Choices):
            values[key] = json.loads(trial.suggest_categorical(key, within.texts))
            continue
        suggest = trial.suggest_int if within.whole else trial.suggest_float
        drawn = suggest(key, within.low, within.high, log=within.log)  # type: ignore[arg-type]
        values[key] = drawn if drawn == own.get(key) else within.value(drawn)
    return values


def worth_pictures(metric: str, per_class: Sequence[int]) -> int:
    """Return how many pictures, all counted alike, leave as much to chance as val does.

    Accuracy's are val's own. A mean over classes of unequal size lives from its smallest class: its variance is that of
    ``classes² / sum(1 / images)`` pictures, where each class is right equally often.
    """
    there = [count for count in per_class if count]
    if metric != "balanced_accuracy":
        return sum(there)
    return max(1, round(len(there) ** 2 / sum(1 / count for count in there)))
