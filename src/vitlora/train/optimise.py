"""One optimiser step: forward, backward, unscaling, clipping, update; on a GPU captured once and replayed.

Nothing in it waits for the device: a step whose gradients are no numbers changes no weight, by a flag that lies on the
device too, and what the step found is read while the next one runs. Captured as CUDA graphs, the thousands of kernels
of a step are one launch; launching them one by one takes longer than computing a batch of 32.
"""

import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from vitlora.model.batches import Batch
from vitlora.processes.peers import ALONE, Peers
from vitlora.train.halves import Halves, add_gradients
from vitlora.train.shares import Span
from vitlora.train.small_tensors import settle

WARM_UP = 3  # runs before a capture: kernels are compiled and libraries choose theirs, which a capture can't hold
ALIGNED = 64  # numbers, a multiple of what a GPU reads at once
AHEAD = 2  # steps that the device may be behind


class Observer(Protocol):
    """Looks at each update, on the device.

    Attributes:
        tensors: What it changes.
    """

    tensors: Sequence[Tensor]

    def __call__(self, sound: Tensor) -> None:
        """Look at weights and gradients after an update; ``sound``, bool (), says whether it changed any weight."""


@dataclass(frozen=True)
class Outcome:
    """What a step found.

    Attributes:
        number: Of the step, as the caller counts.
        loss: Mean over the step's images.
        norm: Of the gradients before they were clipped; not finite where the step changed no weight.
        asked: Whether any of the processes that share the step was asked to stop.
    """

    number: int
    loss: float
    norm: float
    asked: bool = False


class OptimiserStep:
    """Runs optimiser steps; the same mathematics captured or not.

    Args:
        model: To be trained; its mode is set to train.
        optimizer: Of torch, over the trained parameters.
        scaler: Of the loss; it does nothing where it is not enabled.
        loss: Gives the mean loss of a batch whose tensors are on the device.
        max_norm: Longer gradients are cut to this length.
        observer: Called after each update; None for nobody.
        capture: Whether to capture the step; only on a GPU.
        peers: The processes that share each step. Their gradients are added up in one row of numbers, between what is
            captured of a micro-batch and of the update.
        draw: Called with step and place before each micro-batch but a single process's first one.
        autocast: What a GPU's autocast, within ``loss``, computes in; None where there is none.

    Attributes:
        capture: Whether it is captured, or will be; what can't be, is said and runs kernel by kernel.
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        loss: Callable[[Batch], Tensor],
        max_norm: float,
        observer: Observer | None,
        capture: bool,
        peers: Peers = ALONE,
        draw: Callable[[int, Span], None] | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.optimizer, self.scaler, self.loss, self.max_norm = model, optimizer, scaler, loss, max_norm
        self.observer, self.capture, self.peers, self.draw = observer, capture, peers, draw
        self.trained: list[Tensor] = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.halves = Halves(model, self.trained, autocast)
        device = self.trained[0].device
        self.on_gpu = device.type == "cuda"
        self.around: Callable[[], AbstractContextManager[Any]] = settle(model, device) if capture else nullcontext
        self.skips_by_itself = self.on_gpu and bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        self.row: Tensor | None = None  # of all that is added up over the processes
        if peers.count > 1:
            self.row, self.grads, self.total, self.asked = _in_a_row(self.trained)
        else:
            self.grads = [torch.zeros_like(weight) for weight in self.trained]
            self.total = torch.zeros((), device=device)
        self.rows = list(range(len(self.trained)))  # of those that are trained now
        self.share = torch.ones((), device=device)
        self.found = torch.zeros(3 if peers.count > 1 else 2, device=device)
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        if capture and not self.skips_by_itself:
            self._refuse(f"{type(optimizer).__name__} waits for the device")
        self.graphs: dict[Any, tuple[Any, list[Tensor]]] = {}
        self.pool: Any = None  # of memory: the graphs run one after the other
        self._pending: deque[tuple[int, Any, Tensor]] = deque()
        self._slots = [torch.zeros_like(self.found, device="cpu", pin_memory=self.on_gpu) for _ in range(AHEAD + 1)]
        self._share, self._in_training = 1.0, False
        self._reached_known = False  # which weights have gradients, in any of the processes

    def __call__(
        self,
        number: int,
        batches: Sequence[Batch],
        spans: Sequence[Span] = (),
        whole: int = 0,
        asked: Sequence[int] = (),
    ) -> None:
        """Begin a step.

        Args:
            number: Of the step, for its ``Outcome``.
            batches: Its micro-batches, on the device.
            spans: Their places in the step, where other processes share it.
            whole: Images of all of them then.
            asked: Signals by which this process was asked to stop, of which all are to hear; looked at late.
        """
        if not (self._in_training and self.model.training):  # a loaded base is not, whatever stands around it
            self.model.train()  # walks over all modules
            self._in_training = True
        images = whole or sum(len(batch["labels"]) for batch in batches)
        for at, batch in enumerate(batches):
            if self.draw and (at or spans):
                self.draw(number, spans[at] if spans else Span(0, images, at, 0, images))
            if (share := len(batch["labels"]) / images) != self._share:
                self._share = share
                self.share.fill_(share)
            self._run(self._accumulate, *batch.values(), names=tuple(batch))
        if self.row is not None:
            if asked:
                self.asked.fill_(1.0)
            self.peers.add_up(self.row)
            self._share_reached()
        if self.skips_by_itself:
            for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
                rate.fill_(group["lr"])
        self._run(self._update)
        if self.capture:
            torch.autograd.graph.increment_version(self.trained)  # a replay does not, and merged weights depend on it
        self._note(number)

    def train_only(self, weights: Collection[int] | None) -> None:
        """Train some of the weights alone from the next step on: the others keep their values, and no moments of them.

        Args:
            weights: Their ids; None for all. Where that is a change, the step is captured anew.
        """
        rows = [row for row, weight in enumerate(self.trained) if weights is None or id(weight) in weights]
        if rows == self.rows:
            return
        self.rows, self.pool, self._reached_known = rows, None, False
        self.graphs.clear()
        for weight in self.trained:
            weight.grad = None  # the optimiser passes over such

    def finished(self, behind: int) -> Iterator[Outcome]:
        """Yield what the steps found that are not among the last ``behind``, in order, each once; waits for them."""
        while len(self._pending) > behind:
            number, event, slot = self._pending.popleft()
            if event is not None:
                event.synchronize()
            loss, norm, *asked = slot.tolist()
            yield Outcome(number, loss, norm, any(asked))

    def _note(self, number: int) -> None:
        slot = self._slots[number % len(self._slots)]
        slot.copy_(self.found, non_blocking=True)
        event = None
        if self.on_gpu:
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # loaders need the core
            event.record()
        self._pending.append((number, event, slot))

    def _share_reached(self) -> None:
        """Give gradients to weights that other processes reach: one that has had no image has none."""
        if self._reached_known:
            return
        self._reached_known = True
        reached = torch.tensor([int(weight.grad is not None) for weight in self.trained])
        self.peers.add_up(reached)
        for weight, grad, count in zip(self.trained, self.grads, reached.tolist(), strict=True):
            if count:
                weight.grad = grad

    # --- the step ---

    def _accumulate(self, *values: Tensor, names: tuple[str, ...]) -> None:
        """Add a micro-batch's gradients and loss to the step's."""
        with self.halves.instead():
            with self.around():
                loss = self.loss(dict(zip(names, values, strict=True))) * self.share
            leaves = [self.halves.leaves[row] for row in self.rows]
            found = torch.autograd.grad(self.scaler.scale(loss), leaves, allow_unused=True)
        reached = {row: grad for row, grad in zip(self.rows, found, strict=True) if grad is not None}
        for row in reached:
            self.trained[row].grad = self.grads[row]
        add_gradients([self.grads[row] for row in reached], list(reached.values()))
        self.total += loss.detach()

    @torch.no_grad()
    def _update(self) -> None:
        """Change the weights by the gradients, unless these are no numbers, and begin anew."""
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.max_norm)
        sound = norm.isfinite()
        if self.skips_by_itself:
            self.optimizer.found_inf = (~sound).float()  # type: ignore[attr-defined]  # its kernels read it
            with self._rates_on_the_device():
                self.optimizer.step()
        elif sound:
            self.optimizer.step()
        self.scaler.update()
        if self.observer:
            self.observer(sound)
        if self.row is None:
            torch.stack([self.total, norm], out=self.found)
            torch._foreach_zero_([self.total, *self.grads])
        else:
            torch.stack([self.total, norm, self.asked], out=self.found)
            self.row.zero_()

    # --- captured ---

    def _refuse(self, why: str) -> None:
        self.capture, self.around = False, nullcontext
        tqdm.write(f"note: the step is not captured as a CUDA graph: {why}")

    def _run(self, work: Callable[..., None], *inputs: Tensor, **names: Any) -> None:
        """Replay ``work`` on the inputs, captured at first sight of their shapes; or run it as it is."""
        key = (work.__name__, *((value.shape, value.stride()) for value in inputs))
        if self.capture and key not in self.graphs:
            try:
                self.graphs[key] = self._captured(work, inputs, names)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                _leave_capture()
                self._refuse(_cause(error))
        if not self.capture:
            work(*inputs, **names)
            return
        graph, places = self.graphs[key]
        for place, value in zip(places, inputs, strict=True):
            place.copy_(value, non_blocking=True)
        graph.replay()

    def _captured(self, work: Callable[..., None], inputs: Sequence[Tensor], names: Any) -> tuple[Any, list[Tensor]]:
        places = [torch.empty_like(value).copy_(value) for value in inputs]  # as they lie in memory, channels last
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with self._undone():
            stream.wait_stream(torch.cuda.current_stream())
            try:
                with torch.cuda.stream(stream):
                    for run in range(WARM_UP):
                        # What would wait for the device fails here, where it can be mended, not within the capture.
                        _let_it_wait(run == 0)
                        work(*places, **names)
            finally:  # or what has begun would still change what is put back
                torch.cuda.current_stream().wait_stream(stream)
            _let_it_wait(True)
            # Other threads, such as one that loads, may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                work(*places, **names)
        self.pool = graph.pool()
        return graph, places

    @contextmanager
    def _rates_on_the_device(self) -> Iterator[None]:
        """Let the optimiser read its learning rates there: the schedule sets numbers, which a capture would keep."""
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group.update(lr=rate, capturable=True)
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Put back, afterwards, all that a step changes; what it made, begins with zeros."""
        before = {id(tensor): tensor.detach().clone() for tensor in self._changed()}
        scale, random = self.scaler.state_dict(), torch.cuda.get_rng_state()
        try:
            yield
        finally:
            _let_it_wait(True)
            with torch.no_grad():
                for tensor in self._changed():
                    tensor.copy_(before[id(tensor)]) if id(tensor) in before else tensor.zero_()
            self.scaler.load_state_dict(scale)
            torch.cuda.set_rng_state(random)

    def _changed(self) -> Iterator[Tensor]:
        added = [*self.grads, self.total] if self.row is None else [self.row]
        yield from (*self.trained, *added, *self.model.buffers(), self.found)
        yield from self.observer.tensors if self.observer else ()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _in_a_row(weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Return a row of zeros, and what lies in it: each weight's gradient, as its weight lies; a loss; a flag."""
    assert all(weight.dtype == torch.float32 for weight in weights), "trained weights are float32"
    starts, end = [], 0
    for weight in weights:
        starts.append(end)
        end += -(-weight.numel() // ALIGNED) * ALIGNED
    row = torch.zeros(end + 2, device=weights[0].device)
    grads = [
        torch.as_strided(row, weight.shape, torch.zeros_like(weight).stride(), start)
        for weight, start in zip(weights, starts, strict=True)
    ]
    return row, grads, row[end], row[end + 1]


def _leave_capture() -> None:
    """Give the device's random numbers a state of their own: after a capture that failed theirs stays in it."""
    device = torch.cuda.current_device()
    fresh = torch.Generator(f"cuda:{device}")
    fresh.set_state(torch.cuda.get_rng_state())
    torch.cuda.default_generators[device].graphsafe_set_state(fresh.graphsafe_get_state())


def _cause(error: BaseException) -> str:
    """Return what went wrong first: leaving a capture in which something failed fails, too."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error) or type(error).__name__).splitlines()[0]


def _let_it_wait(may: bool) -> None:
    """Set whether the processor may wait for the GPU; if not, whatever would do so raises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("default" if may else "error")
