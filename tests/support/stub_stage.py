"""A stage without torch whose processes do as they are told: `stub_stage.py COUNT NUMBER=WAY ...`.

Each process writes `NUMBER.pid` first. One that is told nothing waits for ever.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from vitlora.core.entry import Places, run
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.processes.launch import AgainError, LostError, launched, own_place
from vitlora.safety.guard import guarded


def main() -> None:
    count, *told = sys.argv[1:]
    with guarded("stub", Places({}, {}, {})) as paths:
        if not launched("stub", int(count), paths):
            act(dict(each.split("=") for each in told))


def act(ways: dict[str, str]) -> None:
    place = own_place()
    number = place.number if place else 0
    print(f"process {number} prints")
    print(f"process {number} warns", file=sys.stderr)
    way = ways.get(str(number), ways.get("all", "wait"))
    if way == "stops":
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
    Path("pid").with_name(f"{number}.new").write_text(str(os.getpid()))
    Path(f"{number}.new").rename(f"{number}.pid")
    if way.startswith("after"):
        _, other, way = way.split("-")
        while not Path(f"{other}.pid").exists():
            time.sleep(0.01)
    do(way, place.at_most if place else None)


def do(way: str, at_most: int | None) -> None:
    if way == "mistake":
        raise VitloraError("train.seed: got 7; the rule: another")
    if way == "bug":
        raise ValueError("a bug of ours")
    if way == "lost":
        raise LostError("the processes have lost each other")
    if way == "again" and at_most is None:
        raise AgainError(5)
    if way.isdigit():
        os.kill(os.getpid(), int(way))
    if way == "exits":
        sys.exit(7)
    if way == "child":
        child = subprocess.Popen(["sleep", "1000"])
        Path("child.pid").write_text(str(child.pid))
    while way in ("wait", "stops", "child"):
        time.sleep(0.05)


def stop(number: int, frame: object) -> None:
    raise StoppedError(number, "stopped after step 3, which is kept")


if __name__ == "__main__":
    run(main)
