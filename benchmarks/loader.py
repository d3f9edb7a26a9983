"""How fast training batches come, without a model: the tutorial's loader, timm's, ours with either decoder.

    PYTHONPATH=src python benchmarks/loader.py --packed data/prepared/train --out loader.json

All read the same JPEG bytes and give 224 px crops by the same law, with the same batch, processes that stay and one
thread a process; ours through a ring of shared memory, the others through torch's DataLoader, and our pictures through
that too. The tutorial's batches are float32, timm's too unless there is a GPU, ours uint8. The first pass, which starts
the processes, is dropped from the speed and counted in the processor time. What isn't installed is skipped, with the
reason.

What our pictures cost the main thread, copies to the GPU included, is measured at half their speed, so that each batch
is there when it is asked for.
"""

import argparse
import gc
import io
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import cores, host, version
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from vitlora.core.files import write_json
from vitlora.images.pixels import Box, crop_and_resize, decode
from vitlora.model.batches import Feed
from vitlora.storage.packed import INDEX, SHARDS, TEXTS, Packed
from vitlora.train.augment import draw_crops
from vitlora.train.dataset import TrainImages, TrainLoader
from vitlora.train.jpeg import decode_rows, scale_crop
from vitlora.train.params import Augment

SIZE, FILTER, SEED = 224, "bilinear", 0
LAW = Augment(
    scale=(0.08, 1.0),
    ratio=(0.75, 4 / 3),
    horizontal_flip_p=0.5,
    policy="none",
    randaugment_num_ops=2,
    randaugment_magnitude=9,
    color_jitter=0.0,
    erasing_p=0.0,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
)
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
GPU = torch.cuda.is_available()
SPLIT_IMAGES = 512
SMALL_BATCH = 32  # where the main thread's part is largest
WARM_BATCHES = 20
Loader = Callable[[Path, int, int], object]


def main() -> None:
    """Measure every loader with every number of processes; print a table and write it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True, help="a train folder as preprocess writes it")
    parser.add_argument("--images", type=int, default=20_000, help="images a pass, the given ones again and again")
    parser.add_argument("--workers", type=_counts, default=_usual(), help="loader processes, such as 0,8,14,16")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--passes", type=int, default=3, help="the first is dropped")
    parser.add_argument("--only", default="", help="loaders whose name holds this, such as simplejpeg; no other part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, skipped = [], {}
    with tempfile.TemporaryDirectory() as work:
        folder = repeat(args.packed, Path(work), args.images)
        print(f"{'loader':<58}{'workers':>8}{'images/s':>10}{'spread':>8}{'a core':>8}{'CPU s/1000':>12}{'RSS MB':>8}")
        for name, make in contestants(skipped):
            if args.only not in name:
                continue
            for workers in args.workers:
                rows.append(row := {"loader": name, **measure(partial(make, folder, args.batch), workers, args.passes)})
                print(line(row), flush=True)
        asked = [] if args.only else [main_thread(folder, workers) for workers in args.workers]
        split = {} if args.only else one_core(folder)
        rows += [] if args.only else gpu_decoder(folder, args, skipped)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    settings = {"images": args.images, "batch": args.batch, "passes": args.passes, "size": SIZE, **about(args.packed)}
    found = {"rows": rows, "main_thread": asked, "one_core": split, "skipped": skipped}
    write_json(args.out, {**found, "settings": settings, "host": host()})


def _counts(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _usual() -> list[int]:
    return sorted({0, cores() // 2, max(cores() - 2, 0), cores()})


def repeat(packed: Path, work: Path, count: int) -> Path:
    """Make a packed folder whose ``count`` rows point at the given pictures again and again."""
    for file in (packed / TEXTS, *packed.glob(SHARDS)):
        (work / file.name).symlink_to(file.resolve())
    index = np.load(packed / INDEX)
    np.save(work / INDEX, index[np.arange(count) % len(index)])
    return work


def about(packed: Path) -> dict:
    """Return what the pictures are."""
    source = Packed(packed)
    sizes = source.numbers("width", "height")
    return {
        "pictures": len(source),
        "mean_kb": round(float(source.index["length"].mean()) / 1000, 1),
        "mean_megapixels": round(float(sizes.prod(axis=1).mean()) / 1e6, 3),
        "plain": float((source.numbers("plain") == 1).mean()),
    }


def contestants(skipped: dict[str, str]) -> Iterator[tuple[str, Loader]]:
    """Yield name and maker of each loader that can be made here; put the others into ``skipped``."""
    if version("datasets"):
        yield "tutorial: datasets.with_transform, PIL, torchvision", tutorial
    else:
        yield "tutorial without `datasets`: torch Dataset, PIL, torchvision", tutorial
    if version("timm"):
        yield "timm.data.create_loader, PIL", timm_loader
    else:
        skipped["timm.data.create_loader"] = "timm is not installed"
    yield "vitlora's pictures, torch's DataLoader", plain
    yield "vitlora, decoder: pil", partial(ours, "pil")
    yield "vitlora, decoder: simplejpeg", partial(ours, "simplejpeg")


class Pictures(Dataset):
    """Decoded pictures with a transform of the loader's own, one at a time, as most training scripts have it."""

    def __init__(self, folder: Path, transform: Callable | None = None) -> None:
        self.packed, self.transform = Packed(folder), transform
        self.labels = self.packed.numbers("label")[:, 0].tolist()

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> tuple:
        """Decode one and apply the transform."""
        return self.transform(Image.open(io.BytesIO(self.packed[index])).convert("RGB")), self.labels[index]


def tutorial_transform() -> transforms.Compose:
    """Return the transform of PEFT's image-classification tutorial."""
    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def tutorial(folder: Path, batch: int, workers: int) -> DataLoader:
    """Return the tutorial's loader; without `datasets`, the same transform in a plain data set."""
    if version("datasets"):
        images, collate = hub_images(folder), stack
    else:
        images, collate = Pictures(folder, tutorial_transform()), None
    return torch_loader(images, RandomSampler(images), batch, workers, collate)


def hub_images(folder: Path) -> Dataset:
    """Return a `datasets` table of the JPEG bytes that is transformed on the fly."""
    import datasets

    packed, transform = Packed(folder), tutorial_transform()
    distinct = len(np.unique(packed.numbers("shard", "offset"), axis=0))  # the table goes round them
    table = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": packed[row], "path": None} for row in range(distinct)],
            "label": packed.numbers("label")[:distinct, 0],
        }
    ).cast_column("image", datasets.Image())

    def transformed(examples: dict) -> dict:
        examples["pixel_values"] = [transform(image.convert("RGB")) for image in examples["image"]]
        return examples

    return table.select([place % distinct for place in range(len(packed))]).with_transform(transformed)


def stack(examples: list[dict]) -> dict:
    """Collate as the tutorial does."""
    labels = torch.tensor([example["label"] for example in examples])
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples]), "labels": labels}


def timm_loader(folder: Path, batch: int, workers: int) -> object:
    """Return timm's loader, its prefetcher on where there is a GPU, augmentation cut down to the same crop and flip."""
    from timm.data import create_loader

    return create_loader(
        Pictures(folder),
        (3, SIZE, SIZE),
        batch,
        is_training=True,
        use_prefetcher=GPU,
        color_jitter=None,
        interpolation=FILTER,
        scale=LAW.scale,
        ratio=LAW.ratio,
        hflip=LAW.horizontal_flip_p,
        mean=MEAN,
        std=STD,
        num_workers=workers,
        pin_memory=GPU,
        persistent_workers=workers > 0,
        device=torch.device("cuda" if GPU else "cpu"),
    )


def ours(decoder: str, folder: Path, batch: int, workers: int) -> Feed:
    """Return the pipeline's own loader, which copies to the GPU where there is one."""
    images = TrainImages(folder, SIZE, FILTER, LAW, SEED, decoder)
    return Feed(TrainLoader(images, SEED, batch, 1000, workers, GPU), torch.device("cuda" if GPU else "cpu"))


class Plain(Dataset):
    """Our pictures for torch's DataLoader, a batch at a time."""

    def __init__(self, images: TrainImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> dict:
        """Load a batch."""
        return {"pixel_values": self.images.load(indices), "labels": self.images.labels[indices]}


def plain(folder: Path, batch: int, workers: int) -> DataLoader:
    """Return torch's loader of our pictures."""
    images = Plain(TrainImages(folder, SIZE, FILTER, LAW, SEED))
    return torch_loader(images, RandomSampler(images), batch, workers, as_it_is)


def as_it_is(batch: dict) -> dict:
    """Collate what is a batch already."""
    return batch


def torch_loader(images: Dataset, sampler, batch: int, workers: int, collate) -> DataLoader:
    """Return a DataLoader with what all of them share."""
    ahead = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    return DataLoader(
        images, batch, sampler=sampler, num_workers=workers, collate_fn=collate, pin_memory=GPU, drop_last=True, **ahead
    )


def measure(make: Callable[[int], object], workers: int, passes: int) -> dict:
    """Run some passes; return speed of all but the first, and what the processes used from start to end."""
    before, rates, images = cpu_seconds(), [], 0
    loader = make(workers)
    for number in range(passes):
        if isinstance(loader, Feed):
            loader.set_epoch(number)
        count, start = 0, time.perf_counter()
        for batch in loader:
            labels = batch["labels"] if isinstance(batch, dict) else batch[1]
            count += len(labels)
        rates.append(count / (time.perf_counter() - start))
        images += count
    peak = max((peak_mb(child.pid) for child in multiprocessing.active_children()), default=None)
    if isinstance(loader, Feed):
        loader.close()
    del loader, batch, labels
    gc.collect()  # ends torch's processes too, whose time counts from then on
    return result(workers, rates, (cpu_seconds() - before) / images, peak)


def result(workers: int, rates: list[float], cpu_s: float, peak: float | None = None) -> dict:
    """Return a row: speed of all passes but the first, processor time over all of them."""
    kept = rates[1:] or rates
    middle = statistics.median(kept)
    return {
        "workers": workers,
        "images_per_s": round(middle, 1),
        "lowest": round(min(kept), 1),
        "highest": round(max(kept), 1),
        "images_per_s_per_core": round(middle / min(max(workers, 1), cores()), 1),
        "cpu_s_per_1000": round(cpu_s * 1000, 3),
        "worker_peak_rss_mb": peak,
    }


def main_thread(folder: Path, workers: int) -> dict:
    """Print and return the seconds that a thousand small batches take of the main thread, through our ring and torch's
    loader.
    """
    found = {"workers": workers, "batch": SMALL_BATCH}
    for name, make in (("ring", partial(ours, "simplejpeg")), ("dataloader", plain)):
        loader, times = make(folder, SMALL_BATCH, workers), []
        begun, batches = time.perf_counter(), iter(loader)
        for number in range(len(loader) - 1):
            if number == WARM_BATCHES:
                pause = 2 * (time.perf_counter() - begun) / WARM_BATCHES
            if number >= WARM_BATCHES:
                time.sleep(pause)
            start = time.perf_counter()
            batch = next(batches)
            if GPU and name == "dataloader":
                batch = {key: value.to("cuda", non_blocking=True) for key, value in batch.items()}
            times.append(time.perf_counter() - start)
        found[f"{name}_s_per_1000"] = round(1000 * statistics.mean(times[WARM_BATCHES:]), 3)
        if isinstance(loader, Feed):
            loader.close()
    print(
        f"main thread, 1,000 batches of {SMALL_BATCH}, {workers} workers: ring {found['ring_s_per_1000']:.3f} s, "
        f"DataLoader {found['dataloader_s_per_1000']:.3f} s"
    )
    return found


def cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_mb(process: int) -> float | None:
    """Return the most memory a process had, with what it shares with its parent; None where it can't be asked."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((round(int(line.split()[1]) / 1000, 1) for line in lines if line.startswith("VmHWM")), None)


def line(row: dict) -> str:
    """Return one row of the printed table."""
    spread = f"±{(row['highest'] - row['lowest']) / 2 / row['images_per_s']:.1%}"
    return (
        f"{row['loader']:<58}{row['workers']:>8}{row['images_per_s']:>10,.0f}{spread:>8}"
        f"{row['images_per_s_per_core']:>8,.0f}{row['cpu_s_per_1000']:>12.2f}{row['worker_peak_rss_mb'] or 0:>8,.0f}"
    )


def one_core(folder: Path) -> dict[str, float]:
    """Split one core's time, µs an image, median of three: decode whole, decode what the crop needs, crop and scale."""
    packed, count = Packed(folder), min(SPLIT_IMAGES, len(Packed(folder)))
    rows = np.linspace(0, len(packed) - 1, count).astype(int)
    data = [packed[row] for row in rows]
    sizes = packed.numbers("width", "height")[rows]
    places = [(0, row) for row in rows.tolist()]
    boxes = [tuple(box) for box in draw_crops(SEED, places, sizes, LAW.scale, LAW.ratio, 0.0)[0].tolist()]
    pictures = [decode(one) for one in data]
    arrays = [np.array(picture) for picture in pictures]
    steps = {
        "read": lambda n: packed[rows[n]],
        "pil_decode": lambda n: decode(data[n]),
        "pil_crop_and_resize": lambda n: crop_and_resize(pictures[n], boxes[n], SIZE, FILTER),
        "simplejpeg_decode_whole": lambda n: decode_rows(data[n], int(sizes[n, 1])),
        "simplejpeg_decode_to_the_crops_end": lambda n: decode_rows(data[n], boxes[n][3]),
        "torch_crop_and_resize": lambda n: scale_crop(arrays[n], boxes[n], SIZE, FILTER),
        "tutorial_transform": partial(_apply, tutorial_transform(), pictures),
    }
    found = {name: microseconds(step, count) for name, step in steps.items()}
    for name, value in found.items():
        print(f"one core, {name}: {value:,.0f} µs")
    return {**found, **difference(pictures, boxes)}


def difference(pictures: list[Image.Image], boxes: list[Box]) -> dict[str, float]:
    """Return how far the fast way's pixels are from Pillow's: levels of 255, over all values."""
    off = []
    for picture, box in zip(pictures, boxes, strict=True):
        fast = scale_crop(np.array(picture), box, SIZE, FILTER).numpy()
        off.append(np.abs(fast.astype(int) - crop_and_resize(picture, box, SIZE, FILTER)))
    shares = {
        f"share_off_by_more_than_{level}": float(np.mean([(one > level).mean() for one in off])) for level in (0, 1)
    }
    return {"mean_difference": float(np.mean(off)), "largest_difference": int(np.max(off)), **shares}


def _apply(transform: Callable, pictures: list, number: int) -> None:
    transform(pictures[number])


def microseconds(step: Callable[[int], object], count: int) -> float:
    """Return the median over three rounds of a step's mean time, µs."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        for number in range(count):
            step(number)
        rounds.append((time.perf_counter() - start) / count * 1e6)
    return round(statistics.median(rounds), 1)


def gpu_decoder(folder: Path, args: argparse.Namespace, skipped: dict[str, str]) -> Iterator[dict]:
    """Yield the speed of torchvision's decoder on the GPU: decoding alone, two batch sizes."""
    name = "torchvision CUDA decode_jpeg, decoding only"
    if not GPU:
        skipped[name] = "no CUDA device"
        return
    packed = Packed(folder)
    data = [torch.frombuffer(bytearray(packed[row]), dtype=torch.uint8) for row in range(min(len(packed), 4096))]
    for batch in (128, 256):
        before, rates = cpu_seconds(), [len(data) / gpu_seconds(data, batch) for _ in range(args.passes)]
        cpu_s = (cpu_seconds() - before) / len(data) / args.passes
        row = {"loader": f"{name}, batch {batch}", **result(0, rates, cpu_s)}
        print(line(row), flush=True)
        yield row


def gpu_seconds(data: list[torch.Tensor], batch: int) -> float:
    """Decode all on the GPU and return how long it took."""
    from torchvision.io import ImageReadMode, decode_jpeg

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since torchvision 0.29; here to compare only
        for at in range(0, len(data), batch):
            decode_jpeg(data[at : at + batch], mode=ImageReadMode.RGB, device="cuda")
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
