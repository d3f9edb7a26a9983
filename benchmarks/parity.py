r"""What must hold before any claim of speed: the same pixels, losses, gradients and accuracy as the recipe's.

pixels      our crops, by each decoder, beside torchvision's resized_crop on PIL for the same boxes of real photographs;
            val squares beside Resize and CenterCrop.
loss        50 optimiser steps without dropout, same start, order and crops: PEFT under the stock Trainer (autocast over
            a float32 base) beside our train stage; a float32 run is the yardstick of what half precision does.
gradients   of one batch of 512, adapters not at zero: 128 accumulated four times beside 512 at once, and ours beside
            PEFT's.
accuracy    the recipe with loader processes and its own transforms beside ours, same photographs, epochs and learning
            rate, several seeds; both scored on our test squares as the evaluate stage does. Welch's interval of the
            difference of the means.

    PYTHONPATH=src python benchmarks/parity.py --data FOLDER --base models/base --out parity.json
    PYTHONPATH=src python benchmarks/parity.py --data FOLDER --out tiny.json --tiny
"""

import argparse
import gc
import io
import json
import math
import os
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import cores, host, welch
from peers import hub_data, prepare, recipe, trainers, tutorial
from peers.meter import FIRST_SCALE
from PIL import Image
from torchvision.transforms import InterpolationMode, functional
from transformers import Trainer, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate import stage as evaluation
from vitlora.evaluate.params import Evaluate, EvaluateStage
from vitlora.model.base import device_of_choice, read_normalisation
from vitlora.model.inference import device_precision, score
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import preprocess
from vitlora.storage.labels import Labels, read_labels
from vitlora.storage.packed import Packed
from vitlora.storage.squares import load_split
from vitlora.train.augment import draw_crops, epoch_order
from vitlora.train.dataset import TrainImages
from vitlora.train.params import Augment, Decoder, Train, TrainStage
from vitlora.train.stage import train as train_stage

HERE = Path(__file__).resolve().parent
PARTS = ("pixels", "loss", "gradients", "accuracy")
DECODERS = ("simplejpeg", "pil")
STEPS = ("eager", "compiled", "fused")
PREFIX = "base_model.model."
PREPARED = ("train", "val", "test", "labels.json")
SAFE_SCALE = 1024.0  # of the loss, so that a single step can't overflow
GRADIENT_LOADERS = 4  # a single step needs no more


def main() -> None:
    """Run the parts asked for; print and save after each."""
    args = parse()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*|.*pin_memory.*")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)  # the train stage keeps its checkpoints in the working directory
    document = read_document(args.params)
    prepared = make_squares(args, document)
    result: dict[str, Any] = {"host": host(), "params": args.params.name, "recipe": args.recipe.name, "tiny": args.tiny}
    parts = {"pixels": pixels, "loss": losses, "gradients": gradients, "accuracy": accuracy}
    for name in args.only:
        start = time.perf_counter()
        result[name] = parts[name](args, document, prepared)
        result.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)
        write_json(args.out, result)
    print(json.dumps(result["seconds"]))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in Hub layout, real photographs")
    parser.add_argument("--base", type=Path, help="pretrained model folder for accuracy; a random one with --tiny")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--only", type=parts_of, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--params", type=Path, default=HERE / "food101_10.yaml", help="for pixels, accuracy, base")
    parser.add_argument(
        "--recipe", type=Path, default=HERE.parent / "presets/food101.yaml", help="for the random model"
    )
    parser.add_argument("--photos", type=int, default=400, help="for pixels")
    parser.add_argument("--loss-steps", type=int, default=50)
    parser.add_argument("--loss-models", type=lambda text: text.split(","), default=["random", "base"])
    parser.add_argument("--loss-batch", type=int, default=64, help="for loss, accumulated as often; half the recipe's")
    parser.add_argument("--batch", type=int, default=128, help="for gradients")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=[STEPS[-1]], help="for accuracy")
    parser.add_argument(
        "--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 2], help="for accuracy"
    )
    parser.add_argument("--epochs", type=int, help="for accuracy; else those of --params")
    parser.add_argument("--workers", type=int, default=max(1, min(14, cores() - 2)))
    parser.add_argument("--tiny", action="store_true", help="a 2-layer ViT at 32 px and few images, to try it out")
    parser.add_argument("--work", type=Path, default=Path(".work/parity"))
    args = parser.parse_args()
    for name in ("data", "base", "out", "params", "recipe", "work"):
        path = getattr(args, name)
        setattr(args, name, path.resolve() if path else None)
    if args.tiny:
        args.photos, args.loss_steps, args.loss_batch, args.batch, args.accumulation = 20, 3, 4, 4, 2
        args.seeds, args.epochs = [0, 1], args.epochs or 1
    if not args.base and ("accuracy" in args.only or "base" in args.loss_models) and not args.tiny:
        parser.error("--base: a pretrained model folder is needed for accuracy, and for --loss-models base")
    return args


def parts_of(text: str) -> list[str]:
    """Split a list of parts and refuse unknown ones."""
    unknown = sorted(set(text.split(",")) - set(PARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(PARTS)}")
    return text.split(",")


def make_squares(args: argparse.Namespace, document: dict[str, Any]) -> Path:
    """Run download's packing and our preprocess stage once."""
    raw, prepared = args.work / "raw", args.work / "prepared"
    if args.tiny:
        document["image"]["size_px"] = prepare.random_model(args.work / "random", True)
        document["split"]["max_per_class"] = 10
        args.base = args.work / "random"
    elif "random" in args.loss_models and {"loss", "gradients"} & set(args.only):
        prepare.random_model(args.work / "random", False)
    prepare.download_folder(args.data, raw)
    stage = load_params(PreprocessStage, document, args.params)
    paths = [prepared / name for name in PREPARED]
    paths += [args.work / "report.html", args.work / "preprocess.json"]
    preprocess(stage.ingest, stage.image, stage.split, raw, *paths)
    return prepared


# --- pixels ---


def pixels(args: argparse.Namespace, document: dict[str, Any], prepared: Path) -> dict[str, Any]:
    """Compare our crops and squares with torchvision's on PIL, level by level."""
    known = read_labels(prepared / "labels.json")
    augment = load_params(TrainStage, document, args.params).augment
    found = {f"train, {name}": crops(args.photos, prepared, known, augment, name) for name in DECODERS}
    found["val squares"] = squares(args.photos, args.work / "raw", prepared / "test", known)
    print("\n| pixels | photos | equal | mean difference | largest |\n|---|---|---|---|---|")
    for name, row in found.items():
        print(f"| {name} | {row['photos']} | {row['equal']:.2%} | {row['mean']:.4f} | {row['largest']} |")
    return found


def crops(count: int, prepared: Path, known: Labels, augment: Augment, decoder: Decoder) -> dict[str, Any]:
    """Compare training crops of the first epoch."""
    images = TrainImages(prepared / "train", known.image_size, known.interpolation, augment, 0, decoder)
    packed, rows = Packed(prepared / "train"), spread(len(images), count)
    places = [(0, row) for row in range(len(packed))]
    law = augment.scale, augment.ratio, augment.horizontal_flip_p
    boxes, flips = draw_crops(0, places, packed.numbers("width", "height"), *law)
    ours = images.load(rows).numpy()

    def theirs() -> Iterator[np.ndarray]:
        for row in rows:
            left, top, right, bottom = boxes[row].tolist()
            square = functional.resized_crop(
                photo(packed[row]), top, left, bottom - top, right - left, [known.image_size] * 2, filter_of(known)
            )
            yield as_array(functional.hflip(square) if flips[row] else square)

    return differences(ours, theirs())


def squares(count: int, raw: Path, folder: Path, known: Labels) -> dict[str, Any]:
    """Compare pre-transformed squares."""
    source, split = Packed(raw), load_split(folder)
    place = {row["path"]: number for number, row in enumerate(source.rows)}
    rows = spread(len(split.paths), count)

    def theirs() -> Iterator[np.ndarray]:
        for row in rows:
            scaled = functional.resize(photo(source[place[split.paths[row]]]), known.image_size, filter_of(known))
            yield as_array(functional.center_crop(scaled, [known.image_size] * 2))

    return differences(split.images[rows], theirs())


def photo(data: bytes) -> Image.Image:
    """Open a photograph as the recipe does."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def filter_of(known: Labels) -> InterpolationMode:
    """Return torchvision's name of the resize filter."""
    return InterpolationMode(known.interpolation)


def as_array(image: Image.Image) -> np.ndarray:
    """Return uint8 (3, H, W)."""
    return np.asarray(image).transpose(2, 0, 1)


def spread(available: int, count: int) -> list[int]:
    """Choose rows at even distances."""
    return np.linspace(0, available - 1, min(count, available)).round().astype(int).tolist()


def differences(ours: np.ndarray, theirs: Iterator[np.ndarray]) -> dict[str, Any]:
    """Count in levels of 255: share of equal values, mean and largest difference."""
    apart = [np.abs(mine.astype(int) - other) for mine, other in zip(ours, theirs, strict=True)]
    return {
        "photos": len(apart),
        "equal": round(float(np.mean([(one == 0).mean() for one in apart])), 6),
        "mean": round(float(np.mean([one.mean() for one in apart])), 6),
        "largest": int(max(one.max() for one in apart)),
    }


# --- losses and gradients: short runs that differ in one thing ---


class Gradients:
    """Keeps the gradients of our step's last update, also of a captured one: `OptimiserStep` calls it after each."""

    def __init__(self, step: Any) -> None:
        self.step, self.tensors = step, [torch.zeros_like(grad) for grad in step.grads]

    def __call__(self, sound: torch.Tensor) -> None:
        """Copy them before they are set to zero."""
        torch._foreach_copy_(self.tensors, self.step.grads)


class Probe(TrainerCallback):
    """Gives every run the same start, and keeps its losses and the gradients of its first step."""

    def __init__(self, trainer: Any, start: dict[str, torch.Tensor], adapters_at_zero: bool) -> None:
        self.trainer, self.start, self.at_zero = trainer, start, adapters_at_zero
        self.gradients: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []
        self.notes: dict[str, Any] = {}

    def trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield the trained parameters by names that compiling doesn't change."""
        for name, weight in self.trainer.model.named_parameters():
            if weight.requires_grad:
                yield name.replace("_orig_mod.", ""), weight

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the trained parameters: the first run's draw is everyone's."""
        if not self.start:
            generator = torch.Generator().manual_seed(0)
            for name, weight in self.trained():
                self.start[name] = weight.detach().cpu().clone()
                if "lora_B" in name and not self.at_zero:
                    self.start[name] = 0.02 * torch.randn(weight.shape, generator=generator)
        for name, weight in self.trained():
            weight.copy_(self.start[name])
        scaler = getattr(self.trainer.accelerator, "scaler", None)
        if not self.at_zero and scaler is not None:
            scaler.load_state_dict({**scaler.state_dict(), "scale": SAFE_SCALE})
        if not self.at_zero and hasattr(self.trainer, "optimise"):
            self.trainer.optimise.observer = Gradients(self.trainer.optimise)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the first step's gradients, which are unscaled by now; only the stock Trainer calls this."""
        if not self.gradients and not self.at_zero:
            self.gradients = {name: weight.grad.detach().float().cpu().clone() for name, weight in self.trained()}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the losses, one an optimiser step; which step ours took, and how often fp16 overflowed."""
        if not self.gradients and not self.at_zero:
            names = {id(weight): name for name, weight in self.trained()}
            step = self.trainer.optimise
            kept = zip(step.trained, step.observer.tensors, strict=True)
            self.gradients = {names[id(weight)]: grad.float().cpu() for weight, grad in kept}
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        way, scaler = getattr(self.trainer, "way", None), getattr(self.trainer.accelerator, "scaler", None)
        start = SAFE_SCALE if not self.at_zero else FIRST_SCALE
        self.notes = {
            "step": way.step if way else "stock",
            "skipped": round(math.log2(start / scaler.get_scale())) if scaler is not None else 0,
        }


class SameOrder(Trainer):
    """The stock Trainer on our pictures in our order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> "SameOrderSampler":
        return SameOrderSampler(len(self.train_dataset))


class SameOrderSampler(torch.utils.data.Sampler):
    """Our numbering of images through all epochs, one at a time."""

    def __init__(self, count: int) -> None:
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter((self.epoch * self.count + epoch_order(0, self.epoch, self.count)).tolist())


class Floats(torch.utils.data.Dataset):
    """Our pictures normalised in the loader, as a stock Trainer takes them."""

    def __init__(self, images: TrainImages, normalisation: Any) -> None:
        self.images, self.normalisation = images, normalisation

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Load a batch."""
        labels = self.images.labels[[index % len(self) for index in indices]]
        return {"pixel_values": self.normalisation(self.images.load(indices)), "labels": labels}


class Bench:
    """One model and a fixed number of pictures; runs either PEFT's way or ours, from the same start."""

    def __init__(self, args: argparse.Namespace, base: Path, prepared: Path, images: int, at_zero: bool) -> None:
        self.base, self.prepared, self.at_zero = base, prepared, at_zero
        # A pretrained model has its own learning rate; at the recipe's its loss would only jump about.
        self.params = args.params if base == args.base and not args.tiny else args.recipe
        self.train = args.work / f"train_{images}"
        prepare.repeat_packed(prepared / "train", self.train, images)
        self.known = read_labels(prepared / "labels.json")
        self.workers = args.workers if at_zero else min(args.workers, GRADIENT_LOADERS)
        self.start: dict[str, torch.Tensor] = {}

    def stage(self, **changes: Any) -> TrainStage:
        """Return the model's parameters for one epoch without dropout."""
        document = read_document(self.params)
        document["lora"]["lora_dropout"] = 0.0
        document["train"].update(num_train_epochs=1, logging_steps=1, dataloader_num_workers=self.workers)
        # A bound on the gradient would hide what is compared.
        document["train"].update({"max_grad_norm": 1.0 if self.at_zero else 1e9, **changes})
        return load_params(TrainStage, document, self.params)

    def probed(self, work: Callable[[], Any]) -> Probe:
        """Run something that trains, and return what was seen."""
        probes: list[Probe] = []

        def make(trainer: Any) -> Probe:
            probes.append(Probe(trainer, self.start, self.at_zero))
            return probes[-1]

        with trainers.watched(make):
            work()
        probes[0].trainer = None
        clean_up()
        return probes[0]

    def peft(self, half: bool, batch: int, accumulation: int) -> Probe:
        """Train PEFT's model with the stock Trainer."""
        torch.backends.cudnn.allow_tf32 = half  # the yardstick's patch embedding, too, is in float32
        stage = self.stage()
        law = (self.known.image_size, self.known.interpolation, stage.augment)
        images = TrainImages(self.train, *law, 0, stage.train.decoder)
        arguments = recipe.arguments(
            **schedule(stage.train),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=stage.train.max_grad_norm,
            logging_steps=1,
            eval_strategy="no",
            save_strategy="no",
            load_best_model_at_end=False,
            fp16=half and torch.cuda.is_available(),
            **recipe.loader_processes(self.workers),
        )

        def work() -> None:
            set_seed(0)
            model = recipe.adapted(str(self.base), self.known.class_names, stage.lora.r, 0.0)
            floats = Floats(images, read_normalisation(self.base))
            quiet(SameOrder(model=model, args=arguments, train_dataset=floats, data_collator=as_it_is)).train()

        return self.probed(work)

    def ours(self, step: str, batch: int, accumulation: int) -> Probe:
        """Train with our train stage."""
        torch.backends.cudnn.allow_tf32 = True
        stage = self.stage(
            step=step,
            join_micro_batches=False,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        return self.probed(lambda: run_stage(stage, self.base, self.train, self.prepared))


def schedule(chosen: Train) -> dict[str, Any]:
    """Return what both sides share: how long and at which learning rate."""
    names = ("num_train_epochs", "learning_rate", "warmup_steps", "lr_scheduler_type", "weight_decay")
    return {name: getattr(chosen, name) for name in names}


def run_stage(stage: TrainStage, base: Path, train: Path, prepared: Path) -> None:
    """Call the train stage's function."""
    for folder in ("adapter", "plots"):
        shutil.rmtree(folder, ignore_errors=True)
    sections = (stage.augment, stage.lora, stage.train)
    places = (train, prepared / "val", prepared / "labels.json", Path("adapter"), Path("train.json"), Path("plots"))
    train_stage(*sections, base, *places).checkpoints.remove()


def quiet(trainer: Trainer) -> Trainer:
    """Let a Trainer keep its logs to itself."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer


def as_it_is(batch: Any) -> Any:
    """Collate nothing: the data set hands out whole batches."""
    return batch


def clean_up() -> None:
    """Free what the last run held, loader processes and compiled code included."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def models(args: argparse.Namespace) -> dict[str, Path]:
    """Return the models to compare on."""
    folders = {"random": args.work / "random", "base": args.base}
    return {name: folders[name] for name in (["random"] if args.tiny else args.loss_models)}


def losses(args: argparse.Namespace, document: dict[str, Any], prepared: Path) -> list[dict[str, Any]]:
    """Compare loss curves."""
    batch, accumulation = args.loss_batch, args.accumulation
    found = []
    for name, base in models(args).items():
        bench = Bench(args, base, prepared, batch * accumulation * args.loss_steps, at_zero=True)
        runs = {"PEFT fp32": bench.peft(False, batch, accumulation), "PEFT fp16": bench.peft(True, batch, accumulation)}
        runs |= {f"ours {step}": bench.ours(step, batch * accumulation, 1) for step in STEPS}
        found += [compare(name, run, runs) for run in runs]
    print(f"\n| {args.loss_steps} steps | model | ran | skipped | first loss | last | most from PEFT fp16 | fp32 |")
    print("|---" * 8 + "|")
    for row in found:
        about = " | ".join(str(row[key]) for key in ("run", "model", "step", "skipped"))
        first, last, gap, gap32 = (row[key] for key in ("first", "last", "to_fp16", "to_fp32"))
        print(f"| {about} | {first:.4f} | {last:.4f} | {gap:.5f} | {gap32:.5f} |")
    return found


def compare(model: str, run: str, runs: dict[str, Probe]) -> dict[str, Any]:
    """Return a run's loss curve and its distance from the two of reference."""
    curve = runs[run].losses

    def gap(other: str) -> float:
        theirs = runs[other].losses
        assert len(curve) == len(theirs), f"{run} took {len(curve)} steps, {other} {len(theirs)}"
        return float(np.max(np.abs(np.array(curve) - np.array(theirs))))

    return {
        "model": model,
        "run": run,
        **runs[run].notes,
        "steps": len(curve),
        "first": curve[0],
        "last": curve[-1],
        "to_fp16": gap("PEFT fp16"),
        "to_fp32": gap("PEFT fp32"),
        "losses": curve,
    }


def gradients(args: argparse.Namespace, document: dict[str, Any], prepared: Path) -> list[dict[str, Any]]:
    """Compare the gradients of one optimiser step."""
    whole = args.batch * args.accumulation
    found = []
    for name, base in models(args).items():
        bench = Bench(args, base, prepared, whole, at_zero=False)
        parted = f"{args.batch} x {args.accumulation}"
        runs = {f"PEFT fp32, {parted}": bench.peft(False, args.batch, args.accumulation)}
        reference = next(iter(runs.values())).gradients
        runs[f"PEFT fp16, {parted}"] = bench.peft(True, args.batch, args.accumulation)
        runs[f"PEFT fp16, {whole} x 1"] = bench.peft(True, whole, 1)
        for step in STEPS:
            if step != "compiled":  # compiling another shape takes longer than it tells
                runs[f"ours {step}, {parted}"] = bench.ours(step, args.batch, args.accumulation)
            runs[f"ours {step}, {whole} x 1"] = bench.ours(step, whole, 1)
        found += [{"model": name, "run": run, **r.notes, **distance(r.gradients, reference)} for run, r in runs.items()]
    print("\n| gradients | model | ran | whole, from PEFT fp32 | worst tensor | its name |\n" + "|---" * 6 + "|")
    for row in found:
        about = " | ".join(str(row[key]) for key in ("run", "model", "step"))
        print(f"| {about} | {row['whole']:.2e} | {row['worst']:.2e} | {row['tensor'].removeprefix(PREFIX)} |")
    return found


def distance(grads: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return ‖g - r‖ / ‖r‖ over all trained parameters, and for the parameter where it is largest."""
    assert grads.keys() == reference.keys(), "other parameters are trained"
    apart = {name: float((grads[name] - reference[name]).norm()) for name in reference}
    sizes = {name: float(reference[name].norm()) for name in reference}
    worst = max(reference, key=lambda name: apart[name] / sizes[name])
    total = float(np.linalg.norm(list(apart.values())) / np.linalg.norm(list(sizes.values())))
    return {"whole": total, "worst": apart[worst] / sizes[worst], "tensor": worst}


# --- accuracy ---


def accuracy(args: argparse.Namespace, document: dict[str, Any], prepared: Path) -> dict[str, Any]:
    """Train both ways with several seeds, and compare test accuracy."""
    stage = load_params(TrainStage, document, args.params)
    settings = load_params(EvaluateStage, document, args.params).evaluate
    epochs = args.epochs or stage.train.num_train_epochs
    common = {"num_train_epochs": epochs, "dataloader_num_workers": args.workers}
    runs: dict[str, list[dict[str, Any]]] = {"recipe": [], **{f"ours {arm}": [] for arm in args.arms}}
    for seed in args.seeds:
        chosen = stage.train.model_copy(update={**common, "seed": seed})
        runs["recipe"].append(timed(lambda c=chosen: recipe_accuracy(args, stage, c, settings, prepared)))
        for arm in args.arms:
            ours = stage.model_copy(update={"train": chosen.model_copy(update={"step": arm})})
            runs[f"ours {arm}"].append(timed(lambda o=ours: our_accuracy(args, o, settings, prepared)))
        print(json.dumps({name: rows[-1] for name, rows in runs.items()}), flush=True)
    found = {name: [row["test_accuracy"] for row in rows] for name, rows in runs.items()}
    compared = {name: welch(found[name], found["recipe"]) for name in found if name != "recipe"}
    print("\n| accuracy | mean | runs | difference | 95 % interval |\n|---|---|---|---|---|")
    for name, values in found.items():
        gap = compared.get(name)
        cells = f"{gap['difference']:+.4f} | {gap['low']:+.4f} to {gap['high']:+.4f}" if gap else " | "
        print(f"| {name} | {statistics.mean(values):.4f} | {', '.join(f'{v:.4f}' for v in values)} | {cells} |")
    return {"runs": runs, "epochs": epochs, "learning_rate": stage.train.learning_rate, "compared": compared}


def timed(work: Callable[[], float]) -> dict[str, float]:
    """Return the accuracy that ``work`` reaches and how long it took."""
    start = time.perf_counter()
    reached = work()
    clean_up()
    return {"test_accuracy": reached, "seconds": round(time.perf_counter() - start, 1)}


def our_accuracy(args: argparse.Namespace, stage: TrainStage, settings: Evaluate, prepared: Path) -> float:
    """Train and evaluate as the two stages do."""
    run_stage(stage, args.base, prepared / "train", prepared)
    out = Path("evaluate")
    val, test, labels = (prepared / name for name in ("val", "test", "labels.json"))
    evaluation.evaluate(settings, args.base, Path("adapter"), val, test, labels, Path("evaluated"), out)
    return float(read_json(out / "scores.json")["accuracy"])


def recipe_accuracy(
    args: argparse.Namespace, stage: TrainStage, chosen: Train, settings: Evaluate, prepared: Path
) -> float:
    """Train as the tutorial does, with loader processes, on the photographs of our split; score our test squares."""
    known, normalisation = read_labels(prepared / "labels.json"), read_normalisation(args.base)
    set_seed(chosen.seed)
    model = recipe.adapted(str(args.base), known.class_names, stage.lora.r, stage.lora.lora_dropout)
    photographs = hub_data.load(str(args.data), args.work / "datasets_cache")
    parts = [photographs["train"].select(rows_of(prepared / name)) for name in ("train", "val")]
    train, val = hub_data.with_transforms(*parts, known.image_size, normalisation.mean, normalisation.std)
    arguments = recipe.arguments(
        **schedule(chosen),
        seed=chosen.seed,
        per_device_train_batch_size=chosen.per_device_train_batch_size,
        gradient_accumulation_steps=chosen.gradient_accumulation_steps,
        metric_for_best_model="accuracy",
        **recipe.loader_processes(args.workers),
    )
    trainer = quiet(tutorial.trainer(model, arguments, train, val, None))
    trainer.train()
    merged = trainer.model.merge_and_unload().eval().to(device_of_choice())
    test = load_split(prepared / "test")
    logits = score(merged, test, normalisation, settings.batch_size, device_precision(settings.precision))
    shutil.rmtree("vit-lora", ignore_errors=True)
    return float((logits.argmax(1) == test.labels).mean())


def rows_of(folder: Path) -> list[int]:
    """Return a split's row numbers in the data set's own train split: `train/000123` is row 123."""
    packed = (folder / "index.npy").is_file()
    paths = Packed(folder).texts("path") if packed else (row["path"] for row in read_csv(folder / "index.csv"))
    return [int(path.rpartition("/")[2]) for path in paths]


if __name__ == "__main__":
    main()
