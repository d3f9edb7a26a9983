"""Processes that load chunks of images into a ring of shared memory, from which the main process takes them in order.

Only the pixels pass between them, in that memory: no pickles, no sockets, no copy by a thread of the main process.
"""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import get_context  # the usual one, but tensors reach processes that aren't forked too

from vitlora.core.errors import VitloraError

CHECK_S = 0.5  # between two looks at whether the others are still there
Load = Callable[[Sequence[int], Tensor], object]
Chunks = Callable[[], Iterator[Sequence[int]]]


@dataclass(frozen=True)
class _Shared:
    """What all processes have in common: the slots, and who may go on."""

    slots: Tensor
    permits: Any  # semaphore: processes that may begin to work
    free: Any  # semaphore: chunks that may be begun; slots come free in order, so the next chunk's is among them
    ready: list[Any]  # a semaphore a slot: filled
    begun: Any  # number of chunks, with a lock
    errors: Any  # queue


class Ring:
    """Chunks of images in order, each in a slot of shared memory that is filled anew once it has been given back.

    All processes start at once, which is cheap before a model is loaded, but only some work. Whenever a chunk is late,
    one more does; so they become as many as are needed.

    Args:
        load: Loads the images of some numbers into uint8 (B, H, W, 3). Every process gets it: it must pickle.
        chunks: Gives the numbers of one chunk after another, the same in every process; likewise.
        shape: Slots, images of a slot at most, H, W, 3.
        workers: Processes at most.
        at_first: How many of them work from the start.
        pinned: Whether a GPU is to copy out of the slots while it computes.

    Attributes:
        at_work: Processes that work.
    """

    def __init__(
        self, load: Load, chunks: Chunks, shape: tuple[int, ...], workers: int, at_first: int, pinned: bool
    ) -> None:
        context, count = get_context(), shape[0]
        slots = torch.empty(shape, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self._shared = _Shared(
            slots,
            context.Semaphore(at_first),
            context.Semaphore(count),
            [context.Semaphore(0) for _ in range(count)],
            context.Value("q"),
            context.SimpleQueue(),
        )
        self.at_work, self._pinned = at_first, pinned
        self._slots: tuple[Tensor, ...] = slots.permute(0, 1, 4, 2, 3).unbind()
        self._taken = self._given_back = 0  # chunks
        self._held: deque[tuple[torch.cuda.Event, int]] = deque()  # ends of copies, and the chunks taken by then
        self.processes: list[BaseProcess] = []
        self._registered: list[Tensor] = []
        self.close = weakref.finalize(self, _end, self.processes, self._registered)
        for _ in range(workers):
            process = context.Process(target=_work, args=(load, chunks, self._shared), daemon=True)
            process.start()
            self.processes.append(process)

    def __iter__(self) -> "Ring":
        return self

    def __next__(self) -> Tensor:
        """Return the next chunk's slot, uint8 (images, 3, H, W), channels last; a small chunk fills its beginning.

        Raises:
            VitloraError: A process has ended.
            Exception: What a process raised.
        """
        if self._pinned and not self._taken:
            self._register()
        slot = self._taken % len(self._slots)
        if not self._shared.ready[slot].acquire(block=False):
            self._wait(slot)
        self._taken += 1
        return self._slots[slot]

    def give_back(self, copied: torch.cuda.Event | None) -> None:
        """Let the slots taken so far be filled anew, once an event has come; None: now."""
        if copied is None:
            self._free(self._taken)
        else:
            self._held.append((copied, self._taken))
        while self._held and self._held[0][0].query():  # type: ignore[no-untyped-call]
            self._free(self._held.popleft()[1])

    def _free(self, taken: int) -> None:
        for _ in range(self._given_back, taken):
            self._shared.free.release()
        self._given_back = taken

    def _wait(self, slot: int) -> None:
        ready = self._shared.ready[slot]
        while self._held:  # the device is behind, so there is time
            copied, taken = self._held.popleft()
            copied.synchronize()
            self._free(taken)
            if ready.acquire(block=False):
                return
        if self._taken >= len(self._slots) and self.at_work < len(self.processes):  # the first ones are always late
            self._shared.permits.release()
            self.at_work += 1
        self._check()
        while not ready.acquire(timeout=CHECK_S):
            self._check()

    def _check(self) -> None:
        if not self._shared.errors.empty():
            raise self._shared.errors.get()
        for code in (process.exitcode for process in self.processes):
            if code is not None:
                name = f" ({signal.strsignal(-code)})" if code < 0 else ""
                raise VitloraError(
                    f"a loader worker ended with exit code {code}{name}, though none may before the run does; lower "
                    f"train.dataloader_num_workers (got {len(self.processes)}; 0 loads without any), run again"
                )

    def _register(self) -> None:
        """Pin the slots, not before they are needed: processes are forked best while there is no CUDA context."""
        slots, cuda = self._shared.slots, torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(cuda.cudaHostRegister(slots.data_ptr(), slots.nbytes, 1)) == 0:  # 1: for all contexts
            self._registered.append(slots)
            return
        with suppress(RuntimeError):  # copies take longer, no more; but the next call would be blamed for the failure
            torch.zeros(1, device="cuda")


def _end(processes: list[BaseProcess], registered: list[Tensor]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    for slots in registered:
        with suppress(RuntimeError):  # what a device has died of is told elsewhere
            torch.cuda.synchronize()  # it may still copy
        torch.cuda.cudart().cudaHostUnregister(slots.data_ptr())  # type: ignore[no-untyped-call]


def _work(load: Load, chunks: Chunks, shared: _Shared) -> None:
    """Load chunks until the main process ends this one; it may not end before, so that whatever does is noticed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what a fork has inherited is not this process's to clean up
    watch = threading.Thread(target=_end_with_main, daemon=True)
    watch.start()
    try:
        shared.permits.acquire()
        for number, numbers in _own_share(chunks(), shared):
            slot = number % len(shared.ready)
            load(numbers, shared.slots[slot, : len(numbers)])
            shared.ready[slot].release()
    except (VitloraError, OSError, MemoryError) as error:
        shared.errors.put(error)
    except Exception:
        shared.errors.put(RuntimeError(f"in a loader worker: {traceback.format_exc()}"))
    watch.join()


def _own_share(chunks: Iterator[Sequence[int]], shared: _Shared) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield the chunks that no other process has begun, each as soon as its slot is free."""
    seen = 0
    while True:
        shared.free.acquire()
        with shared.begun.get_lock():
            number = shared.begun.value
            shared.begun.value += 1
        numbers = next(islice(chunks, number - seen, None), None)
        if numbers is None:
            return
        yield number, numbers
        seen = number + 1


def _end_with_main() -> None:
    """End this process soon after the main one.

    A process that is forked holds its elder siblings' pipes to the main one open, so these ask who their parent is; one
    that a server forks keeps its parent.
    """
    main, parent = multiprocessing.parent_process(), os.getppid()
    while main and main.is_alive() and os.getppid() == parent:
        main.join(CHECK_S)
    os._exit(128 + signal.SIGTERM)
