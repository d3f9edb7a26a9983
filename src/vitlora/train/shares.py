"""Which images of an optimiser step are whose, where several processes share it, and in which micro-batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A micro-batch of one process, and its place among those that a single process would have.

    Attributes:
        start, stop: Of its images, in the epoch's order.
        unit: Which of a single process's micro-batches of this step they are in.
        first: Place of the first one in that.
        images: Of that.
    """

    start: int
    stop: int
    unit: int
    first: int
    images: int


@dataclass(frozen=True)
class Share:
    """A process's part of each step: images that follow one another, as many as others have to one.

    Attributes:
        number: Of the process, from 0.
        count: Of the processes.
        step: Images of a step, where there are as many.
        group: Images that are mixed among themselves, and stay together.
    """

    number: int
    count: int
    step: int
    group: int = 1

    def most(self) -> int:
        """Return how many images this process has in a step at most."""
        begin, end = self.of(self.step)
        return end - begin

    def of(self, images: int) -> tuple[int, int]:
        """Return where this process's part of so many images begins and ends; it may be empty."""
        groups = -(-images // self.group)
        begin, end = (groups * part // self.count * self.group for part in (self.number, self.number + 1))
        return min(begin, images), min(end, images)

    def spans(self, first: int, images: int, batch_size: int) -> Iterator[Span]:
        """Yield this process's micro-batches of an epoch.

        None crosses the border of two that a single process would have: what is drawn at random is a function of these.

        Args:
            first: Image of the epoch's order at which a step begins, the first one wanted.
            images: Of the epoch.
            batch_size: Images of a micro-batch of a single process.
        """
        for step in range(first, images, self.step):
            count = min(self.step, images - step)
            begin, end = self.of(count)
            while begin < end:
                unit, place = divmod(begin, batch_size)
                stop = min(end, begin - place + batch_size)
                yield Span(step + begin, step + stop, unit, place, min(batch_size, count - unit * batch_size))
                begin = stop
