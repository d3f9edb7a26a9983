"""The trials of a search: begun, followed, stopped early, brought home, and begun again after a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from vitlora.compare.revisions import read_commit
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.text import printable, shown_seconds
from vitlora.safety.shortage import DISK
from vitlora.safety.workspace import environment
from vitlora.tune.journal import sampler
from vitlora.tune.space import Choices, Space, current, with_values
from vitlora.tune.tree import Origin, Tree

LIVE = ".work/train.jsonl"  # vitlora.train.reporting.LIVE, which would load torch
TRAINED, COUNTS = "metrics/train/metrics.json", "metrics/preprocess.json"
POLL_S = 0.2
TRIES = 4  # of a trial that is killed
KILLED = re.compile(r"failed to reproduce '\w+': (killed|stopped by a signal|interrupted)")
FIRST_ERROR = re.compile(r"^(?:error: |ERROR: |(?=\w*(?:Error|Exception): ))(.+)", re.MULTILINE)
AGAIN = "the same command goes on"


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
    tree: Tree
    slot: int
    tries: int = 0
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    seen: set[int] = field(default_factory=set)  # epochs
    stopped_early: bool = False
    asked: bool = False  # to stop


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
        with _stop_signals() as stop:
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
            raise VitloraError(f"stopped: {self.full}\nnothing is lost; {AGAIN}")
        if stop:
            done = sum(trial.state.is_finished() for trial in self.study.trials)
            raise StoppedError(stop[0], f"stopped after {done} of {self.plan.trials} trials, which are kept; {AGAIN}")

    def _left(self) -> Iterator[Trial]:
        """Yield the trials that a runner before this one left at work, then new ones."""
        for number in [trial.number for trial in self.study.trials if trial.state == TrialState.RUNNING]:
            yield Trial(self.study, self.study.trials[number]._trial_id)
        while sum(trial.state != TrialState.WAITING for trial in self.study.trials) < self.plan.trials:
            yield self.study.ask()

    def _begin(self, trial: Trial) -> None:
        values = draw(trial, self.plan)
        slot = min(set(range(len(self.plan.slots))) - {job.slot for job in self.jobs})
        job = Job(trial, values, Tree(self.plan.folder / f"tree-{slot}", self.plan.origin), slot)
        print(f"{self.plan.name(trial.number)}  begins   {shown_values(values)}", flush=True)
        self.jobs.append(job)
        self._start(job)

    def _start(self, job: Job) -> None:
        plan, number = self.plan, job.trial.number
        job.tree.renew(with_values(plan.document, job.values), plan.folder / "checkpoints" / f"{number:03d}")
        log = plan.folder / f"{number:03d}.log"
        sets = [word for item in {**plan.fixed, **job.values}.items() for word in ("-S", override(*item))]
        dvc = [sys.executable, "-m", "vitlora.safety.dvc_command", "exp", "run", "--name", plan.name(number)]
        env = {**environment(), **plan.slots[job.slot], "VITLORA_WITH_PARENT": "1"}
        job.tries, job.began = job.tries + 1, time.monotonic()
        with log.open("wb") as file:  # the trial ends with train: nothing looks at test
            job.process = subprocess.Popen(
                [*dvc, *sets, "train"],
                cwd=job.tree.project,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=(self.lock,),
            )

    def _look_after(self, job: Job, halted: bool) -> None:
        assert job.process is not None
        ended = job.process.poll()
        self._follow(job)
        if ended is not None:
            self._settle(job, ended, halted)
        elif (halted or job.stopped_early) and not job.asked:
            job.asked = True
            job.process.terminate()  # training finishes its step and keeps it

    def _follow(self, job: Job) -> None:
        """Hand new val scores to the pruner; what it says depends on them alone, not on when they are seen.

        A trial in its last epoch has nothing to save by being stopped. Where trials have schedules of different length,
        or a part that begins later, scores of one epoch are no match.
        """
        train = with_values(self.plan.document, job.values)["train"]
        settled = max(train["head_only_epochs"], train["swa_epoch_start"] or 0)
        comparable = "train.num_train_epochs" not in self.plan.space
        known = self.study.trials[job.trial.number].intermediate_values
        for entry in live(job.tree.project / LIVE):
            epoch, value = round(entry["epoch"]) - 1, entry.get(f"eval_{self.plan.metric}")
            if value is None or epoch in job.seen or job.stopped_early:
                continue
            job.seen.add(epoch)
            if epoch not in known:
                job.trial.report(value, epoch)
            if comparable and epoch >= settled and entry["step"] < entry["steps"]:
                job.stopped_early = bool(job.trial.should_prune())

    def _settle(self, job: Job, code: int, halted: bool) -> None:
        """Record how a trial ended; leave it as one at work where it was killed or asked to stop."""
        number = job.trial.number
        text = (self.plan.folder / f"{number:03d}.log").read_text(encoding="utf-8", errors="replace")
        killed = code < 0 or KILLED.search(text) is not None
        if job.stopped_early:  # even where it was over before it could be stopped
            self._tell(job, "stopped early", state=TrialState.PRUNED)
        elif code == 0:
            self._bring_home(job)
        elif halted:
            pass
        elif killed and job.tries < TRIES:
            print(f"{self.plan.name(number)}  killed; begins again", flush=True)
            self._start(job)
            return
        elif any(reason in text for reason in DISK.values()):
            self.full = first_error(text)
        else:
            error = f"killed {job.tries} times, as where memory runs out" if killed else first_error(text)
            job.trial.set_user_attr("error", error)
            self._tell(job, f"failed: {printable(error)}", state=TrialState.FAIL)
        self.jobs.remove(job)

    def _bring_home(self, job: Job) -> None:
        plan, number = self.plan, job.trial.number
        commit = job.tree.fetch(plan.name(number))
        trained, counts = map(json.loads, read_commit(commit, (TRAINED, COUNTS)).values())
        value = float(trained[f"val_{plan.metric}"])  # of what training has kept
        per_class = [row["val"] for row in counts["images_per_class"]]
        job.trial.set_user_attr("pictures", sum(per_class))
        job.trial.set_user_attr("worth_pictures", worth_pictures(plan.metric, per_class))
        self._tell(job, f"{value:.4f}", value)

    def _tell(self, job: Job, said: str, value: float | None = None, state: TrialState | None = None) -> None:
        seconds = time.monotonic() - job.began
        job.trial.set_user_attr("seconds", round(seconds, 1))
        job.trial.set_user_attr("values", job.values)
        self.study.tell(job.trial, value, state)
        shutil.rmtree(self.plan.folder / "checkpoints" / f"{job.trial.number:03d}", ignore_errors=True)
        print(f"{self.plan.name(job.trial.number)}  {said}, {shown_seconds(seconds)}", flush=True)


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


def override(key: str, value: Any) -> str:
    """Return what `-S` takes, for any value that is to be taken as it stands."""
    return f"{key}={_of_hydra(value)}"


def _of_hydra(value: Any) -> str:
    """Hydra, which reads it, knows JSON but for the backslashes of a text."""
    from hydra.core.override_parser.types import Quote, QuotedString  # as in vitlora.safety.overrides

    if isinstance(value, list):
        return f"[{','.join(map(_of_hydra, value))}]"
    return str(QuotedString(value, Quote.double).with_quotes()) if isinstance(value, str) else json.dumps(value)


def shown_values(values: Mapping[str, Any]) -> str:
    """Return values for people."""
    words = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in values.items())
    return printable(" ".join(f"{key}={word}" for key, word in words))


def live(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a training's live log so far; a line that is still being written is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def worth_pictures(metric: str, per_class: Sequence[int]) -> int:
    """Return how many pictures, all counted alike, leave as much to chance as val does.

    Accuracy's are val's own. A mean over classes of unequal size lives from its smallest class: its variance is that of
    ``classes² / sum(1 / images)`` pictures, where each class is right equally often.
    """
    there = [count for count in per_class if count]
    if metric != "balanced_accuracy":
        return sum(there)
    return max(1, round(len(there) ** 2 / sum(1 / count for count in there)))


def first_error(text: str) -> str:
    """Return what went wrong first, as a trial's output has it."""
    found = FIRST_ERROR.search(text)
    lines = [line for line in text.splitlines() if line.strip()]
    return found[1] if found else (lines[-1] if lines else "it said nothing")


def slots(jobs: int) -> list[dict[str, str]]:
    """Return what each of the trials that run at once has in its environment: a GPU, or its share of the cores.

    Raises:
        VitloraError: There are fewer GPUs.
    """
    if jobs < 1:
        raise VitloraError(f"--jobs: got {jobs}; the rule: at least 1")
    if jobs == 1:
        return [{}]
    devices = gpus()
    if devices and jobs > len(devices):
        raise VitloraError(
            f"--jobs: got {jobs}; the rule: one GPU each, and there are {len(devices)}: {','.join(devices)}"
        )
    if devices:
        return [{"CUDA_VISIBLE_DEVICES": device} for device in devices[:jobs]]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    return [{"OMP_NUM_THREADS": threads} for _ in range(jobs)]


def gpus() -> list[str]:
    """Return the GPUs that may be used, by the names that CUDA_VISIBLE_DEVICES takes; torch would take seconds."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)  # noqa: S607
    except OSError:
        return []
    return [str(number) for number, _ in enumerate(re.findall(r"^GPU \d+:", listed.stdout, re.MULTILINE))]


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yield a list that gets the number of a signal that asks to stop; a second Ctrl-C ends at once."""
    got: list[int] = []

    def note(number: int, frame: Any) -> None:
        if got and number == signal.SIGINT:
            raise KeyboardInterrupt
        got.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
