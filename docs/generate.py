"""Write the tables of README.md and docs/*.md, and params.schema.json, from code and benchmarks (`make docs`).

A table stands between `<!-- NAME: docs/generate.py -->` and `<!-- end -->`; a test compares.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from vitlora.core.params import Params, shown
from vitlora.model.methods import CONFIGS
from vitlora.model.params import LORA_FAMILY, MIXTURES, OPTIONS, WITHOUT_ADAPTER
from vitlora.safety.check import sections
from vitlora.safety.keys import AFTER, SCHEMA, allowed, reader, schema

ROOT = Path(__file__).parents[1]
WAYS = {
    "full": "as it is",
    "checkpointing": "`activation_checkpointing`",
    "4bit": "`load_in_4bit`",
    "4bit+checkpointing": "both",
}
BLOCK = re.compile(r"(<!-- ([a-z-]+): docs/generate\.py -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, line))} |\n" for line in lines)


def cell(content: object) -> str:
    """Return text that fits into one cell."""
    return " ".join(str(content).split()).replace("``", "`").replace("|", "\\|")


def results(name: str) -> Any:
    """Return what a benchmark measured."""
    return json.loads((ROOT / "benchmarks/results" / f"{name}.json").read_text(encoding="utf-8"))


# --- parameters ---


def parameters() -> str:
    """Every key: what it may be, what the built-in run has, what it does."""
    preset = YAML(typ="safe").load(ROOT / "presets/digits.yaml")
    parts = []
    for section, (classes, *_) in sections().items():
        stage = reader(section)
        parts.append(f"\n## {section}\n\nRead by {stage}. A change runs: {AFTER[stage]}.\n\n")
        rows = []
        for key, field in classes.model_fields.items():
            kind = "the methods below" if key == "method" else allowed(field.annotation, field.metadata)
            rows.append((f"`{section}.{key}`", kind, f"`{shown(preset[section][key])}`", field.description))
        parts.append(table(("key", "may be", "built-in run", "what it does"), rows))
    return "".join(parts)


def method_options() -> str:
    """Every method: PEFT's class, its own keys with their defaults, what it is."""

    def row(method: str) -> tuple[str, ...]:
        kind: type[Params] = OPTIONS[method]
        fields = kind.model_fields.items()
        own = ", ".join(
            f"`{key}`" if field.is_required() else f"`{key}: {shown(field.default)}`" for key, field in fields
        )
        about = "" if method in LORA_FAMILY or method in WITHOUT_ADAPTER else (kind.__doc__ or "").split("\n")[0]
        if method in MIXTURES:
            about = (kind.__doc__ or "").split(";")[0].split("\n")[0].rstrip(".") + "."
        return f"`{method}`", CONFIGS.get(method, "none"), own or "none", about

    head = ("`lora.method`", "PEFT's config", "its own keys, in `lora.options`", "what it is")
    return table(head, map(row, OPTIONS))


# --- results ---


def methods(data: str, memory: str) -> str:
    """Accuracy of every method, best first."""
    rows = sorted((row for row in results("methods") if row["data"] == data), key=lambda row: -row["accuracy"])
    measured = ("test accuracy", "95 % interval", "seeds", "above plain LoRA", "learning rate")
    return table(
        ("`lora.method`", *measured, "trained", "adapter, MB", "images/s", "memory, MB"),
        (
            (
                row["method"],
                f"{row['accuracy']:.3f}",
                f"{row['low']:.3f} to {min(1, row['high']):.3f}",
                len(row["seeds"]),
                above(row["beyond_lora"]),
                f"{row['learning_rate']:.1e}",
                f"{row['trainable_parameters']:,}",
                f"{row['adapter_bytes'] / 1e6:.2f}",
                f"{row['train_images_per_s']:,.0f}",
                f"{row[memory]:,}",
            )
            for row in rows
        ),
    )


def above(found: dict[str, float] | None) -> str:
    """Return a difference with its interval, bold where that leaves out zero."""
    if found is None:
        return ""
    text = f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
    return f"**{text}**" if found["low"] > 0 or found["high"] < 0 else text


def mixtures() -> str:
    """Accuracy of two adapters put together."""
    found = results("mixture")
    trained = {run["name"]: run["trainable_parameters"] for run in found["runs"]}
    rows = sorted(found["test_accuracy"].items(), key=lambda item: -item[1]["mean"])
    return table(
        ("on all ten classes, with a newly trained head", "test accuracy", "three seeds from, to", "trained"),
        (
            (name, f"{row['mean']:.3f}", f"{row['least']:.3f}, {row['most']:.3f}", f"{trained[name]:,}")
            for name, row in rows
        ),
    )


def augment() -> str:
    """Processor time of each kind of augmentation, and what that asks of the loader."""
    ordered = sorted(results("augment")["cpu_ms_per_picture"].items(), key=lambda item: item[1])
    rows = ((name, f"{ms:.2f}", f"{3 * ms:.1f}") for name, ms in ordered if "in the step" not in name)
    return table(("`augment`", "ms a picture on one core", "cores for 3,000 images/s"), rows)


def speed() -> str:
    """End-to-end training speed, slowest first."""
    # fp8 was tried and taken out (docs/speed.md); its readings stay.
    rows = [row for row in results("train_speed")["rows"] if "failed" not in row and row["name"] != "fp8"]
    rows += [row for row in results("train_speed_workers")["rows"] if row["name"] == "workers"]
    return table(
        ("", "training, images/s", "validation, images/s", "of the matrix rate", "GPU idle for data", "5 epochs, min"),
        (
            (
                row["what"],
                rate(row["train_images_per_s"]),
                rate(row["val_images_per_s"]),
                f"{row['mfu']:.0%}",
                f"{row['data_wait_gpu_idle_share']:.1%}",
                f"{row['recipe_s'] / 60:.1f}",
            )
            for row in sorted(rows, key=lambda row: row["train_images_per_s"]["median"])
        ),
    )


def rate(found: dict[str, float]) -> str:
    """Return a median with the lowest and the highest."""
    return f"{found['median']:,.0f} ({found['min']:,.0f} to {found['max']:,.0f})"


def speed_small() -> str:
    """End-to-end training speed of later runs, on another card; slowest first."""
    runs = results("train_speed_small")["runs"]
    rows = [(run["settings"]["model"], run["host"]["commit"], row) for run in runs for row in run["rows"]]
    return table(
        ("model", "images at once", "", "training, images/s", "commit"),
        (
            (model, row["batch"].partition(" ")[0], row["what"], rate(row["train_images_per_s"]), commit)
            for model, commit, row in sorted(rows, key=lambda each: (each[0], each[2]["train_images_per_s"]["median"]))
        ),
    )


def large_bases() -> str:
    """What bases of billions of weights take on one GPU."""
    rows = results("large_bases")["rows"]
    return table(
        ("model", "billion weights", "", "step", "images/s", "GPU, GiB"),
        (
            (
                row["model"],
                f"{row['billion_weights']:.2f}",
                WAYS[row["way"]],
                f"{row['step']}, captured" if row["captured"] else row["step"],
                f"{row['images_per_s']:,.0f} ({row['lowest']:,.0f} to {row['highest']:,.0f})",
                f"{row['gpu_gib']:.1f}",
            )
            for row in rows
        ),
    )


def many() -> str:
    """What a table of many pictures costs training."""

    def first(row: dict[str, Any]) -> str:
        return f"{max(row[epoch]['first_batch_s'] for epoch in ('epoch_1', 'epoch_2')):.1f}"

    def row(found: dict[str, Any]) -> tuple[str, ...]:
        batch = f"{found['epoch_2']['ms_a_batch']:.1f}"
        return (f"{found['pictures']:,}", f"{found['open_s']:.2f}", first(found), batch, f"{found['mb']:,}")

    head = ("pictures", "opened in, s", "an epoch's first batch after, s", "each after it, ms", "memory, MB")
    return table(head, map(row, results("many_pictures")["rows"]))


def stream() -> str:
    """What packing a stream takes."""
    rows = results("stream")["rows"]
    return table(
        ("pictures", "parquet files of, MB", "memory, MB", "time, s"),
        ((f"{row['pictures']:,}", f"{row['file_mb']:,}", f"{row['mb']:,}", f"{row['s']:.0f}") for row in rows),
    )


def smaller() -> str:
    """What scaled down pictures save and cost."""
    rows = results("smaller")["rows"]
    return table(
        ("shorter side, px", "bytes left", "mean difference", "99th percentile", "largest"),
        (
            (
                f"{row['short_side_px']}",
                f"{row['bytes']:.0%}",
                f"{row['mean']}",
                f"{row['percentile_99']:.0f}",
                f"{row['max']}",
            )
            for row in rows
        ),
    )


def scaling() -> str:
    """What several GPUs should train, by the scaling model: a row a model and batch, a column a number of GPUs."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in results("scaling")["rows"]:
        several = f"{row['images_per_s']:,}" + (f" ({row['times']} times)" if row["gpus"] > 1 else "")
        bound = "" if row["binds"] == "the step" else f", {row['binds']}"
        found.setdefault((row["model"], f"{row['batch']:,} {row['of']}"), []).append(several + bound)
    head = ("model", "images at once", "1 GPU", "2", "4", "8", "2 hosts of 8")
    return table(head, ((*key, *cells) for key, cells in found.items()))


# Not read of a run that was refused at its end.
OF_A_WHOLE_RUN = {"start_up_and_end_s": 0, "peak_gpu_gib": 1, "peak_host_pss_gib": 1}


def several_gpus() -> str:
    """What was measured on several GPUs, end to end, beside one, and what the scaling model says of each."""
    found = results("several_gpus")["rows"]
    predicted = [row["images_per_s"] for row in results("scaling")["checked"]]
    lines = []
    for row, model in zip(found, predicted, strict=True):
        rate = row["train_images_per_s"]
        times = [row[key] for key in row if key.startswith("times_one_gpu")]
        lines.append(
            (
                row["model"],
                row["images"],
                row["processes"],
                f"{rate['median']:,.0f} ({rate['min']:,.0f} to {rate['max']:,.0f})",
                f"{times[0]:.2f}" if times else "",
                f"{model:,}",
                f"{row['data_wait_share']:.1%}",
                f"{row['recipe_epoch_s']:.1f}",
                *(f"{row[key]:.{digits}f}" if key in row else "" for key, digits in OF_A_WHOLE_RUN.items()),
            )
        )
    head = ("model", "images a step", "GPUs", "images/s", "times one", "the model says", "waits for images")
    return table((*head, "Food-101's epoch with val, s", "start and end, s", "GPU GiB", "host GiB"), lines)


def captured() -> str:
    """The step alone, kernel by kernel and captured, for every method."""

    def spread(row: dict[str, Any] | None) -> str:
        if row is None:
            return "not captured"
        return f"{row['images_per_s']:,} ({row['lowest']:,} to {row['highest']:,})"

    found = results("captured")
    head = ("model", "`lora.method`", "images at once", "step", "kernel by kernel", "captured", "times", "commit")
    return table(
        head,
        (
            (
                row["model"],
                row["method"],
                row["batch"],
                row["step"],
                spread(row["not_captured"]),
                spread(row["captured"]),
                f"{row['times']:.1f}" if row["captured"] else "",
                row.get("commit", found["host"]["commit"]),
            )
            for row in found["rows"]
        ),
    )


def faults() -> str:
    """What was broken on purpose, how often, and how often it ended well."""
    rows = [row for row in results("faults") if row["tries"] >= 5]
    return table(("what was done", "tries", "survived"), ((row["what"], row["tries"], row["survived"]) for row in rows))


def serve() -> str:
    """Return how the service does under load."""
    head = [
        "picture",
        "decoders",
        "requests",
        "errors",
        "answers/s",
        "p50",
        "p99",
        "a batch of 32 by itself",
        "p99 in such batches",
    ]
    head += ["memory before, after"]
    rows = [
        [
            run["picture"],
            run["decoders"],
            f"{run['requests']:,}",
            run["errors"],
            f"{run['per_s']:.0f}",
            *(f"{run[name]:.3f} s" for name in ("p50_s", "p99_s", "own_batch_s")),
            run["p99_in_own_batches"],
            f"{run['memory_mb'][0]:.0f} MB, {run['memory_mb'][-1]:.0f} MB",
        ]
        for run in results("serve")["runs"]
    ]
    return table(head, rows)


def formats(kind: Literal["formats", "int8"]) -> str:
    """Return what each format, or each way to int8, is beside the trained model, on every run that was measured."""
    head = [kind, "accuracy", "same class as the trained model", "logits within, mean", "MB", "ms for 1, for 32"]
    rows = [
        [
            f"{run}: {name}",
            f"{row['accuracy']:.4f} ({row['accuracy_interval'][0]:.3f} to {row['accuracy_interval'][1]:.3f})",
            f"{row['agreement']:.2%} ({row['agreement_interval'][0]:.1%} to {row['agreement_interval'][1]:.1%})",
            f"{row['largest_logit_difference']:.3f}, {row['mean_logit_difference']:.3f}",
            f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else "",
            f"{row['batch_1_ms']:.0f}, {row['batch_32_ms']:.0f}" if "batch_1_ms" in row else "",
        ]
        for run, found in results("formats")["runs"].items()
        for name, row in found[kind].items()
    ]
    return table(head, rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "parameters": parameters,
    "method-options": method_options,
    "methods-food": lambda: methods("food101-10", "peak_gpu_mb"),
    "methods-digits": lambda: methods("digits", "peak_rss_mb"),
    "mixtures": mixtures,
    "augment": augment,
    "speed": speed,
    "speed-small": speed_small,
    "captured": captured,
    "large-bases": large_bases,
    "many": many,
    "stream": stream,
    "smaller": smaller,
    "scaling": scaling,
    "several-gpus": several_gpus,
    "faults": faults,
    "serve": serve,
    "formats": lambda: formats("formats"),
    "formats-int": lambda: formats("int8"),
}


def renewed(text: str) -> str:
    """Return a page with all its tables made anew."""
    return BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], text)


def pages() -> dict[Path, str]:
    """Return what each written page, and the schema of params.yaml, should hold."""
    written = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {page: renewed(page.read_text(encoding="utf-8")) for page in written}
    return {**found, ROOT / SCHEMA: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"}


if __name__ == "__main__":
    for page, content in pages().items():
        if not page.exists() or page.read_text(encoding="utf-8") != content:
            page.write_text(content, encoding="utf-8")
            print(f"renewed {page.relative_to(ROOT)}", file=sys.stderr)
