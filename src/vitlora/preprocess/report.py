"""What is in the data, in numbers: classes, sizes, formats, duplicates, and pictures that look alike."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitlora.images.pixels import Inspected
from vitlora.preprocess.duplicates import Duplicates, Group
from vitlora.preprocess.near_duplicates import Pair

LISTED = 50  # groups of duplicates, and pairs that look alike
PATHS = 10  # of one group
QUIET = ("upscaled", "not_compared", "odd_levels")  # of use to the page, a riddle in `dvc metrics diff`
NOTED = 200  # pictures that show little of their levels
SMALL = 10  # training pictures; a class with fewer is named
QUANTILES = ((0.0, "smallest"), (0.05, "5 %"), (0.5, "median"), (0.95, "95 %"), (1.0, "largest"))
SHAPES = ((0.5, "tall, beyond 1:2"), (0.8, "upright"), (1.25, "about square"), (2.0, "wide"))
WIDEST = "wide, beyond 2:1"
Rows = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Facts:
    """What the stage has found.

    Args:
        paths, labels, lengths: Of every row of the raw data; lengths in bytes.
        found: What the usable pictures are, by row.
        rows: Rows of `train`, `val` and `test`.
        class_names: By label.
        bad: Path to reason.
        left_out: What download found and didn't take: reason, count, names of the first.
        duplicates: Among the usable pictures.
        alike: Pairs of rows that look alike, among those in a split.
        not_compared: How many of those are too small or too plain to be compared.
        size: Of the squares, px.
    """

    paths: Sequence[str]
    labels: Sequence[int]
    lengths: Sequence[int]
    found: Mapping[int, Inspected]
    rows: Rows
    class_names: Sequence[str]
    bad: Mapping[str, str]
    left_out: Sequence[Mapping[str, Any]]
    duplicates: Duplicates
    alike: Sequence[Pair]
    not_compared: int
    size: int


def summarise(facts: Facts) -> dict[str, Any]:
    """Return all that is known about the data: what the page is drawn from, and metrics/preprocess.json."""
    classes = _count_classes(facts)
    train = [entry["train"] for entry in classes]
    noted = [row for row in sorted(facts.found) if facts.found[row].note]
    shorter = [min(picture.width, picture.height) for picture in facts.found.values()]
    return {
        **{name: len(rows) for name, rows in facts.rows.items()},
        "classes": len(facts.class_names),
        "bad": len(facts.bad),
        "imbalance": round(max(train) / min(train), 2),
        "upscaled": round(sum(side < facts.size for side in shorter) / len(shorter), 4),
        **_count_duplicates(facts),
        "images_per_class": classes,
        "small_classes": [entry["class"] for entry in classes if entry["train"] < SMALL],
        "left_out": sum(entry["count"] for entry in facts.left_out),
        "left_out_files": [{key: entry[key] for key in ("reason", "count", "names")} for entry in facts.left_out],
        "odd_levels": len(noted),
        "odd_level_images": [{"path": facts.paths[row], "note": facts.found[row].note} for row in noted[:NOTED]],
        "bad_images": [{"path": path, "reason": reason} for path, reason in sorted(facts.bad.items())],
        "sizes": list(_measure(facts)),
        "shorter_sides": [{"px": name, "images": count} for name, count in _by_octave(shorter)],
        "shapes": list(_count_shapes(facts)),
        "formats": list(_count_formats(facts)),
        "equal_pictures": [_describe_group(facts, group) for group in _worst_first(facts.duplicates)[:LISTED]],
        "similar_pictures": [_describe_pair(facts, pair) for pair in across_first(facts)[:LISTED]],
    }


def as_metrics(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of metrics/preprocess.json: few plain numbers, since DVC compares each that is in no list."""
    quiet = [{"what": name, "value": numbers[name]} for name in QUIET]
    return {**{key: value for key, value in numbers.items() if key not in QUIET}, "more": quiet}


def across_first(facts: Facts) -> list[Pair]:
    """Return the pairs that look alike, those in two splits first, then the most alike."""
    split = split_of(facts.rows)
    return sorted(facts.alike, key=lambda pair: (split[pair.first] == split[pair.second], -pair.similarity, pair))


def shown_rows(facts: Facts) -> set[int]:
    """Return the rows of the listed pairs, and the first of each listed group: the pictures that the page shows."""
    pairs = {row for pair in across_first(facts)[:LISTED] for row in (pair.first, pair.second)}
    return pairs | {group[0] for group in _worst_first(facts.duplicates)[:LISTED]}


def split_of(rows: Rows) -> dict[int, str]:
    """Return the split of each row; `test` where val and test are the same."""
    return {row: name for name in ("train", "val", "test") for row in rows[name]}


def _count_classes(facts: Facts) -> list[dict[str, Any]]:
    counts = {name: Counter(facts.labels[row] for row in rows) for name, rows in facts.rows.items()}
    return [
        {"class": name, **{split: counts[split][label] for split in counts}}
        for label, name in enumerate(facts.class_names)
    ]


def _count_duplicates(facts: Facts) -> dict[str, int]:
    split = split_of(facts.rows)
    across = [pair for pair in facts.alike if split[pair.first] != split[pair.second]]
    held = {row for pair in across for row in (pair.first, pair.second) if split[row] != "train"}
    return {
        "exact_duplicates": sum(len(group) - 1 for group in facts.duplicates.groups),
        "duplicates_in_two_classes": sum(map(len, facts.duplicates.conflicts)),
        "duplicates_left_out": len(facts.duplicates.left_out),
        "near_duplicates": len({row for pair in facts.alike for row in (pair.first, pair.second)}),
        "near_duplicates_across_splits": len(held),
        "not_compared": facts.not_compared,
    }


def _measure(facts: Facts) -> Iterator[dict[str, Any]]:
    pictures = facts.found.values()
    columns = {
        "width": sorted(picture.width for picture in pictures),
        "height": sorted(picture.height for picture in pictures),
        "bytes": sorted(facts.lengths[row] for row in facts.found),
    }
    for share, name in QUANTILES:
        at = round(share * (len(pictures) - 1))
        yield {"of_all": name, **{column: values[at] for column, values in columns.items()}}


def _by_octave(sides: Sequence[int]) -> list[tuple[str, int]]:
    """Count lengths between powers of two, from the first to the last that occur."""
    octaves = Counter(side.bit_length() - 1 for side in sides)
    return [(f"{2**k} to {2 ** (k + 1) - 1}", octaves[k]) for k in range(min(octaves), max(octaves) + 1)]


def _count_shapes(facts: Facts) -> Iterator[dict[str, Any]]:
    ratios = [picture.width / picture.height for picture in facts.found.values()]
    names = Counter(next((name for limit, name in SHAPES if ratio < limit), WIDEST) for ratio in ratios)
    for name in (*(name for _, name in SHAPES), WIDEST):
        yield {"shape": name, "images": names[name]}


def _count_formats(facts: Facts) -> Iterator[dict[str, Any]]:
    formats = Counter((picture.kind, picture.mode) for picture in facts.found.values())
    for (kind, mode), count in sorted(formats.items(), key=lambda entry: (-entry[1], entry[0])):
        yield {"format": kind, "mode": mode, "images": count}


def _worst_first(duplicates: Duplicates) -> list[Group]:
    return sorted(
        duplicates.groups,
        key=lambda group: (group not in duplicates.conflicts, group not in duplicates.crossing, -len(group), group),
    )


def _describe_group(facts: Facts, group: Group) -> dict[str, Any]:
    return {
        "images": len(group),
        "left_out": len(set(group) & set(facts.duplicates.left_out)),
        "classes": [facts.class_names[label] for label in sorted({facts.labels[row] for row in group})],
        "paths": [facts.paths[row] for row in group[:PATHS]],
    }


def _describe_pair(facts: Facts, pair: Pair) -> dict[str, Any]:
    split = split_of(facts.rows)
    return {
        "similarity": round(pair.similarity, 3),
        "mirrored": pair.mirrored,
        "paths": [facts.paths[row] for row in (pair.first, pair.second)],
        "splits": [split[row] for row in (pair.first, pair.second)],
        "classes": [facts.class_names[facts.labels[row]] for row in (pair.first, pair.second)],
    }
