"""A tiny but real project: pictures of three colours, a random two-layer ViT, and parameters that take seconds."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "presets/digits.yaml"  # what tests start from; params.yaml is the user's own
DVC = str(Path(sys.executable).parent / "dvc")  # the wrapper that `make setup` writes
CODE = [
    "source.yaml",
    "src",
    "stages",
    "dvc.yaml",
    "presets",
    ".gitignore",
    ".dvcignore",
    ".dvc/config",
    ".dvc/plots",
    ".dvc/.gitignore",
]
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 70), "red": (200, 50, 40)}


def make_images(folder: Path, per_class: int = 12, side: int = 40) -> None:
    """Write noisy pictures of one colour a class, as JPEG and PNG."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = rng.normal(0, 30, (side, side + number, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.{'png' if number % 3 else 'jpg'}")


def make_base(folder: Path) -> None:
    """Write a random ViT of two layers, 32 px, patches of 8, with an image processor's mean and std."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')


def make_dinov2(folder: Path, image_size: int) -> None:
    """Write a random DINOv2 of two layers, patches of 8 px, with the positions of a size, px."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    Dinov2Model(Dinov2Config(**small, image_size=image_size)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')


# All keys of the section, for what takes an Augment object: a crop and a flip, all else off.
AUGMENT = {
    "scale": (0.08, 1.0),
    "ratio": (0.75, 4 / 3),
    "horizontal_flip_p": 0.5,
    "policy": "none",
    "randaugment_num_ops": 2,
    "randaugment_magnitude": 9,
    "color_jitter": 0.0,
    "erasing_p": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}
# The same for a Lora object.
LORA = {
    "method": "lora",
    "r": 2,
    "lora_alpha": 2.0,
    "lora_dropout": 0.0,
    "bias": "none",
    "use_rslora": False,
    "target_modules": ["query", "value"],
    "exclude_modules": None,
    "layers_to_transform": None,
    "modules_to_save": ["classifier"],
    "options": {},
}

PARAMS = {
    "data.source": "folder",
    "data.path": "pictures",
    "model.source": "folder",
    "model.path": "tiny",
    "image.size_px": 32,
    "lora.r": 2,
    "lora.lora_alpha": 4,
    "train.learning_rate": 0.01,
    "train.num_train_epochs": 2,
    "train.per_device_train_batch_size": 8,
    "train.logging_steps": 1,
    "train.fp16": False,
    "evaluate.top_k": 2,
    "export.formats": ["transformers", "onnx"],
}


def set_params(path: Path, values: dict) -> None:
    """Change values of a params file by dotted key, keeping its comments."""
    yaml = YAML()
    document = yaml.load(path)
    for key, value in values.items():
        section, name = key.split(".")
        assert name in document[section], key
        document[section][name] = value
    yaml.dump(document, path)


def make_project(root: Path, params: dict | None = None) -> Path:
    """Set up a Git repository with the project's own code, tiny data and a tiny model; nothing has run yet."""
    root.mkdir(parents=True)
    for name in CODE:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    make_images(root / "pictures")
    make_base(root / "tiny")
    shutil.copy2(DIGITS, root / "params.yaml")
    set_params(root / "params.yaml", {**PARAMS, **(params or {})})
    git(root, "init", "-q", "-b", "main")
    commit(root)
    return root


def environment(root: Path) -> dict[str, str]:
    """Return the environment of an activated virtual environment, where nothing is kept outside the project."""
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(root / ".dvc/tmp/site"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(root / ".dvc/tmp/none"),
        "GIT_CONFIG_GLOBAL": os.devnull,  # commits that must be signed, say
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | own


def run(root: Path, *command: str, env: dict | None = None, timeout: int = 300) -> subprocess.CompletedProcess:
    """Run a command in the project, to its end."""
    full = environment(root) | (env or {})
    return subprocess.run(command, cwd=root, env=full, capture_output=True, text=True, timeout=timeout)


def git(root: Path, *args: str) -> str:
    done = run(root, "git", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "state")


def dvc(root: Path, *args: str, env: dict | None = None) -> list[str]:
    """Run dvc and return the names of the stages that really ran, in order."""
    done = run(root, DVC, *args, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"Running stage '(\w+)'", done.stdout)


def stage_arguments(stage: str) -> list[str]:
    """Return what a stage's command in dvc.yaml gives to python."""
    words = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]["cmd"].split()
    return words[words.index("python") + 1 :]


def stage_runner(root: Path):
    """Return a function that sets parameters and runs all five stages' commands from dvc.yaml, without dvc."""
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

    def run_all(params: dict) -> None:
        set_params(root / "params.yaml", params)
        for stage in stages:
            paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])}
            done = run(root, sys.executable, *stage_arguments(stage), env=paths)
            assert done.returncode == 0, done.stdout + done.stderr

    return run_all
