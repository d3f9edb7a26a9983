"""What the routes share: from pictures to probabilities, without decoding or scoring in the loop that answers."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vitlora.core.text import printable
from vitlora.images.formats import BadImageError
from vitlora.predict.classifier import Item
from vitlora.predict.pictures import Square, Unreadable, opened
from vitlora.serve.bodies import Given
from vitlora.serve.decoders import Decoders
from vitlora.serve.limits import Limits, Refusal, Room
from vitlora.serve.metrics import Metrics
from vitlora.serve.models import Served
from vitlora.serve.scorer import Scorer

FETCHERS = 8  # addresses read at one time, 20 MB each at most
# Who asks can't set the option; the one who runs the server can.
OPTION, OPERATOR = "--allow-private reads it all the same", "the server's operator can allow it with --allow-private"
Row = NDArray[np.float32]
Done = TypeVar("Done")


class Service:
    """Models, decoders and the queue between them.

    Args:
        models: By name; the first is the one for requests that name none.
        limits: On requests.
        decoders: Number of processes.
        allow_private: Read addresses inside your own network too.
        keys: Who sends one of these may ask; empty for everybody.
    """

    def __init__(
        self,
        models: Mapping[str, Served],
        limits: Limits,
        decoders: int,
        allow_private: bool = False,
        keys: Sequence[str] = (),
    ) -> None:
        self.models, self.limits, self.keys = models, limits, keys
        self._allow_private = allow_private
        self.room = Room(limits.requests)
        self.scorer = Scorer()
        self.metrics = self.scorer.metrics = Metrics(self.scorer.__len__, lambda: self.room.taken)
        self._decoders = Decoders(decoders, min(20.0, limits.work_s), self.metrics)
        self._fetchers = ThreadPoolExecutor(FETCHERS, "fetch")
        self._fetches = asyncio.Semaphore(FETCHERS)

    def __enter__(self) -> Self:
        try:
            for model in self.models.values():
                model.warm_up()
            self._decoders.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._decoders.close()
        self.scorer.close()

    def model(self, name: str | None) -> Served:
        """Return a model by its name; the first where none is named.

        Raises:
            Refusal: There is none of that name.
        """
        found = self.models.get(name) if name is not None else next(iter(self.models.values()))
        if found is None:
            names = ", ".join(self.models)
            raise Refusal(404, f"the model {str(name)[:80]}", f"one of {names}", "GET /models lists them")
        return found

    async def shares(self, model: Served, pictures: Sequence[Given]) -> list[Row | Unreadable]:
        """Return for each picture its probabilities, float32 (C,), or why it could not be read.

        Raises:
            Refusal: There are too many requests at work, or it took too long.
        """
        with self.room:
            return await self.in_time(asyncio.gather(*(self._share(model, each) for each in pictures)))

    async def in_time(self, work: Awaitable[Done]) -> Done:
        """Wait for some work, but not for ever.

        Raises:
            Refusal: It took too long, and is given up.
        """
        try:
            return await asyncio.wait_for(work, self.limits.work_s)
        except TimeoutError:
            raise Refusal(
                503,
                f"a request not done within {self.limits.work_s:g} s",
                "that much time for fetching, waiting, decoding and scoring",
                "send fewer pictures, or send it again when fewer others do",
            ) from None

    async def _share(self, model: Served, given: Given) -> Row | Unreadable:
        square = await self.square(model, given)
        self.metrics.pictures.labels(model.name, "unreadable" if isinstance(square, Unreadable) else "read").inc()
        return square if isinstance(square, Unreadable) else await self.scorer.score(model, square)

    async def square(self, model: Served, given: Given) -> Square | Unreadable:
        """Return the square that the model sees of a picture, uint8 (3, size, size), or why it could not be read."""
        if given.url is None:
            return await self._decoded(model, given.name, cast(Item, given.item))
        async with self._fetches:  # what is fetched stays bounded until it is decoded
            item = await asyncio.get_running_loop().run_in_executor(
                self._fetchers, opened, given.url, self._allow_private
            )
            return await self._decoded(model, given.name, item)

    async def _decoded(self, model: Served, name: str, item: Item) -> Square | Unreadable:
        if isinstance(item, Unreadable):
            return Unreadable(name, printable(item.reason.replace(OPTION, OPERATOR)))
        try:
            return await self._decoders.decode(model.make, item)
        except BadImageError as error:
            return Unreadable(name, printable(str(error)))
