"""What the processes of a stage tell each other: sums of gradients, scores of batches, and decisions.

All of them call the same methods in the same order. Sums have a fixed order too, so the same number of processes gives
the same bits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from vitlora.processes.launch import LostError, Place, own_place

TIMEOUT = timedelta(minutes=10)  # of a process that hangs; one that ends is noticed by the launcher at once


class Peers:
    """The processes that share a stage's work, as one of them sees them; they meet when they first have to talk.

    Args:
        place: Of this process; None: it is alone.

    Attributes:
        number: Of this process, from 0; that one writes.
        count: Of the processes.
        at_most: Images of a micro-batch, where more have turned out too many.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.place = place
        self.number, self.count = (place.number, place.count) if place else (0, 1)
        self.at_most = place.at_most if place else None
        self._met = place is None

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.number == 0

    def meet(self) -> None:
        """Wait for the others, once."""
        if self._met:
            return
        assert self.place
        self._met = True
        with _lost():
            # A file, not a port: nobody else can take it, and there is none to choose.
            store = dist.FileStore(str(self.place.meeting), self.count)  # type: ignore[attr-defined]
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT, rank=self.number, world_size=self.count, store=store)

    def add_up(self, row: Tensor) -> None:
        """Put the sum over all processes in place of a tensor; on a GPU nobody waits for it."""
        if self.count > 1:
            self.meet()
            with _lost():
                dist.all_reduce(row)

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set in any process; waits for all of them."""
        found = torch.tensor([int(flag)])
        self.add_up(found)
        return bool(found.item())

    def first(self, number: float) -> float:
        """Return the number that the first process has."""
        found = torch.tensor([number if self.writes else 0.0], dtype=torch.float64)
        self.add_up(found)
        return float(found.item())

    def agree(self, number: int) -> bool:
        """Return whether all have the same whole number."""
        return not self.differing(torch.tensor([number]))

    def differing(self, numbers: Tensor) -> list[int]:
        """Return the places at which any process has another number than the first one; int64 (N,), on the CPU."""
        first = numbers.clone() if self.writes else torch.zeros_like(numbers)
        self.add_up(first)
        others = (first != numbers).long()
        self.add_up(others)
        return others.nonzero().flatten().tolist()

    def batches(self, images: int, batch_size: int) -> range:
        """Return this process's of a split's batches: each has whole ones, in turn."""
        return range(self.number, -(-images // batch_size), self.count)

    def in_order(self, rows: Tensor, images: int, batch_size: int) -> Tensor:
        """Put together what each process has found for its ``batches``.

        Args:
            rows: This process's, (own images, ...), on the CPU.
            images: Of the split.
            batch_size: Images at once.

        Returns:
            All rows in the split's order, to the bit, in every process.
        """
        if self.count == 1:
            return rows
        whole = rows.new_zeros(images, *rows.shape[1:])
        parts = [whole[at * batch_size : (at + 1) * batch_size] for at in self.batches(images, batch_size)]
        for part, own in zip(parts, torch.split(rows, [len(part) for part in parts]), strict=True):
            part.copy_(own)
        # As whole numbers, since -0.0 + 0.0 is another zero.
        self.add_up(whole.view(torch.int32) if whole.dtype == torch.float32 else whole)
        return whole


def peers_here() -> Peers:
    """Return the processes that this one belongs to."""
    return Peers(own_place())


ALONE = Peers()


@contextmanager
def _lost() -> Iterator[None]:
    """Tell what another process's end makes of a call from all else that may go wrong."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostError(f"the processes have lost each other: {str(error).splitlines()[0]}") from error
