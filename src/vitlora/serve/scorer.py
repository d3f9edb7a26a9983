"""Squares of many requests scored together: a batch begins as soon as the model is free, with all that wait for it."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitlora.predict.classifier import BATCH
from vitlora.predict.pictures import Square
from vitlora.serve.metrics import Metrics
from vitlora.serve.models import Served


class _Waiting(NamedTuple):
    model: Served
    square: Square
    answer: asyncio.Future[NDArray[np.float32]]


class Scorer:
    """One thread that scores, and the queue before it. Nobody waits for a batch to fill up: under load it does.

    Attributes:
        metrics: Where sizes and seconds of batches are noted; set before the first square.
    """

    metrics: Metrics

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "score")
        self._queue: deque[_Waiting] = deque()
        self._work: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many squares wait."""
        return len(self._queue)

    def score(self, model: Served, square: Square) -> asyncio.Future[NDArray[np.float32]]:
        """Return what will be the probabilities, float32 (C,), of a square uint8 (3, size, size)."""
        answer: asyncio.Future[NDArray[np.float32]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(model, square, answer))
        if self._work is None:
            self._work = asyncio.create_task(self._empty())
        return answer

    async def _empty(self) -> None:
        """Score until nothing waits."""
        try:
            while batch := self._next():
                await self._score(batch)
        finally:
            self._work = None

    def _next(self) -> list[_Waiting]:
        """Take the oldest square and those of the same model behind it; what nobody waits for any more is left out."""
        kept = [each for each in self._queue if not each.answer.done()]
        batch = [each for each in kept if each.model is kept[0].model][:BATCH]
        taken = {id(each) for each in batch}
        self._queue = deque(each for each in kept if id(each) not in taken)
        return batch

    async def _score(self, batch: list[_Waiting]) -> None:
        model, begun = batch[0].model, perf_counter()
        squares = [each.square for each in batch]
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, _stacked, model, squares)
        except Exception as error:
            for each in batch:
                if not each.answer.done():
                    each.answer.set_exception(error)
            return
        self.metrics.score.labels(model.name).observe(perf_counter() - begun)
        self.metrics.batches.labels(model.name).observe(len(batch))
        for each, row in zip(batch, rows, strict=True):
            if not each.answer.done():
                each.answer.set_result(row)

    def close(self) -> None:
        """End the thread after the batch that it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _stacked(model: Served, squares: list[Square]) -> NDArray[np.float32]:
    return model.score(np.stack(squares))
