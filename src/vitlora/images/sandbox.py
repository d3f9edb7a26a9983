"""Untrusted files are decoded in processes of their own: one that hangs, crashes or swells costs its file only."""

import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import c_longlong
from itertools import count, islice
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from typing import Any, Self, TypeVar

from vitlora.images.formats import BadImageError

# More than any picture within containers.MAX_PIXELS takes; and with the 50 MB a worker starts with, less than 600 MB.
MEMORY = 540_000_000  # bytes
LIMIT_S = 20.0  # a picture of the largest size takes 2 s; the rest is for a slow or crowded machine
FLUSH_S = 0.05  # answers wait so long for others: a message each would cost some percent of the time
SPAWN = get_context("spawn")  # forking a process that has threads, as numpy's, can hang
STATUS = Path("/proc/self/status")
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Isolated:
    """Processes that work off items; one that a file takes down is replaced.

    Args:
        workers: Number of processes.
        limit_s: Seconds of wall time for one item.
    """

    def __init__(self, workers: int = 1, limit_s: float = LIMIT_S) -> None:
        self.children = [_Child(limit_s) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.stop()

    def call(self, function: Callable[[Item], Answer], item: Item) -> Answer:
        """Return what ``function`` gives for one item, or raise the ``BadImageError`` in its place."""
        (answer,) = self.map(function, (item,))
        if isinstance(answer, BadImageError):
            raise answer
        return answer

    def map(
        self, function: Callable[[Item], Answer], items: Iterable[Item], chunk: int = 1
    ) -> Iterator[Answer | BadImageError]:
        """Yield what ``function`` gives for every item, in order. One map at a time.

        Args:
            function: Goes to each process once, so it must pickle; a partial may bring what all items need.
            items: Read only as far as the processes have got, a chunk each.
            chunk: Items sent at a time.

        Yields:
            The answer, or the ``BadImageError`` in its place: raised by ``function``; `timeout` past the limit;
            `bomb` when it took more memory than ``MEMORY`` or the system killed the process, as it does for memory;
            `corrupt` when the process crashed.

        Raises:
            RuntimeError: ``function`` raised anything else, or its process could not start: a mistake of ours.
        """
        numbered = enumerate(items)
        early: dict[int, Any] = {}
        for child in self.children:
            child.function = function
        for due in count():
            while due not in early:
                for child in self.children:
                    child.give(() if child.todo else tuple(islice(numbered, chunk)))
                busy: dict[object, _Child] = {child.connection: child for child in self.children if child.todo}
                if not busy:
                    return
                for ready in wait([child.connection for child in busy.values()]):
                    early.update(busy[ready].answers())
            yield early.pop(due)


class _Child:
    """One process and the items that it has been given."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.function: object = None
        self.todo: list[tuple[int, Any]] = []
        self.begun = SPAWN.RawValue("q")  # of the items sent last, which one it is at; shared, since the dead can't say
        self.start()

    def start(self) -> None:
        """Begin a process that has no work yet."""
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(self.limit_s, theirs, self.begun), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is the end of the file here
        self.known: object = None  # the function that it has
        self.answered = 0  # of the items sent last

    def give(self, numbered: Sequence[tuple[int, Any]]) -> None:
        """Hand it numbered items; none is no message."""
        if numbered:
            self.todo, self.answered, self.begun.value = list(numbered), 0, 0
            self.connection.send((None if self.known is self.function else self.function, [i for _, i in numbered]))
            self.known = self.function

    def answers(self) -> list[tuple[int, Any]]:
        """Wait for some answers; of a dead process it is what it died of, and another process takes the rest."""
        try:
            answers = self.connection.recv()
        except (EOFError, OSError):  # the latter in the middle of a message
            return [self._replace()]
        for answer in answers:
            if isinstance(answer, _Mistake):
                raise RuntimeError(f"in a worker process: {answer.text}")
        places = [place for place, _ in self.todo[: len(answers)]]
        del self.todo[: len(answers)]
        self.answered += len(answers)
        return list(zip(places, answers, strict=True))

    def _replace(self) -> tuple[int, BadImageError]:
        cause = self._cause_of_death()
        place, _ = self.todo.pop(self.begun.value - self.answered)
        rest, self.todo = self.todo, []
        self.connection.close()
        self.start()
        self.give(rest)
        return place, cause

    def _cause_of_death(self) -> BadImageError:
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            raise RuntimeError(f"a worker process ended with exit code {code}")
        name = signal.Signals(-code).name
        if name == "SIGALRM":
            return BadImageError("timeout", f"not decoded within {self.limit_s:g} s")
        if name == "SIGKILL":
            return BadImageError("bomb", "the system killed its decoder, most likely for the memory it took")
        return BadImageError("corrupt", f"its decoder crashed ({name})")

    def stop(self) -> None:
        """End it at once, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Mistake:
    """An exception that is no file's fault, as text."""

    def __init__(self, text: str) -> None:
        self.text = text


def _serve(limit_s: float, connection: Connection, begun: c_longlong) -> None:
    """Answer until the other side is gone; the alarm's default action ends the process, even in C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            given, items = connection.recv()
        except EOFError:
            return
        if function is None:
            _limit()  # not before: the function has brought the imports that it needs
        function = given or function
        assert function
        answers, sent = [], monotonic()
        for begun.value, item in enumerate(items):
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            answers.append(_call(function, item))
            signal.setitimer(signal.ITIMER_REAL, 0)
            if monotonic() > sent + FLUSH_S:
                connection.send(answers)
                answers, sent = [], monotonic()
        if answers:
            connection.send(answers)


def _call(function: Callable[[Any], Any], item: object) -> object:
    try:
        return function(item)
    except BadImageError as error:
        return error
    except MemoryError:
        return BadImageError("bomb", f"takes more than {MEMORY // 1_000_000} MB of memory to decode")
    except Exception:
        return _Mistake(traceback.format_exc())


def _limit() -> None:
    """Bound the memory that this process may still take, leave no core file, and drop what decoders print.

    Data, not address space: libraries map gigabytes that are never touched, more of them the more cores there are.
    Only Linux enforces the bound, and only there is it set.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff has a line for every damaged row
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if STATUS.exists():
        used = next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmData"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = 1024 * used + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))
