"""Train: fit a LoRA adapter with the Hugging Face Trainer and keep the epoch that is best on val."""

import gc
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from transformers import TrainingArguments, set_seed

from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.core.files import sha256_file, significant, write_csv, write_json
from vitlora.core.params import read_document
from vitlora.core.text import counted
from vitlora.model.adapters import Adapted, add_adapter, head_modules, save_adapter
from vitlora.model.base import Normalisation, device_of_choice, load_base, read_normalisation
from vitlora.model.batches import feed_squares
from vitlora.model.four_bits import PACKAGE, is_in_four_bits, pack
from vitlora.model.methods import described, ranks
from vitlora.model.mixture import Expert, is_mixture, mean_scalings
from vitlora.model.params import Lora, Merge, XLora
from vitlora.model.seen import SEEN, pictures_met, write_seen
from vitlora.model.timm_bases import libraries
from vitlora.processes.launch import AgainError
from vitlora.processes.peers import ALONE, Peers, peers_here
from vitlora.storage.labels import Labels, read_labels
from vitlora.storage.manifest import digest
from vitlora.storage.squares import load_split
from vitlora.train.advice import advice
from vitlora.train.averaging import Soup, average_of
from vitlora.train.callbacks import Patience, TimeLimit, mean_loss
from vitlora.train.checkpoints import Checkpoints, check_room, trainable
from vitlora.train.dataset import TrainImages, TrainLoader
from vitlora.train.distillation import Distillation, load_teacher
from vitlora.train.experts import find_experts
from vitlora.train.losses import ClassLoss, class_loss
from vitlora.train.params import Augment, Train
from vitlora.train.rates import factors, first_alone
from vitlora.train.reporting import Live, prepare
from vitlora.train.shares import Share
from vitlora.train.step import blocks, install, micro_batch, precision
from vitlora.train.trainer import Extras, ImageTrainer

CHECKPOINTS = Path(".work/checkpoints")
EPOCH_COLUMNS = ("epoch", "step", "train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy")
VERSIONS = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow", "simplejpeg")
ROOT = Path(__file__).parents[3]
# Of the number of processes what counts is how many there are in truth, beside the device.
SPEED_ONLY = ("train.dataloader_num_workers", "train.save_steps", "train.report_to", "train.num_processes")
CHECKPOINT_FLOATS = 4  # for each trained one: itself, two moments, and the best epoch's


@dataclass(frozen=True)
class Finished:
    """A trained model and its normalisation, and checkpoints to be removed once its adapter is known to be sound."""

    model: Any
    normalisation: Normalisation
    checkpoints: Checkpoints


def train(
    augment: Augment,
    lora: Lora,
    train: Train,
    base: Path,
    train_images: Path,
    val: Path,
    labels: Path,
    adapter: Path,
    metrics: Path,
    plots: Path,
) -> Finished | None:
    """Fit an adapter, save the best epoch's weights, and record how it went.

    Args:
        augment: Law of the random crops and flips.
        lora: PEFT's settings.
        train: The Trainer's settings.
        base: Base model folder.
        train_images: Training pictures, packed.
        val: Validation squares; they pick the epoch.
        labels: Class names, image size and filter.
        adapter: Gets the adapter with labels and preprocessing beside it.
        metrics: Gets counts, device, precision, and the best epoch's validation scores.
        plots: Gets ``epochs.csv``, ``steps.csv`` and ``ranks.csv``.

    Returns:
        What the adapter was saved from; the checkpoints are still there, for whoever finds it broken. None in all but
        the first of several processes, which write nothing.

    Raises:
        VitloraError: The parameters don't fit the base model or the data.
    """
    peers = peers_here()
    ready, checkpoints = _fit(augment, lora, train, base, train_images, val, labels, peers)
    trainer = ready.trainer
    steps, epochs = curves(trainer.state.log_history)
    best = _best(epochs, trainer.state.log_history, train)
    if train.load_best_model_at_end:
        trainer.restore_best()
    best |= _soup(trainer)
    captured = not peers.any(not trainer.optimise.capture)
    if not peers.writes:
        return None
    if trainer.optimise.capture and not captured:
        print("note: the step of another process was not captured as a CUDA graph, and this one waited for it")
    _tell_kept(best.get("soup", [best["best_epoch"]]), train)
    method = described(lora, ready.adapted.adapted_modules)
    save_adapter(trainer.model, adapter, base, ready.labels, trainer.normalisation, method, best)
    write_seen(
        adapter, ready.images.packed.texts("sha256"), trainer.val.digests, (expert.folder for expert in ready.experts)
    )
    if trainer.distillation and trainer.distillation.pictures != pictures_met(adapter):
        (adapter / SEEN).unlink(missing_ok=True)  # the teacher has met others, or doesn't say which
    write_csv(plots / "steps.csv", ("step", "epoch", "loss", "learning_rate", "grad_norm"), steps)
    write_csv(plots / "epochs.csv", EPOCH_COLUMNS, epochs)
    write_csv(plots / "ranks.csv", ("block", "layer", "rank"), ranks(trainer.model))
    write_json(metrics, {**_about(ready, train), "cuda_graph": captured, **best, **_scalings(ready)})
    if said := advice(best, trainer.val.labels.tolist(), train.num_train_epochs):
        print(said)
    return Finished(trainer.model, trainer.normalisation, checkpoints)


def _fit(
    augment: Augment,
    lora: Lora,
    train: Train,
    base: Path,
    train_images: Path,
    val: Path,
    labels: Path,
    peers: Peers,
) -> tuple["Ready", Checkpoints]:
    """Train, in smaller and smaller micro-batches where memory does not hold them; a step's images stay the same."""
    at_most = peers.at_most
    while True:
        ready = get_ready(augment, lora, train, base, train_images, val, labels, at_most=at_most, peers=peers)
        trainer = ready.trainer
        _announce(ready, train)
        if peers.writes:
            trainer.add_callback(Live(images_of_step(train)))
        if train.early_stopping_patience:
            begun = max(train.head_only_epochs, train.swa_epoch_start or 0)
            trainer.add_callback(Patience(train.early_stopping_patience, begun + 1))
        # Two checkpoints, the one being written, and the adapter.
        floats = CHECKPOINT_FLOATS + bool(trainer.average) + min(train.soup_size or 0, train.num_train_epochs)
        weights = 4 * ready.adapted.trainable
        check_room(weights * (3 * floats + 1), "train")
        data = {"train": train_images, "val": val, "labels": labels, "base": base}
        data |= {f"adapter {expert.name}": expert.folder for expert in ready.experts}
        if trainer.distillation:
            data["teacher"] = trainer.distillation.folder
        checkpoints = Checkpoints(CHECKPOINTS, _decides(ready, augment, lora, train, data), weights * floats)
        try:
            trainer.fit(checkpoints, train.save_steps)
            return ready, checkpoints
        except torch.cuda.OutOfMemoryError:
            at_most = _smaller(trainer.loader.most, augment, train)
        if not at_most:
            raise VitloraError(_out_of_memory(ready))
        if peers.count > 1:
            raise AgainError(at_most)  # none of the others has failed
        print(f"note: out of GPU memory; once more, with at most {counted(at_most, 'image')} at once")
        del ready, trainer
        gc.collect()
        torch.cuda.empty_cache()


def _smaller(images: int, augment: Augment, train: Train) -> int:
    """Return how many images at most a micro-batch has next; 0 where fewer can't be: what is mixed stays together."""
    if augment.mixes:
        return train.per_device_train_batch_size if images > train.per_device_train_batch_size else 0
    return images // 2


@dataclass(frozen=True)
class Ready:
    """All that training needs: the adapted model and what is known of it, its labels, pictures, and the Trainer."""

    method: str
    adapted: Adapted
    labels: Labels
    trainer: "ImageTrainer"
    experts: list[Expert]
    images: TrainImages


def get_ready(
    augment: Augment,
    lora: Lora,
    train: Train,
    base: Path,
    train_images: Path,
    val: Path,
    labels: Path,
    *,
    at_most: int | None = None,
    peers: Peers = ALONE,
) -> Ready:
    """Load model and data and set up the Trainer; nothing runs yet.

    Arguments and errors as in ``train``; ``at_most`` is how many images a micro-batch may have, ``peers`` the processes
    that share each step.
    """
    prepare(train.report_to)
    known = read_labels(labels)
    experts = find_experts(lora.own.adapters, base, peers) if isinstance(lora.own, XLora | Merge) else []
    normalisation = read_normalisation(base)
    law = (known.image_size, known.interpolation, augment, train.seed, train.decoder, normalisation.mean_bytes)
    images = TrainImages(train_images, *law, train.sampling)
    if not len(images):
        raise VitloraError(f"{train_images}: no image to train on")
    steps = train.num_train_epochs * -(-len(images) // images_of_step(train))
    _check_warmup(train, steps)
    teacher = load_teacher(train, known, peers)
    loader = _begin_to_load(
        images, train, peers
    )  # its processes start before there is a model, and load while it is made
    set_seed(train.seed)  # the head starts out random
    model, fresh = load_base(base, known.class_names, known.image_size)
    if train.load_in_4bit:
        pack(model, [name for each in lora.modules_to_save for name in head_modules(model, each)], known.image_size)
    adapted = add_adapter(model, fresh, lora, steps, experts)
    moved = adapted.model.to(device_of_choice())
    _check_shared(moved, peers)
    way = install(moved, train, precision(train), normalisation, known.image_size)
    micro = micro_batch(train, model.config, known.image_size, at_most, peers)
    loader.split(micro[0])
    extras = _extras(moved, fresh, train, class_loss(train, images.labels, known.class_names), teacher, peers)
    trainer = ImageTrainer(
        moved, training_arguments(train, micro, peers), loader, load_split(val), normalisation, way, extras
    )
    return Ready(lora.method, adapted, known, trainer, experts, images)


def _extras(
    model: Any,
    fresh: list[str],
    train: Train,
    own_loss: ClassLoss | None,
    teacher: Distillation | None,
    peers: Peers,
) -> Extras:
    if teacher:
        teacher.model.to(device_of_choice())
    return Extras(
        class_loss=own_loss,
        factors=factors(model, blocks(model), fresh, train),
        average=average_of(trainable(model), train),
        soup=Soup(train.soup_size, train.metric_for_best_model) if train.soup_size else None,
        distillation=teacher,
        alone=frozenset(first_alone(model, fresh, train)),
        alone_epochs=train.head_only_epochs,
        time_limit=TimeLimit(train.max_minutes, peers) if train.max_minutes else None,
        peers=peers,
    )


def _begin_to_load(images: TrainImages, train: Train, peers: Peers) -> TrainLoader:
    """Start the workers, if there are any: a few at first, where nobody has said how many."""
    workers, on_gpu = loader_workers(train, peers.count), torch.cuda.is_available()
    at_first = max(1, workers // 4) if train.dataloader_num_workers is None else None
    batch, epochs = images_of_step(train), train.num_train_epochs
    together = train.per_device_train_batch_size  # whether or not micro-batches are joined
    group = together if images.augment.mixes else 1
    share = Share(peers.number, peers.count, batch, group) if peers.count > 1 else None
    loader = TrainLoader(images, train.seed, batch, epochs, workers, on_gpu, at_first, together, share)
    if workers:
        loader.start()
    return loader


def _check_shared(model: Any, peers: Peers) -> None:
    """Refuse what several processes can't do as one does."""
    if peers.count == 1:
        return
    norms = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if norms:
        raise VitloraError(
            f"train.num_processes: got {peers.count}; the rule: 1 with {model.config.model_type}, whose batch norms "
            "look at all images of a batch together"
        )
    if torch.cuda.is_available() and not peers.agree(crc32(torch.cuda.get_device_name().encode())):
        raise VitloraError(
            f"train.num_processes: got {peers.count}, of which one has a {torch.cuda.get_device_name()} and others "
            "another GPU; the rule: GPUs of one kind, since others round in other ways; choose them by "
            "CUDA_VISIBLE_DEVICES"
        )


def images_of_step(train: Train) -> int:
    """Return how many images one optimiser step takes, where there are as many."""
    return train.per_device_train_batch_size * train.gradient_accumulation_steps


def _check_warmup(train: Train, steps: int) -> None:
    if train.lr_scheduler_type != "constant" and max(1, steps) <= train.warmup_steps:
        raise VitloraError(
            f"train.warmup_steps: got {train.warmup_steps:g}, and the run has {counted(steps, 'step')} "
            f"({counted(train.num_train_epochs, 'epoch')} of {steps // train.num_train_epochs}); the rule: fewer, or a "
            "fraction of all steps below 1"
        )


def curves(history: list[dict[str, Any]]) -> tuple[list[list[object]], list[list[object]]]:
    """Arrange the Trainer's log as rows, leaving out every timing.

    Returns:
        steps: step, epoch, loss (mean since the row before), learning rate, gradient norm;
        epochs: epoch, step, mean of the training losses logged in it (empty if none), val loss, val accuracy, val
            balanced accuracy.
    """
    logged = [entry for entry in history if "loss" in entry]
    steps: list[list[object]] = [
        [
            entry["step"],
            round(entry["epoch"], 4),
            significant(entry["loss"]),
            significant(entry["learning_rate"], 6),
            significant(entry.get("grad_norm"), 3),
        ]
        for entry in logged
    ]
    epochs: list[list[object]] = []
    for entry in (entry for entry in history if "eval_loss" in entry):
        epoch = round(entry["epoch"])
        losses = [significant(mean_loss(logged, epoch)), significant(entry["eval_loss"])]
        scores = [round(entry[f"eval_{name}"], 6) for name in ("accuracy", "balanced_accuracy")]
        epochs.append([epoch, entry["step"], *losses, *scores])
    return steps, epochs


def _announce(ready: Ready, train: Train) -> None:
    adapted, way, args = ready.adapted, ready.trainer.way, ready.trainer.args
    kinds = sorted({re.split(r"\.\d+\.", name)[-1] for name in adapted.adapted_modules})
    where = f" on {counted(len(adapted.adapted_modules), 'layer')} ({', '.join(kinds)})" if kinds else ""
    share = adapted.trainable / adapted.total
    print(f"{ready.method}{where}: {adapted.trainable:,} of {adapted.total:,} parameters are trained ({share:.2%})")
    if alone := train.head_only_epochs:
        print(f"the head alone in epoch{'s 1 to' * (alone > 1)} {alone}, then all")
    images, size = len(ready.images), images_of_step(train)
    if size > images:
        print(
            f"note: {counted(images, 'training image')} and steps of {size} (train.per_device_train_batch_size x "
            "gradient_accumulation_steps): each epoch is one step of all images; smaller steps train more often"
        )
    used = precision(train)
    wanted = "fp16" if train.fp16 else "bf16" if train.bf16 else "fp32"
    note = "" if used == wanted else f" ({wanted} needs a GPU; there is none)"
    why = f" (since {way.note})" if way.note else ""
    peers = ready.trainer.peers
    several = f"{peers.count} processes that share each step, " if peers.count > 1 else ""
    print(
        f"{used} on {_device()}{note}, {several}{way.step} step{', captured' * way.captured}{why}, "
        f"{args.per_device_train_batch_size} images x {args.gradient_accumulation_steps}, "
        f"{counted(args.dataloader_num_workers, 'loader worker')}, {train.decoder}"
    )


def training_arguments(train: Train, micro: tuple[int, int] | None = None, peers: Peers = ALONE) -> TrainingArguments:
    """Return the Trainer's arguments: ours under their own names, and what the pipeline itself fixes.

    Args:
        train: The section.
        micro: Images of a micro-batch and how many make a step, where they differ from the section's.
        peers: The processes that share each step; each has a part of that, and the first one alone reports.
    """
    ours = {
        "decoder",
        "num_processes",
        "step",
        "cuda_graph",
        "join_micro_batches",
        "early_stopping_patience",
        "metric_for_best_model",
        "head_learning_rate",
        "head_only_epochs",
        "load_in_4bit",
        "activation_checkpointing",
        "teacher",
        "distillation_alpha",
        "distillation_temperature",
        "layer_decay",
        "ema_decay",
        "swa_epoch_start",
        "soup_size",
        "max_minutes",
        "class_weights",
        "label_smoothing_factor",  # the Trainer's would be in val's loss too
        "focal_gamma",
        "logit_adjustment",
        "sampling",
    }
    ours |= {"save_steps"}  # the Trainer would take it for its own checkpoints
    given = {key: value for key, value in train if key not in ours}
    images, accumulated = micro or (train.per_device_train_batch_size, train.gradient_accumulation_steps)
    given |= {
        "fp16": precision(train) == "fp16",
        "bf16": precision(train) == "bf16",
        "per_device_train_batch_size": images,
        "gradient_accumulation_steps": accumulated,
        "dataloader_num_workers": loader_workers(train, peers.count),
        "report_to": train.report_to if peers.writes else [],
    }
    arguments = TrainingArguments(
        output_dir=str(CHECKPOINTS),
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model=f"eval_{train.metric_for_best_model}",
        greater_is_better=train.metric_for_best_model != "loss",
        remove_unused_columns=False,  # a batch is made of bytes, not of the data set's columns
        logging_nan_inf_filter=False,  # it shows a diverged run as loss 0.0, and waits for the GPU at every step
        use_cpu=not torch.cuda.is_available(),
        **given,
    )
    assert arguments.device is not None  # asking sets the number of GPUs
    arguments._n_gpu = min(arguments.n_gpu, 1)  # more would run in nn.DataParallel, slower and never twice the same
    return arguments


def loader_workers(train: Train, processes: int = 1) -> int:
    """Return how many processes decode: as the section says, or all cores but two beside a GPU and none beside a CPU.

    A CPU that trains is busy with the model; a worker would only take turns with it. Several GPUs share the cores.
    """
    if train.dataloader_num_workers is not None:
        return train.dataloader_num_workers
    return max(1, min(14, cores() // processes - 2)) if torch.cuda.is_available() else 0


def _decides(
    ready: Ready, augment: Augment, lora: Lora, train: Train, data: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Return all that the result depends on, which a checkpoint must share."""
    settings = {"augment": augment, "lora": lora, "train": train}
    values = {
        f"{name}.{key}": value for name, section in settings.items() for key, value in section.model_dump().items()
    }
    about, trainer, model = _about(ready, train), ready.trainer, ready.trainer.model
    packages = (*VERSIONS, *libraries(model.config.model_type), *is_in_four_bits(model) * [PACKAGE])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "parameters": {key: value for key, value in values.items() if key not in SPEED_ONLY},
        "data": {name: digest(path) for name, path in data.items()},
        "code": {str(path.relative_to(ROOT)): sha256_file(path) for path in _code()},
        "versions": {name: version(name) for name in packages},
        "device": {
            "device": device,
            "train.num_processes": trainer.peers.count,
            **{name: about[name] for name in ("precision", "step", "micro_batch")},
        },
    }


def _code() -> Iterator[Path]:
    """Yield the files whose edit makes DVC run train again; dvc.yaml alone says which these are."""
    for dep in read_document(ROOT / "dvc.yaml")["stages"]["train"]["deps"]:
        path = ROOT / dep
        if path.is_relative_to(ROOT / "src"):
            yield from sorted(path.rglob("*.py"))
        elif path.suffix == ".py":
            yield path


def _out_of_memory(ready: Ready) -> str:
    images = ready.trainer.loader.most
    total = torch.cuda.get_device_properties(0).total_memory
    mixed = ready.images.augment.mixes
    fewer = "halve train.per_device_train_batch_size, within which images are mixed; " if mixed else ""
    return (
        f"out of GPU memory ({total / 2**30:.0f} GiB) with {counted(images, 'image')} of {ready.labels.image_size} px "
        f"at once; {fewer}lower image.size_px, take a smaller base model, or make room on the GPU; nothing has changed"
    )


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _about(ready: Ready, train: Train) -> dict[str, object]:
    adapted, trainer = ready.adapted, ready.trainer
    return {
        "method": ready.method,
        "adapted_modules": len(adapted.adapted_modules),
        "target_modules": adapted.adapted_modules,
        "trainable_parameters": adapted.trainable,
        "total_parameters": adapted.total,
        "device": _device(),
        "precision": precision(train),
        "decoder": train.decoder,
        "step": trainer.way.step,
        "micro_batch": trainer.args.per_device_train_batch_size,
        "num_processes": trainer.peers.count,
        "skipped_fp16_steps": trainer.overflows,
    }


def _scalings(ready: Ready) -> dict[str, object]:
    """Return how much of each adapter a mixture's gate lets in on val: over all layers, and by layer if they differ."""
    trainer, layers = ready.trainer, ready.adapted.adapted_modules
    if not is_mixture(trainer.model):
        return {}
    batches = feed_squares(trainer.val, trainer.args.eval_batch_size, trainer.args.device)
    means = mean_scalings(trainer.model, (trainer.normalisation(batch["pixel_values"]) for batch in batches))
    names = [expert.name for expert in ready.experts]
    found: dict[str, object] = {"mean_scalings": dict(zip(names, _shares(means.mean(0)), strict=True))}
    if trainer.model.base_model.xlora_config.layerwise_scalings:
        rows = (dict(zip(names, _shares(row), strict=True)) for row in means)
        found["mean_scalings_by_layer"] = dict(zip(layers, rows, strict=True))
    return found


def _shares(row: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in row.tolist()]


def _soup(trainer: ImageTrainer) -> dict[str, Any]:
    """Make the soup, if one is asked for, and return what to record of it."""
    if not trainer.soup:
        return {}
    chosen, found = trainer.cook_soup()
    if not found:
        print(f"soup: epoch {chosen[0]} alone, which no other makes better on val")
        return {"soup": chosen}
    scores = {f"val_{name}": round(found[f"eval_{name}"], 6) for name in ("accuracy", "balanced_accuracy")}
    loss = significant(found["eval_loss"])
    said = f"val loss {loss:.4f}, val accuracy {scores['val_accuracy']:.4f}"
    print(f"soup: epochs {', '.join(map(str, chosen))}: {said}")
    return {"soup": chosen, "val_loss": loss, **scores}


def _tell_kept(epochs: list[int], train: Train) -> None:
    """Say so if what is kept, one epoch or a soup of several, is from before what was asked for had begun."""
    best = epochs[0]
    if max(epochs) <= train.head_only_epochs:
        print(f"note: only the head was trained: epoch {best}, the best on val, is from before all else is")
    if train.swa_epoch_start and best <= train.swa_epoch_start and len(epochs) == 1:
        print(f"note: epoch {best}, the best on val, is no mean of epochs; these begin with {train.swa_epoch_start}")


def _best(epochs: list[list[Any]], history: list[dict[str, Any]], train: Train) -> dict[str, Any]:
    """Pick the row that the Trainer restored: the first of equals, or the last epoch if it restores none.

    The log has the scores as they were compared; rows are rounded, so that epochs may look equal that are not.

    Raises:
        VitloraError: The loss of this epoch on val is no number.
    """
    best = epochs[-1]
    if train.load_best_model_at_end:
        sign = -1 if train.metric_for_best_model == "loss" else 1
        scores = [sign * entry[f"eval_{train.metric_for_best_model}"] for entry in history if "eval_loss" in entry]
        best = epochs[max(range(len(scores)), key=lambda at: scores[at] if isfinite(scores[at]) else -inf)]
    if not isfinite(best[3]):
        raise VitloraError(
            f"epoch {best[0]}, which would be kept: val loss is {best[3]}, as where half precision overflows on some "
            f"pictures; lower train.learning_rate (got {train.learning_rate:g}), or set train.bf16 or fp32"
        )
    return {
        "epochs": len(epochs),
        "steps": epochs[-1][1],
        "best_epoch": best[0],
        "val_loss": best[3],
        "val_accuracy": best[4],
        "val_balanced_accuracy": best[5],
    }
