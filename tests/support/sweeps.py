"""What came out of a sweep, and parameters that make one of digits small."""

import tiny
from ruamel.yaml import YAML

SMALL = {
    "split.max_per_class": 40,
    "image.size_px": 28,
    "train.num_train_epochs": 2,
    "train.save_steps": 2,
    "export.formats": ["onnx"],
    "export.max_check_images": 20,
}
FILES = ("dvc.lock", "metrics/train/metrics.json", "metrics/evaluate/scores.json", "metrics/evaluate/predictions.csv")


def experiments(root, name="sweep"):
    """Return commit by experiment."""
    listed = tiny.git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").split("\n")
    return {line.split()[0].rpartition("/")[2]: line.split()[1] for line in listed if f"/{name}-" in line}


def results(root, name="sweep"):
    """Return each experiment's rank and seed, and the files that say what came out: dvc.lock has every output's MD5."""
    found = {}
    for experiment, commit in experiments(root, name).items():
        params = YAML(typ="safe").load(tiny.git(root, "show", f"{commit}:params.yaml"))
        files = [tiny.git(root, "show", f"{commit}:{path}") for path in FILES]
        found[experiment] = (params["lora"]["r"], params["train"]["seed"], *files)
    return found
