"""Lets others watch whatever a transformers Trainer does, also one that is made out of sight."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback

from peers.meter import Meter


def watch(meter: Meter) -> None:
    """Measure every Trainer that trains in this process from now on."""
    patch(lambda trainer: Watch(meter, trainer))


@contextmanager
def watched(make: Callable[[Any], TrainerCallback]) -> Iterator[None]:
    """Give every Trainer that trains meanwhile one more callback."""
    undo = patch(make)
    try:
        yield
    finally:
        undo()


def patch(make: Callable[[Any], TrainerCallback]) -> Callable[[], None]:
    """Let ``Trainer.train`` add a callback first; return what undoes it."""
    original = Trainer.train

    def train(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        trainer.add_callback(make(trainer))
        return original(trainer, *args, **kwargs)

    def undo() -> None:
        Trainer.train = original

    Trainer.train = train
    return undo


class Watch(TrainerCallback):
    """Tells a meter what a Trainer is at."""

    def __init__(self, meter: Meter, trainer: Any) -> None:
        self.meter, self.trainer = meter, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the loss scale, and note what the Trainer was told in the end."""
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        self.meter.scale = scaler.get_scale if scaler is not None else None
        self.meter.notes.update(
            batch=f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}",
            workers=args.dataloader_num_workers,
            precision="fp16" if args.fp16 else "bf16" if args.bf16 else "fp32",
        )
        way = getattr(self.trainer, "way", None)  # ours says which of its steps it could take
        if way is not None:
            self.meter.notes.update(step=way.step, step_note=way.note, captured=way.captured)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Comes before the loader's iterator is made."""
        self.meter.epoch_begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Comes after an optimiser step."""
        self.meter.step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Comes before validation; our loader is none of torch's, but says the same of itself."""
        timing = getattr(self.trainer, "timing", None)
        if timing is not None and self.meter.phase == "train":
            self.meter.loaded(timing.images, timing.waited_s)
            self.meter.notes.update(workers_at_work=timing.feed.loader.at_work)
        self.meter.epoch_end()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Comes after validation, before saving."""
        self.meter.val_end()
