"""Start the processes that share a stage's work, one a device; watch them, and end them all when one has ended badly.

The stage's own process does none of the work then. It holds the stage's lock, hands signals on, and gives out one
error and one exit code, whichever process they come from. torchrun would leave orphans when it is killed, and knows one
exit code only.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

import psutil

from vitlora.core.cores import cores
from vitlora.core.entry import importing
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.text import counted

VARIABLE = "VITLORA_PROCESS"
FOLDER = Path(".work/processes")
WATCH_S = 0.1  # between two looks at the processes
LOST_S = 5.0  # one that has lost another knows it sooner, over the network, than we hear how that one ended
END_S = 10.0  # for processes that are killed, which a device may hold up
LOST, AGAIN = 75, 76  # exit codes between the processes and their launcher
PR_SET_PDEATHSIG = 1
KEY = "train.num_processes"


class LostError(Exception):
    """Another process has gone, or does not answer; why, the launcher says."""


class AgainError(Exception):
    """All processes are to begin again, with fewer images at once.

    Args:
        at_most: Images of a micro-batch.
    """

    def __init__(self, at_most: int) -> None:
        super().__init__(f"once more, with at most {at_most} at once")
        self.at_most = at_most


@dataclass(frozen=True)
class Place:
    """A process's place among those that share a stage's work.

    Attributes:
        number: From 0; that one writes and prints.
        count: Of the processes.
        launcher: Its process id.
        folder: What they share: where they meet, and what they die of.
        at_most: Images of a micro-batch, where more have turned out too many.
    """

    number: int
    count: int
    launcher: int
    folder: str
    at_most: int | None = None

    @property
    def meeting(self) -> Path:
        """File over which the processes find each other."""
        return Path(self.folder) / "meeting"

    @property
    def last_words(self) -> Path:
        """File with what the process says on its way out."""
        return Path(self.folder) / f"process-{self.number}.txt"


def own_place() -> Place | None:
    """Return this process's place, None where one process does all the work."""
    text = os.environ.get(VARIABLE)
    return Place(**json.loads(text)) if text else None


def launched(
    stage: str, wanted: int | Literal["auto"], paths: Mapping[str, Path], parts: int | None = None, why: str = ""
) -> bool:
    """Let several processes do a stage's work, if it is to be done so, and wait for them.

    Args:
        stage: Its name.
        wanted: How many; ``auto`` is all GPUs that are visible, and one without any.
        paths: Where the stage reads and writes, by option.
        parts: How many the work can be cut into; None: any number.
        why: Of an error, if that is too few.

    Returns:
        Whether the work is done; if not, it is this process that has to do it.

    Raises:
        VitloraError: There are fewer GPUs, or parts of the work, than processes.
        StoppedError: A signal has ended the processes.
        SystemExit: A process has ended with an error, which is printed.
    """
    if own_place() or wanted == 1:
        return False
    devices = visible_devices() if wanted != "auto" or _gpu_files() > 1 else []
    count = min(len(devices) or 1, parts or len(devices) or 1) if wanted == "auto" else wanted
    if count == 1:
        return False
    if devices and count > len(devices):
        raise VitloraError(
            f"{KEY}: got {count}, and {counted(len(devices), 'GPU')} can be seen; the rule: at most one process a GPU; "
            "set it to auto, which takes all there are"
        )
    if parts and count > parts:
        raise VitloraError(f"{KEY}: got {count}; the rule: at most {parts}, {why}")
    place = Place(0, count, os.getpid(), str(FOLDER / stage))
    command = [*sys.orig_argv[1:], *(part for name, path in paths.items() for part in (_option(name), str(path)))]
    at_most = _work(place, stage, command, devices)
    while at_most:
        print(f"note: out of GPU memory; once more, with at most {counted(at_most, 'image')} at once", flush=True)
        at_most = _work(replace(place, at_most=at_most), stage, command, devices)
    return True


def visible_devices() -> list[str]:
    """Return the GPUs that CUDA would show, by the names that ``CUDA_VISIBLE_DEVICES`` takes; nothing without any."""
    if not _gpu_files():
        return []
    with importing():
        import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


def _gpu_files() -> int:
    """Return how many GPUs the system may have, by its files: to import torch takes seconds."""
    several = any(Path(name).exists() for name in ("/dev/dxg", "/dev/kfd"))  # of all, in WSL and with AMD's driver
    return 2 if several else len(list(Path("/dev").glob("nvidia[0-9]*")))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _work(place: Place, stage: str, command: Sequence[str], devices: Sequence[str]) -> int | None:
    """Run all processes to their end; return the number of images at once with which they are to begin again."""
    folder = Path(place.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    processes: list[subprocess.Popen[bytes]] = []
    with _noted_signals() as got:
        try:
            places = (replace(place, number=number) for number in range(place.count))
            processes.extend(_start(each, command, devices) for each in places)
            ended = _watch(processes, got)
            if ended is None:
                return None
            _end_all()
            if processes[ended].returncode == AGAIN:
                return int((folder / f"process-{ended}.txt").read_text(encoding="utf-8"))
            _give_out(stage, replace(place, number=ended), processes[ended].returncode, got)
        finally:
            _end_all()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
            shutil.rmtree(folder, ignore_errors=True)


def _start(place: Place, command: Sequence[str], devices: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process, in a group of its own: Ctrl-C reaches the launcher, which hands it on once."""
    own = {VARIABLE: json.dumps(asdict(place))}
    if devices:
        own["CUDA_VISIBLE_DEVICES"] = devices[place.number]
    local = "lo0" if sys.platform == "darwin" else "lo"
    shared = {
        "OMP_NUM_THREADS": str(max(1, cores() // place.count)),
        "GLOO_SOCKET_IFNAME": local,  # they meet on this machine, and no other need hear of it
        "NCCL_SOCKET_IFNAME": local,
    }
    with place.last_words.open("wb") as words:
        return subprocess.Popen(
            [sys.executable, *command],
            env={**shared, **os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=None if place.number == 0 else subprocess.DEVNULL,
            stderr=None if place.number == 0 else words,
            process_group=0,
        )


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Yield a list that gets the signals that ask to stop; who watches hands them on."""
    got: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: got.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(processes: Sequence[subprocess.Popen[bytes]], got: Sequence[int]) -> int | None:
    """Return the number of the first process that has ended badly; None once all have ended well."""
    handed_on, lost_since = 0, None
    while True:
        for number in got[handed_on:]:
            for process in processes:
                process.send_signal(number)
            handed_on += 1
        codes = [process.poll() for process in processes]
        if all(code == 0 for code in codes):
            return None
        bad = [number for number, code in enumerate(codes) if code not in (None, 0)]
        causes = [number for number in bad if codes[number] != LOST]
        if causes:
            return causes[0]
        if bad:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > LOST_S:
                return bad[0]
        time.sleep(WATCH_S)


def _end_all() -> None:
    """Kill the processes and what they have started."""
    below = psutil.Process().children(recursive=True)
    for process in below:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(below, END_S)


def _give_out(stage: str, place: Place, code: int, got: Sequence[int]) -> NoReturn:
    """End as the process has ended, with what it said."""
    words = place.last_words.read_text(encoding="utf-8", errors="backslashreplace")
    print(words, end="", file=sys.stderr, flush=True)
    if code == -signal.SIGINT or (code < 0 and -code in got):  # a process that had not begun to work
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code < 0:
        name = signal.strsignal(-code) or str(-code)
        raise StoppedError(
            -code,
            f"{stage}: process {place.number + 1} of {place.count} has been ended by signal {-code} ({name}), and the "
            "others with it; `dvc repro` goes on with what is kept",
        )
    if got and code == 128 + signal.SIGTERM:  # it had heard of the signal from another process
        code = 128 + got[0]
    sys.exit(1 if code == LOST else code)


@contextmanager
def taking_part(place: Place) -> Iterator[None]:
    """Let this process end with its launcher, and leave what it dies of where the launcher finds it."""
    _die_with(place.launcher)
    try:
        yield
    except BaseException as error:
        sys.stdout.flush()
        sys.stderr.flush()
        words = os.open(place.last_words, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(words, 2)
        if isinstance(error, AgainError):
            place.last_words.write_text(str(error.at_most), encoding="utf-8")
            _leave(AGAIN)
        if isinstance(error, LostError):
            print(f"error: {error}", file=sys.stderr)
            _leave(LOST)
        raise


def _leave(code: int) -> NoReturn:
    """End at once: taking a group of processes apart waits for those that are gone."""
    sys.stderr.flush()
    os._exit(code)


def _die_with(launcher: int) -> None:
    """Have the kernel end this process with its launcher, where it can, however stuck it is then.

    Who watches the parent process in a thread does the same elsewhere, and half a second later.
    """
    with suppress(AttributeError, OSError):
        prctl: Callable[[int, int], int] = ctypes.CDLL(None).prctl
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        os._exit(128 + signal.SIGTERM)
