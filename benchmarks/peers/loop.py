"""A plain PyTorch loop with PEFT's modules, fed by our data: autocast, GradScaler, fused AdamW, no Trainer."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from peers.job import Job
from peers.meter import Meter
from peers.recipe import adapted
from vitlora.core.params import load_params, read_document
from vitlora.model.base import read_normalisation
from vitlora.model.batches import Batch, Feed, feed_squares
from vitlora.storage.labels import read_labels
from vitlora.storage.squares import load_split
from vitlora.train.dataset import TrainImages, TrainLoader
from vitlora.train.params import TrainStage

LOG_EVERY = 10
Pair = tuple[Tensor, Tensor]


def run(job: Job, meter: Meter) -> None:
    """Train PEFT's model on our packed pictures."""
    known = read_labels(Path(job.labels))
    normalisation = read_normalisation(Path(job.base))
    model = adapted(job.base, known.class_names, 16, 0.1).to(device())
    images = our_train_images(job)
    batch, accumulation = job.steps
    on_gpu = torch.cuda.is_available()
    train = Feed(TrainLoader(images, 0, batch, job.all_epochs, job.loaders, on_gpu), device())
    val = feed_squares(load_split(Path(job.val)), batch, device())

    def normalised(found: Batch) -> Pair:
        return normalisation(found["pixel_values"]), found["labels"]

    def an_epoch(epoch: int) -> Iterator[Pair]:
        train.set_epoch(epoch)
        yield from map(normalised, train)
        waited_s, seen = train.take()
        meter.loaded(seen, waited_s)

    meter.notes.update(batch=f"{batch} x {accumulation}", workers=job.loaders)
    fit(
        model,
        lambda pixels: model(pixel_values=pixels).logits,
        an_epoch,
        len(train),
        lambda: map(normalised, val),
        accumulation,
        job.all_epochs,
        meter,
    )


def our_train_images(job: Job) -> TrainImages:
    """Open our packed pictures as the train stage does, with what the parameter file says of them."""
    known = read_labels(Path(job.labels))
    stage = load_params(TrainStage, read_document(Path(job.params)), Path(job.params))
    law = (known.image_size, known.interpolation, stage.augment)
    return TrainImages(Path(job.train), *law, 0, stage.train.decoder)


def device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fit(
    model: torch.nn.Module,
    logits_of: Callable[[Tensor], Tensor],
    train: Callable[[int], Iterable[Pair]],
    batches: int,
    val: Callable[[], Iterable[Pair]],
    accumulation: int,
    epochs: int,
    meter: Meter,
) -> None:
    """Train and validate, epoch by epoch, as a plain loop does.

    Args:
        model: On its device; what requires a gradient is trained.
        logits_of: Its logits from normalised pixels.
        train: Batches of an epoch, pixels and labels on the device.
        batches: How many ``train`` gives.
        val: Batches to validate on.
        accumulation: Batches a step.
        epochs: How many.
        meter: Is told what happens.
    """
    half = torch.cuda.is_available()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3, weight_decay=0.0, fused=half)
    scaler = torch.amp.GradScaler(device().type, enabled=half)
    meter.scale = scaler.get_scale if half else None
    all_steps = epochs * -(-batches // accumulation)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / all_steps))
    for epoch in range(epochs):
        meter.epoch_begin()
        model.train()
        losses = torch.zeros((), device=device())
        for number, (pixels, labels) in enumerate(train(epoch)):
            with torch.autocast(device().type, torch.float16, enabled=half):
                loss = functional.cross_entropy(logits_of(pixels), labels)
            group = number - number % accumulation
            scaler.scale(loss / min(accumulation, batches - group)).backward()
            losses += loss.detach()
            if number + 1 in (group + accumulation, batches):
                _step(optimizer, scaler, trained)
                decay.step()
                meter.step()
                if meter.steps % LOG_EVERY == 0:
                    print(f"step {meter.steps}: loss {losses.item() / (number + 1):.4f}", flush=True)
        meter.epoch_end()
        print(f"epoch {epoch}: val loss, accuracy {_validate(model, logits_of, val(), half)}", flush=True)
        meter.val_end()


def _step(optimizer: Any, scaler: Any, trained: list[Tensor]) -> None:
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)


@torch.inference_mode()
def _validate(model: Any, logits_of: Any, batches: Iterable[Pair], half: bool) -> tuple[float, float]:
    model.eval()
    totals = torch.zeros(3, device=device())
    for pixels, labels in batches:
        with torch.autocast(device().type, torch.float16, enabled=half):
            logits = logits_of(pixels)
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum")
        totals += torch.stack([loss, (logits.argmax(1) == labels).sum(), loss.new_tensor(len(labels))])
    loss, right, count = totals.tolist()
    return round(loss / count, 4), round(right / count, 4)
