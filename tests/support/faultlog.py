"""Counts the tests marked ``survives`` and writes them as a table: what was tried, how often, and what survived.

Every try is a test of its own, and survives if it passes; nothing is typed in by hand. ``make faults`` asks for it all.
"""

import json
import os
import platform
import subprocess
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """\
Every try starts from a copy of one finished tiny project (36 pictures, a random two-layer ViT) that has lost all
outputs, cached objects and lock entries from the stage under test on. After the fault one plain `dvc repro STAGE` must
give the bytes of the undisturbed run; every eighth try runs the whole pipeline to its end and compares everything.
"""


def pytest_addoption(parser):
    parser.addoption("--faults-json", type=Path, help="write the table of faults there, and print it")


def pytest_configure(config):
    config.addinivalue_line("markers", "survives(fault, what): a try that counts in the table of faults")
    config.pluginmanager.register(Tally(config), "tally")


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("survives"):
            item.user_properties.append(("survives", list(mark.args)))


@pytest.fixture
def note(record_property):
    """Record where a fault landed, to be counted in the table."""
    return lambda text: record_property("landed", text)


class Tally:
    """Reports of all workers, by fault."""

    def __init__(self, config):
        self.path = None if hasattr(config, "workerinput") else config.getoption("--faults-json")
        self.before = read(self.path) if self.path else []
        self.here = (
            {"commit": commit(), "device": device(), "date": time.strftime("%Y-%m-%d")} if self.path else {}
        )  # a machine with a GPU may have no dvc to ask for its version
        self.tests, self.seconds, self.failed, self.skipped, self.landed = {}, Counter(), set(), set(), {}

    def pytest_runtest_logreport(self, report):
        for value in (value for name, value in report.user_properties if name == "survives"):
            self.seconds[tuple(value)] += report.duration
            if report.when == "teardown":  # before that it may still fail
                self.tests.setdefault(tuple(value), set()).add(report.nodeid)
        if report.failed:
            self.failed.add(report.nodeid)
        if report.skipped:
            self.skipped.add(report.nodeid)
        if report.when == "call":
            self.landed[report.nodeid] = [value for name, value in report.user_properties if name == "landed"]
        if report.when == "teardown" and self.path and self.tests:
            self.write()  # every time: a run that is cut short leaves what it tried

    def rows(self):
        return [{**self.row(key), **self.here} for key in sorted(self.tests)]

    def row(self, key):
        tests = self.tests[key] - self.skipped
        landed = Counter(text for test in sorted(tests) for text in self.landed.get(test, []))
        return {
            "fault": key[0],
            "what": key[1],
            "tries": len(tests),
            "survived": len(tests - self.failed),
            "seconds": round(self.seconds[key], 1),
            **({"landed": dict(sorted(landed.items()))} if landed else {}),
            **({"skipped": len(self.tests[key] & self.skipped)} if self.tests[key] & self.skipped else {}),
        }

    def write(self):
        rows = merged(self.before, self.rows())
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        self.path.with_suffix(".part").write_text(text, encoding="utf-8")
        self.path.with_suffix(".part").rename(self.path)
        return rows

    def pytest_terminal_summary(self, terminalreporter):
        if not self.path or not self.tests:
            return
        rows = self.write()
        terminalreporter.write_line("\n" + HEAD)
        for line in table(rows):
            terminalreporter.write_line(line)


def read(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def merged(old, rows):
    """Keep the rows of faults that were not tried this time; each says its own commit and date."""
    by_name = {(row["fault"], row["what"]): row for row in [*old, *rows]}
    return [by_name[key] for key in sorted(by_name)]


def table(rows):
    yield f"{'fault':6} {'tries':>5} {'survived':>8} {'seconds':>8}  what"
    for row in rows:
        yield f"{row['fault']:6} {row['tries']:5} {row['survived']:8} {row['seconds']:8.0f}  {row['what']}"


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def device():
    python, dvc = platform.python_version(), version("dvc")
    return f"{os.cpu_count()} cores {processor()}, {platform.system()}, Python {python}, dvc {dvc}"


def processor():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
