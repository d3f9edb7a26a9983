"""DVC's command line as it is, but for what a kill, a Ctrl-C or a bad disk does to DVC's own files.

DVC writes dvc.lock and its rwlock in place, and refuses every later command when one of them is cut short (dvc 3.67.1,
dvc/utils/serialize/_common.py and dvc/rwlock.py). Here they are written aside, synced and renamed.

It writes its run cache in place too, and fails at every later repro, or restores half of a stage's outputs, when an
entry is cut short (dvc/stage/cache.py). Here an entry that is not what its name says is taken away.

It dies of a SIGTERM at once, and its stage soon after. Here the stage is asked instead, so training is saved.

It can't queue or copy a project whose folder's name isn't ASCII: configobj, which writes the copy's settings, takes
ASCII unless told otherwise. Here it is told.

It shows commands that are longer than the screen, and advice on `git add` and `dvc push` that leaves out most of what
belongs into the commit; here these lines are left out.

It removes what a stage had made before it starts the stage. Here that comes back where the stage fails (put_back.py).

It does not notice what changes at ``data.path``. Here that is written down first, in source.yaml.

It removes the outputs of a stage before that can refuse a parameter. Here parameters are checked first, what `-S` sets
too.

Its own Git (dulwich, pygit2) can make Git overlook a value that `-S` has set and that is as long as the old one. Here
Git is made to look.

It lives on when the program that started it is killed. Runners of experiments ask, by VITLORA_WITH_PARENT, that it
leaves too.

It fills braces in the cache's path as if they were its own, so no stage ends in a folder like `{1}`. Here they are
doubled first.

It looks for the files of an experiment in the outputs as they were before it, and fails where the cache lacks one of
these and the run cache had all stages (dvc/stage/utils.py). Here it looks at the outputs as they are.

A Ctrl-C that meets DVC while it makes a progress bar ends it, without the traceback of a bar that was never finished.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial, partialmethod
from pathlib import Path
from typing import IO, Any

from dvc.cli import main
from dvc.commands.repro import CmdRepro
from dvc.commands.status import CmdDataStatus
from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.stage import Stage
from dvc.stage.cache import StageCache
from dvc.stage.exceptions import StageCmdFailedError
from dvc.ui import ui
from dvc_data.hashfile._progress import QueryingProgress
from tqdm import tqdm

from vitlora.core.durable import faultpoint, sync_one
from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.safety.explain import in_our_words
from vitlora.safety.put_back import run_or_put_back

NOISE = {  # loggers of DVC's, and how their messages begin
    "dvc.stage.run": "%s %s",
    "dvc.dvcfile": "Updating lock file",
    "dvc.repo.scm_context": "\nTo ",
}
OURS = "exec env PYTHONPATH=src python -m stages."
ENDED = {  # exit codes of a stage of ours, and what to say
    128 + signal.SIGINT: "interrupted",
    128 + signal.SIGTERM: "stopped by a signal",
    -signal.SIGKILL: "killed, as where memory runs out",
}
OWN_TREE = {"--queue", "--temp"}  # options of experiments that run in a copy
open_in_place = LocalFileSystem.open
load_on_trust = StageCache._load_cache
show_queries = QueryingProgress.__init__
failed = StageCmdFailedError.__init__


def open_whole(fs: LocalFileSystem, path: str, mode: str = "r", **options: Any) -> AbstractContextManager[IO[Any]]:
    """Open a file as DVC's local file system does; text that is written appears under its name only when complete.

    Args:
        fs: DVC's local file system.
        path: The file.
        mode: As for `open`.
        options: Such as `encoding`.
    """
    if mode in ("w", "w+"):
        return _aside(Path(path), options.get("encoding"))
    opened: IO[Any] = open_in_place(fs, path, mode, **options)
    return opened


@contextmanager
def _aside(path: Path, encoding: str | None) -> Iterator[IO[str]]:
    draft = path.with_name(f"{path.name}.draft")  # one writer at a time: DVC holds its lock meanwhile
    with draft.open("w", encoding=encoding) as file:
        faultpoint(f"{path.name} begun")
        yield file
    sync_one(draft)
    faultpoint(f"{path.name} aside")
    os.replace(draft, path)


def load_whole(runs: StageCache, key: str, value: str | None) -> dict[str, Any] | None:
    """Load an entry of the run cache as DVC does; None, as where there is none, if it is damaged or cut short.

    Args:
        runs: DVC's run cache.
        key: Hash of a stage's command, parameters and inputs.
        value: Hash of the entry, hence its file's name; None where an interrupt left an empty folder.
    """
    if value is None:
        return None
    from vitlora.safety.workspace import whole_entry  # not where nothing is to run

    path = Path(runs._get_cache_path(key, value))
    if path.exists() and not whole_entry(path):
        path.unlink()
        print(printable(f"note: {os.path.relpath(path)}: damaged or cut short, removed"), file=sys.stderr)
    entry: dict[str, Any] | None = load_on_trust(runs, key, value)
    return entry


def without_advice(command: CmdRepro) -> int:
    """Check the parameters, then reproduce as DVC's command does; where something ran, its stages have said so."""
    _refuse_mistakes()
    if not command.repo.reproduce(**command._common_kwargs, **command._repro_kwargs):
        ui.write(CmdDataStatus.UP_TO_DATE_MSG)
    return 0


def checked_overrides(apply: Callable[[str, list[str]], None], path: str, overrides: list[str]) -> None:
    """Set what `-S` says as DVC does, and refuse a mistake: DVC then takes everything back."""
    apply(path, overrides)
    _refuse_mistakes()


def checked_run(run: Callable[[Any], int], command: Any) -> int:
    """Check what `-S` says, or params.yaml where `-S` changes nothing, before an experiment."""
    if command.args.dry and _ours():
        raise DvcException(
            "`dvc exp run --dry` looks into an empty tree, where no stage finds what the one before made; write the "
            "values into params.yaml, and `dvc repro --dry` shows what would run"
        )
    if _ours():
        from vitlora.safety.preflight import refuse_outside, refuse_taken_out

        with _refusals():
            refuse_outside()
            refuse_taken_out()
    if command.args.set_param:
        _check_overrides(command.args)
    else:
        _refuse_mistakes()
    try:
        return run(command)
    finally:
        if _ours():
            let_git_see()


def let_git_see() -> None:
    """Touch what an experiment sets, in the working directory.

    DVC's own Git may note the old contents with the new file's time and size. Git then takes a value of equal length
    for no change: `git status` is clean, and `git checkout` leaves it.
    """
    for name in ("params.yaml", "source.yaml"):
        with suppress(OSError):
            os.utime(name)


def _check_overrides(given: Any) -> None:
    if _ours():
        from vitlora.safety.overrides import ready

        with _refusals():
            given.set_param = ready(given.set_param, given.queue)


def _ours() -> bool:
    """Say whether this is a project of ours: others are left alone."""
    return Path("stages/download.py").is_file()


def _refuse_mistakes() -> None:
    """Check the parameters, and write down what lies where they point."""
    if not _ours():
        return
    from vitlora.safety.preflight import check_params, refuse_left_behind, refuse_outside  # not for a look-up only
    from vitlora.safety.source import write_source

    with _refusals():
        check_params()
        refuse_outside()
        write_source()
        if not OWN_TREE.isdisjoint(sys.argv):
            refuse_left_behind()


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except VitloraError as error:
        print("\n".join(f"error: {printable(line)}" for line in str(error).split("\n")), file=sys.stderr)
        raise DvcException(
            "refused before anything ran; parameters set by -S and all outputs are as they were"
        ) from None


def noticing_status(status: Callable[[Any], int], command: Any) -> int:
    """Say what has changed as DVC does, after a look at what lies at ``data.path``."""
    if _ours():
        from vitlora.safety.source import write_source

        with suppress(VitloraError, OSError):  # `dvc repro` tells mistakes; a read-only tree can be looked at too
            write_source()
    return status(command)


def files_as_they_are(files: Callable[[Stage], list[str]], stage: Stage) -> list[str]:
    """Return the files of a stage that belong into an experiment's commit, as DVC does."""
    stage.repo._reset()  # as DVC does before it runs a stage, but not before it restores one
    return files(stage)


def failed_shortly(error: StageCmdFailedError, command: str, status: int | None = None) -> None:
    """Say how a stage's command ended; a stage of ours has said why, so its command of 300 characters is left out."""
    failed(error, command, status)
    if command.startswith(OURS) and status is not None:
        error.args = (ENDED.get(status, f"killed by signal {-status}" if status < 0 else "its error stands above"),)


def ask_stage(number: int, frame: object) -> None:
    """Hand a request to stop to the stage at work, whose end will be dvc's; end at once where none is."""
    import psutil  # not where nothing is to stop

    for child in psutil.Process().children():  # `exec` in dvc.yaml: no shell stands between
        with suppress(psutil.Error):
            if any(word.startswith("stages.") for word in child.cmdline()):
                child.send_signal(number)
                return
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def wanted(noise: str, record: logging.LogRecord) -> bool:
    """Say whether a message is to be shown."""
    return not str(record.msg).startswith(noise)


def with_braces(bar: QueryingProgress, *args: Any, name: str | None = None, **options: Any) -> None:
    """Make DVC's bar for a look into a cache, whose path may hold braces."""
    show_queries(bar, *args, name=name and name.replace("{", "{{").replace("}", "}}"), **options)


def without_bars(ignored: "sys.UnraisableHookArgs") -> None:
    """Show what Python could not raise, but not that a bar which an interrupt left half made can't be closed."""
    if ignored.object is not tqdm.__del__:
        sys.__unraisablehook__(ignored)


if __name__ == "__main__":
    if "VITLORA_WITH_PARENT" in os.environ:
        from vitlora.safety.guard import leave_with_parent

        leave_with_parent()
    signal.signal(signal.SIGTERM, ask_stage)
    sys.unraisablehook = without_bars
    LocalFileSystem.open = open_whole
    StageCache._load_cache = load_whole
    QueryingProgress.__init__ = with_braces
    stage_run = Stage.run
    Stage.run = lambda stage, *args, **options: run_or_put_back(stage_run, stage, *args, **options)
    CmdRepro.run = without_advice
    status = CmdDataStatus.run
    CmdDataStatus.run = lambda command: noticing_status(status, command)
    if sys.argv[1:2] in (["exp"], ["experiments"], ["queue"]):
        from configobj import ConfigObj
        from dvc.commands.experiments.run import CmdExperimentsRun
        from dvc.stage import utils
        from dvc.utils import hydra

        hydra.apply_overrides = partial(checked_overrides, hydra.apply_overrides)
        utils._get_stage_files = partial(files_as_they_are, utils._get_stage_files)
        ConfigObj.__init__ = partialmethod(ConfigObj.__init__, encoding="utf-8")
        run = CmdExperimentsRun.run
        CmdExperimentsRun.run = lambda command: checked_run(run, command)
    StageCmdFailedError.__init__ = failed_shortly
    if "--dry" not in sys.argv:  # which asks for the commands
        for name, start in NOISE.items():
            logging.getLogger(name).addFilter(partial(wanted, start))
    logging.getLogger("dvc.cli").addFilter(in_our_words)
    sys.exit(main(sys.argv[1:]))
