"""Loader processes: any number, started in any way, give the same batches; their end, or the main one's, is noticed."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import loading
import psutil
import pytest
import torch

from vitlora.core.errors import VitloraError
from vitlora.model.batches import Feed
from vitlora.train.dataset import CHUNK, TrainImages, TrainLoader
from vitlora.train.workers import Ring

CPU = torch.device("cpu")
COUNT = 2 * CHUNK + 9
EPOCHS = 3
PATIENCE_S = 20  # for what takes half a second


@pytest.fixture(autouse=True)
def _looks_more_often(monkeypatch):
    monkeypatch.setattr("vitlora.train.workers.CHECK_S", 0.02)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return loading.packed(tmp_path_factory.mktemp("packed"), COUNT)


@pytest.fixture
def loaders():
    """Make loaders, which end with the test."""
    made = []

    def make(images, batch_size=70, workers=2, **options):
        made.append(TrainLoader(images, 3, batch_size, EPOCHS, workers, pinned=False, **options))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def batches_of(loader):
    """Return the batches of all epochs, all of them kept."""
    feed, seen = Feed(loader, CPU), []
    for epoch in range(EPOCHS):
        feed.set_epoch(epoch)
        seen += list(feed)
    return seen


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert one["pixel_values"].stride() == other["pixel_values"].stride()
        assert torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize("batch_size", [1, 32, 70, COUNT - 1, 1000])
def test_any_number_of_workers_gives_the_same_batches(images, loaders, batch_size):
    alone = batches_of(loaders(images, batch_size, 0))
    for workers in (1, 2, 5):
        assert_same(batches_of(loaders(images, batch_size, workers)), alone)


@pytest.mark.parametrize("way", ["spawn", pytest.param("forkserver", marks=pytest.mark.faults)])
def test_processes_that_are_not_forked_give_the_same_batches(images, loaders, monkeypatch, way):
    monkeypatch.setattr("vitlora.train.workers.get_context", partial(multiprocessing.get_context, way))
    assert_same(batches_of(loaders(images)), batches_of(loaders(images, workers=0)))


def test_a_pass_takes_what_was_begun_for_it_and_begins_anew_where_it_was_not(images, loaders):
    def begun(loader):
        return [process.pid for process in loader._ring.processes]

    def a_pass(loader, epoch, skipped):
        loader.epoch, loader.skipped = epoch, skipped
        return list(Feed(loader, CPU))

    loader, alone = loaders(images), loaders(images, workers=0)
    loader.start(1, 70)
    first = begun(loader)
    for epoch, skipped, same in [(1, 1, True), (2, 0, True), (2, 0, False), (0, 1, False)]:
        assert_same(a_pass(loader, epoch, skipped), a_pass(alone, epoch, skipped))
        assert (begun(loader) == first) == same


def test_a_pass_that_was_left_is_begun_anew(images, loaders):
    loader = loaders(images, 10)
    whole = batches_of(loaders(images, 10, 0))
    for taken in (0, 1, 5):
        feed = iter(Feed(loader, CPU))
        assert_same([next(feed) for _ in range(taken)], whole[:taken])
        del feed
    assert_same(batches_of(loader), whole)


# How many work


def number_slot(numbers, squares):
    squares[:, 0, 0, 0] = torch.tensor(list(numbers), dtype=torch.uint8)


def single(count):
    return ([number] for number in range(count))


def ring(load=number_slot, slots=4, workers=3, at_first=1):
    return Ring(load, partial(single, 30), (slots, 1, 2, 2, 3), workers, at_first, pinned=False)


def wait_until_filled(ring, slot):
    assert ring._shared.ready[slot].acquire(timeout=PATIENCE_S)
    ring._shared.ready[slot].release()


def test_no_more_work_than_are_needed():
    found = ring()
    for number in range(30):
        wait_until_filled(found, number % 4)
        assert next(found)[0, 0, 0, 0] == number
        found.give_back(None)
    assert found.at_work == 1


def test_whenever_a_chunk_is_late_one_more_works(monkeypatch):
    gate, open_to = multiprocessing.Condition(), multiprocessing.Value("i", 0)

    def load(numbers, squares):
        with gate:
            gate.wait_for(lambda: open_to.value > numbers[0])
        number_slot(numbers, squares)

    def open_for_the_next(ring):  # the ring looks after its workers whenever it has to wait
        with gate:
            open_to.value = ring._taken + 1
            gate.notify_all()

    monkeypatch.setattr(Ring, "_check", open_for_the_next)
    found, at_work = ring(load), []
    for number in range(8):
        assert next(found)[0, 0, 0, 0] == number
        found.give_back(None)
        at_work.append(found.at_work)
    assert at_work == [1, 1, 1, 1, 2, 3, 3, 3]  # the first round is late anyway


def test_all_work_from_the_start_unless_told_otherwise(images, loaders):
    at_work = []
    for options in ({}, {"at_first": 1}, {"at_first": 3}):
        loader = loaders(images, workers=4, **options)
        loader.start()
        at_work.append(loader.at_work)
    assert at_work == [4, 1, 3]
    assert loaders(images, workers=0).at_work == 0


# What is not given back isn't filled anew


class Copied:
    """Stands for the end of a copy on a device."""

    def __init__(self):
        self.over, self.waited = False, False

    def query(self):
        return self.over

    def synchronize(self):
        self.over = self.waited = True


def test_a_slot_waits_for_the_end_of_the_copy_out_of_it():
    found, copies = ring(), [Copied() for _ in range(3)]
    for copy in copies:
        next(found)
        found.give_back(copy)
    wait_until_filled(found, 3)
    copies[1].over = True  # a later copy doesn't free an earlier slot
    assert next(found)[0, 0, 0, 0] == 3
    found.give_back(Copied())
    assert found._shared.free.acquire(block=False) is False
    assert next(found)[0, 0, 0, 0] == 4  # waits for the oldest, and then for no other than it has to
    assert copies[0].waited
    assert [int(next(found)[0, 0, 0, 0]) for _ in range(3)] == [5, 6, 7]


# Ends


class Unlucky(TrainImages):
    """Pictures of which the workers can't load one."""

    def load(self, numbers, squares=None):
        if multiprocessing.parent_process() and COUNT + 7 in numbers:
            self.fate()
        return super().load(numbers, squares)


def kill(number):
    os.kill(os.getpid(), number)


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (partial(kill, signal.SIGKILL), r"exit code -9 \(Killed.*\)"),
        (partial(kill, signal.SIGTERM), r"exit code -15 \(Terminated.*\)"),
        (
            partial(kill, signal.SIGRTMIN + 6 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR1),
            r"exit code -\d+ \(.*\)",
        ),
        (partial(os._exit, 3), "exit code 3,"),
        (partial(os._exit, 0), "exit code 0,"),
        (partial(sys.exit, 5), "exit code 5,"),
    ],
    ids=["kill", "term", "a nameless signal", "exit 3", "exit 0", "sys.exit"],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_that_ends_is_named_and_what_is_advised_helps(tmp_path, loaders, workers, fate, said):
    pictures = loading.packed(tmp_path, COUNT, Unlucky)
    pictures.fate = fate
    with pytest.raises(VitloraError, match=rf"{said}.*train.dataloader_num_workers \(got {workers}; 0 loads"):
        batches_of(loaders(pictures, workers=workers))
    assert len(batches_of(loaders(pictures, workers=0))) == EPOCHS * 2


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (VitloraError("a.jpg: no; make it anew"), VitloraError, "^a.jpg: no; make it anew$"),
        (OSError(errno.EMFILE, "Too many open files"), OSError, "^.Errno 24. Too many open files$"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.bin"), FileNotFoundError, "No such file: 'x.bin'$"),
        (MemoryError("no room"), MemoryError, "^no room$"),
        (ValueError("a mistake of ours"), RuntimeError, r"(?s)in a loader worker: .*in fail\n.*a mistake of ours"),
        (ZeroDivisionError(), RuntimeError, "(?s)in a loader worker: .*ZeroDivisionError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_worker_raises_is_raised(tmp_path, loaders, error, kind, said):
    pictures = loading.packed(tmp_path, COUNT, Unlucky)
    pictures.fate = partial(fail, error)
    with pytest.raises(kind, match=said):
        batches_of(loaders(pictures))


def test_control_c_is_left_to_the_main_process():
    both = multiprocessing.Barrier(3)

    def load(numbers, squares):
        if numbers[0] < 2:
            both.wait(PATIENCE_S)
        number_slot(numbers, squares)

    found = ring(load, workers=2, at_first=2)
    both.wait(PATIENCE_S)
    for process in found.processes:
        os.kill(process.pid, signal.SIGINT)
    for number in range(30):
        assert next(found)[0, 0, 0, 0] == number
        found.give_back(None)


def mapped():
    """Return what this process maps of shared memory."""
    maps = Path("/proc/self/maps")
    return [line for line in maps.read_text().splitlines() if "/torch_" in line] if maps.exists() else []


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closed_early_no_process_and_no_memory_is_left(images, taken):
    before = mapped()
    loader = TrainLoader(images, 3, 10, EPOCHS, 3, pinned=False)
    loader.start()
    processes, feed = loader._ring.processes, iter(Feed(loader, CPU))
    for _ in range(taken):
        next(feed)
    assert len(mapped()) > len(before) or not Path("/proc/self/maps").exists()
    loader.close()
    loader.close()
    assert all(process.exitcode == -signal.SIGKILL for process in processes)
    del feed, loader
    assert mapped() == before


def test_forgotten_no_process_is_left(images):
    loader = TrainLoader(images, 3, 10, EPOCHS, 3, pinned=False)
    assert len(list(loader)) == -(-COUNT // 10)
    processes = loader._ring.processes
    del loader
    assert not any(process.is_alive() for process in processes)


MAIN = """
import multiprocessing, signal, sys
from functools import partial
from pathlib import Path
import loading
from vitlora.train.dataset import TrainLoader
import vitlora.train.workers as workers

if __name__ == "__main__":
    workers.get_context = partial(multiprocessing.get_context, sys.argv[2])
    loader = TrainLoader(loading.packed(Path(sys.argv[1]), 500), 3, 10, 3, 3, pinned=False, at_first=2)
    batches = iter(loader)
    next(batches)
    print(*(process.pid for process in loader._ring.processes), flush=True)
    signal.pause()
"""


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("fork", signal.SIGKILL),
        *(pytest.param(way, signal.SIGKILL, marks=pytest.mark.faults) for way in ("spawn", "forkserver")),
        pytest.param("fork", signal.SIGTERM, marks=pytest.mark.faults),
    ],
)
def test_workers_end_with_the_main_process(tmp_path, way, number):
    """Two wait for a free slot, one for its turn."""
    script = tmp_path / "main.py"
    script.write_text(MAIN, encoding="utf-8")
    paths = os.pathsep.join(str(Path(module.__file__).parent) for module in (loading, sys.modules["vitlora"]))
    environment = {**os.environ, "PYTHONPATH": paths.replace("/vitlora", "")}
    command = [sys.executable, script, tmp_path / "packed", way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as main:
        workers = [psutil.Process(int(pid)) for pid in main.stdout.readline().split()]
        main.send_signal(number)
    assert len(workers) == 3
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive
