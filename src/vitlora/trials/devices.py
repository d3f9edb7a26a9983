"""What runs at once have to themselves: a GPU each, or a share of the cores."""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.trials import lock

LOCKS = Path(".work/devices")


class Slot(NamedTuple):
    """What one of the runs at once has: its environment, the device's name for people, and the lock's handle."""

    env: Mapping[str, str]
    device: str
    handles: tuple[int, ...]


def slots(jobs: int) -> list[dict[str, str]]:
    """Return what each of the trials that run at once has in its environment: a GPU, or its share of the cores.

    Raises:
        VitloraError: There are fewer GPUs.
    """
    refuse_jobs(jobs)
    if jobs == 1:
        return [{}]
    devices = gpus()
    if devices:
        _refuse_more(jobs, devices)
        return [{"CUDA_VISIBLE_DEVICES": device} for device in devices[:jobs]]
    return _shares(jobs)


@contextmanager
def taken(jobs: int | None, who: str) -> Iterator[list[Slot]]:
    """Take GPUs that no other runner has, all that are free or so many, and free them at the end.

    Without GPUs, runs share the cores, and nothing is locked.

    Args:
        jobs: At once; None for as many as there are GPUs, or one.
        who: Takes them, for others to read.

    Raises:
        VitloraError: There are fewer GPUs, or fewer are free.
    """
    refuse_jobs(1 if jobs is None else jobs)
    devices = gpus()
    if not devices:
        yield [Slot(env, "CPU", ()) for env in (_shares(jobs) if jobs and jobs > 1 else [{}])]
        return
    _refuse_more(jobs or 1, devices)
    with ExitStack() as stack:
        LOCKS.mkdir(parents=True, exist_ok=True)
        files = {device: stack.enter_context(_open(device)) for device in devices}
        free = _free(files, jobs or 1, jobs or len(devices))
        if len(free) < (jobs or 1):
            held = ", ".join(f"{device} by {_read(files[device])}" for device in devices if device not in free)
            raise VitloraError(
                f"--jobs: {len(free)} of {len(devices)} GPUs are free, and {jobs or 1} is asked for; taken: {held}. "
                "Wait for it, or take fewer"
            )
        for device in free:
            files[device].truncate(0)
            files[device].write(f"{who} (process {os.getpid()})")
            files[device].flush()
        yield [Slot({"CUDA_VISIBLE_DEVICES": each}, f"GPU {each}", (files[each].fileno(),)) for each in free]


def _open(device: str) -> IO[str]:
    return (LOCKS / f"{re.sub(r'[^A-Za-z0-9]', '-', device)}.lock").open("a+", encoding="utf-8")


def _free(files: Mapping[str, IO[str]], fewest: int, most: int) -> list[str]:
    """Lock what is free; what the children of a killed runner hold is free soon."""
    deadline = time.monotonic() + lock.LOCK_WAIT_S
    free: list[str] = []
    while True:
        for device, file in files.items():
            if len(free) < most and device not in free and lock.locked(file.fileno()):
                free.append(device)
        if len(free) >= fewest or time.monotonic() > deadline:
            return [device for device in files if device in free]
        time.sleep(0.1)


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "another runner"


def refuse_jobs(jobs: int) -> None:
    """Refuse to run fewer than one at once.

    Raises:
        VitloraError: It is fewer.
    """
    if jobs < 1:
        raise VitloraError(f"--jobs: got {jobs}; the rule: at least 1")


def _refuse_more(jobs: int, devices: Sequence[str]) -> None:
    if jobs > len(devices):
        raise VitloraError(
            f"--jobs: got {jobs}; the rule: one GPU each, and there are {len(devices)}: {','.join(devices)}"
        )


def _shares(jobs: int) -> list[dict[str, str]]:
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))
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
