"""Write an adapter folder in another form: with other versions' layer names, or as plain LoRA."""

import argparse
from pathlib import Path

from vitlora.core.entry import BASE
from vitlora.core.errors import VitloraError
from vitlora.core.files import make_readable
from vitlora.storage.manifest import MANIFEST, problems, write_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    forms = parser.add_subparsers(dest="form", metavar="FORM", required=True)
    rename = forms.add_parser("convert", help="the names that the installed transformers has for layers, or 4's")
    lora = forms.add_parser("as-lora", help="plain LoRA of a given rank, an approximation that is measured")
    for form in (rename, lora):
        form.add_argument("folder", type=Path, help="an adapter, ours or PEFT's own")
        form.add_argument("out", type=Path, help="folder to write")
        form.add_argument("--base", type=Path, default=BASE, help=f"base model ({BASE})")
    rename.add_argument(
        "--names",
        choices=("current", "old"),
        default="current",
        help="current (default) or old, those of transformers 4",
    )
    lora.add_argument("--rank", type=int, required=True, help="of every layer's update")
    lora.add_argument("--test", type=Path, help="prepared split to compare on, such as data/prepared/test")


def act(args: argparse.Namespace) -> None:
    """Write the other form and say what changed.

    Raises:
        VitloraError: The folder is damaged or holds no adapter, or the form is not possible.
    """
    damage = next(problems(args.folder), None) if (args.folder / MANIFEST).exists() else None
    if damage:
        raise VitloraError(f"{damage}; `vitlora recover && dvc repro` makes it anew, or copy the folder anew")
    (_convert if args.form == "convert" else _as_lora)(args)
    make_readable(args.out)
    write_manifest(args.out)


def _convert(args: argparse.Namespace) -> None:
    from vitlora.model.layer_names import convert, skeleton

    count = convert(args.folder, args.out, skeleton(args.base), args.names)
    print(f"{args.out}: {count} weights renamed")


def _as_lora(args: argparse.Namespace) -> None:
    from vitlora.cli.as_lora import write_as_lora

    if args.rank < 1:
        raise VitloraError(f"--rank: got {args.rank}; the rule: at least 1")
    if not (args.folder / "vitlora.json").is_file():
        raise VitloraError(f"{args.folder} has no vitlora.json; the rule: a folder that the train stage wrote")
    report = write_as_lora(args.folder, args.out, args.base, args.rank, args.test)
    print(
        f"{args.out}: rank {args.rank}; on {report['images']} {'images' if args.test else 'random pictures'} a logit "
        f"differs by at most {report['max_logit_difference']:.2e}, the class agrees on {report['agreement']:.2%}"
    )
    if args.test:
        print(f"accuracy {report['accuracy_before']:.4f} before, {report['accuracy_after']:.4f} after")
