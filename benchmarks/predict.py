"""How soon ``vitlora predict`` answers, and how near a folder comes to the rate of the ONNX model by itself.

    PYTHONPATH=src python benchmarks/predict.py --photos FOLDER --out benchmarks/results/predict.json

Models: the exported one of this folder, and a ViT-S/14 with random weights at 224 px, whose speed is that of a trained
one. Pictures: the photos, and for the smaller model also small ones, as it was trained on. The model's own rate is that
of ready squares in batches of 32. Both are timed in turns, round by round, since other work on the machine slows both;
a share is of one round. Cold start: the whole command for one picture, start of Python included, files in the page
cache; its processor time is noted beside, which other work changes little. Load and niceness are noted too.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from vitlora import Classifier
from vitlora.core.files import read_json, write_json
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.images.pixels import decode, read_picture, resize_and_crop
from vitlora.storage.manifest import write_manifest

BATCH = 32
SIZE = 224  # px, of the larger model


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of pictures, used in turn")
    parser.add_argument("--model", type=Path, default=Path("models/export"))
    parser.add_argument("--larger", type=Path, help="such a folder made before, in place of making one (needs torch)")
    parser.add_argument(
        "--verb", type=Path, help="`vitlora` of an installed wheel, for the cold start; else this tree's"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, nargs=2, default=(480, 96), help="of a round, by model")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    photos = sorted(args.photos.iterdir())
    load = os.getloadavg()[:1]
    with tempfile.TemporaryDirectory() as place:
        larger = args.larger or make_larger(Path(place) / "larger", args.model)
        small = make_small(Path(place) / "small", photos)
        many, few = args.pictures
        runs = ((args.model, photos, many), (args.model, small, many), (larger, photos, few))
        found = [measure(model, pictures, count, args.rounds, args.verb) for model, pictures, count in runs]
    from common import host, version  # loads torch

    busy = {"load": [round(each, 1) for each in (*load, *os.getloadavg()[:1])], "nice": os.nice(0)}
    busy["onnxruntime"] = version("onnxruntime")
    write_json(args.out, {"runs": found, "rounds": args.rounds, **busy, "host": host()})


def measure(model: Path, pictures: list[Path], count: int, rounds: int, verb: Path | None) -> dict[str, object]:
    """Return one row of the results."""
    with Image.open(pictures[0]) as image:
        about = f"{image.format} of {image.width} x {image.height} px and the like"
    row = {
        "model": f"ViT-S/14, {read_json(model / 'vitlora.json')['image_size']} px",
        "pictures": f"{count}, {about}",
        **folder(model, list(islice(cycle(pictures), count)), rounds),
        "one_picture": cold(model, pictures[0], rounds, verb),
    }
    print(row)
    return row


def make_small(folder: Path, photos: list[Path]) -> list[Path]:
    """Write the photos as JPEGs of 64 x 64 px."""
    folder.mkdir()
    for path in photos:
        Image.fromarray(resize_and_crop(decode(path.read_bytes()), 64, "bilinear").transpose(1, 2, 0)).save(
            folder / f"{path.stem}.jpg"
        )
    return sorted(folder.iterdir())


def make_larger(folder: Path, like: Path) -> Path:
    """Export a ViT-S/14 of random weights at 224 px."""
    import torch
    from transformers import Dinov2Config, Dinov2ForImageClassification

    from vitlora.export.onnx_model import onnx_graph, save
    from vitlora.export.picture_graph import with_pictures

    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14, num_labels=10
    )
    folder.mkdir()
    with torch.no_grad():
        graph = onnx_graph(Dinov2ForImageClassification(config).eval(), 1.0, SIZE, 20)
    facts = {**read_json(like / "vitlora.json"), "image_size": SIZE}
    whole = with_pictures(graph, SIZE, facts["interpolation"], facts["image_mean"], facts["image_std"])
    save(whole, folder / "model.onnx")
    write_json(folder / "vitlora.json", facts)
    write_manifest(folder)
    return folder


def folder(model: Path, photos: list[Path], rounds: int) -> dict[str, object]:
    """Return pictures a second of model and predict, medians, and predict's share of the model's rate, by round."""
    known = read_json(model / "vitlora.json")
    bare = OnnxClassifier(model / "model.onnx", known["image_mean"], known["image_std"])
    size, interpolation = known["image_size"], known["interpolation"]
    squares = np.stack([resize_and_crop(decode(read_picture(path)), size, interpolation) for path in photos])
    own, ours = [], []
    with Classifier(model, workers=os.cpu_count() or 1) as classifier:
        list(classifier.each(photos[:BATCH]))  # the processes have started
        bare.score(squares[:BATCH], BATCH)
        for _ in range(rounds):
            own.append(len(photos) / seconds(lambda: bare.score(squares, BATCH)))
            ours.append(len(photos) / seconds(lambda: list(classifier.each(photos))))
    shares = [one / other for one, other in zip(ours, own, strict=True)]
    return {
        "model_per_s": round(statistics.median(own), 1),
        "predict_per_s": round(statistics.median(ours), 1),
        "share": round(statistics.median(shares), 3),
        "shares": [round(share, 3) for share in shares],
    }


def seconds(work) -> float:
    """Return how long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def cold(model: Path, photo: Path, rounds: int, verb: Path | None) -> dict[str, object]:
    """Return wall and processor seconds of the command, medians, and every wall reading."""
    walls, cpus = [], []
    with tempfile.TemporaryDirectory() as place:  # outside a project, as where the wheel is installed
        shutil.copy(photo, Path(place) / "one.jpg")
        program = [str(verb.absolute())] if verb else [sys.executable, "-m", "vitlora"]
        command = [*program, "predict", "--model", str(model.absolute()), "one.jpg"]
        env = {**os.environ, "PYTHONPATH": "" if verb else str(Path("src").absolute())}
        for _ in range(rounds + 1):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            walls.append(seconds(lambda: subprocess.run(command, cwd=place, env=env, check=True, capture_output=True)))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "wall_s": round(statistics.median(walls[1:]), 2),
        "walls": [round(wall, 2) for wall in walls[1:]],
        "processor_s": round(statistics.median(cpus[1:]), 2),
    }


if __name__ == "__main__":
    main()
