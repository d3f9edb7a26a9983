"""Processes that decode, for many requests at once: each picture goes to the next that is free."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from vitlora.images.formats import BadImageError
from vitlora.images.sandbox import Isolated
from vitlora.predict.classifier import Item, Make
from vitlora.predict.pictures import Square
from vitlora.serve.metrics import Metrics
from vitlora.serve.squares import ready


class Decoders:
    """Some processes, each with limits of memory and time; one that a picture takes down is replaced.

    Args:
        count: Number of processes.
        limit_s: Seconds for one picture.
        metrics: Where the seconds are noted.
    """

    def __init__(self, count: int, limit_s: float, metrics: Metrics) -> None:
        self._limit_s, self._metrics = limit_s, metrics
        self._threads = ThreadPoolExecutor(count, "decode")  # each waits for one process
        self._free: SimpleQueue[Isolated] = SimpleQueue()
        self._all: list[Isolated] = []
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        process = Isolated(1, self._limit_s)
        self._all.append(process)
        self._free.put(process)

    def wait_until_ready(self) -> None:
        """Return when every process has started."""
        list(self._threads.map(partial(self._call, ready), range(len(self._all))))

    async def decode(self, make: Make, item: Item) -> Square:
        """Return the square of a picture, uint8 (3, size, size).

        Raises:
            BadImageError: It can't be decoded, or took its process down.
        """
        found: Square = await asyncio.get_running_loop().run_in_executor(self._threads, self._call, make, item)
        return found

    def _call(self, function: Any, item: Any) -> Any:
        process = self._free.get()
        begun = perf_counter()
        try:
            try:
                found = process.call(function, item)
            except OSError:  # it was ended while it had no work, so no picture is to blame
                process = self._renewed(process)
                found = process.call(function, item)
        except BadImageError:
            raise
        except BaseException:  # a mistake of ours may leave answers of this picture for the next one
            process = self._renewed(process)
            raise
        finally:
            self._free.put(process)
        self._metrics.decode.observe(perf_counter() - begun)
        return found

    def _renewed(self, process: Isolated) -> Isolated:
        process.__exit__()
        self._all.remove(process)
        fresh = Isolated(1, self._limit_s)
        self._all.append(fresh)
        return fresh

    def close(self) -> None:
        """End all processes; pictures that are still at it are given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.__exit__()
