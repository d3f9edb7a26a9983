"""The data report as a page for people: one file without scripts, which asks nobody for anything."""

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitlora.core.text import printable

Numbers = Mapping[str, Any]
Pictures = Mapping[str, bytes]
BARS = 120  # classes drawn; of more, the largest and the smallest
ROWS = 200  # of files left out
STYLE = """
:root { color-scheme: light dark; --line: #8884; --train: #3b78c2; --val: #e0a030; --test: #4a9b6e; --soft: #8882 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.6rem; margin: .5rem 0 0 } h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem }
p, ul { margin: .5rem 0 } .quiet { opacity: .7 }
td, th, li, figcaption, .class { overflow-wrap: anywhere }
table { border-collapse: collapse; margin: .5rem 0 } th { text-align: left; font-weight: 600 }
td, th { padding: .15rem 1rem .15rem 0; vertical-align: top; border-bottom: 1px solid var(--line) }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.bars { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr max-content; gap: .2rem .8rem }
.bars svg { width: 100%; height: 1.1rem; display: block; align-self: center; background: var(--soft) }
.class { max-width: 14rem } @media (max-width: 30rem) { .class { max-width: 7rem } }
.train { fill: var(--train); color: var(--train) } .val { fill: var(--val); color: var(--val) }
.test { fill: var(--test); color: var(--test) }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; font-size: .85rem }
.two { display: flex; gap: .5rem; align-items: flex-start; min-height: 3rem }
img { max-width: 50%; border-radius: .2rem }
""".strip()
HEAD = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Data report</title>
<style>
{STYLE}
</style>
"""


def render(numbers: Numbers, pictures: Pictures) -> str:
    """Return the page.

    Args:
        numbers: What ``data_report.summarise`` gives.
        pictures: A small JPEG of what the lists of equal and similar pictures name, by path; a missing one is left out.
    """
    parts = (_head, _notes, _classes, _sizes, _equal, _similar, _left_out)
    return HEAD + "\n".join(line for part in parts for line in part(numbers, pictures)) + "\n</html>\n"


def _head(numbers: Numbers, _: Pictures) -> Iterator[str]:
    total = numbers["train"] + numbers["val"] + numbers["test"]
    yield "<h1>Data report</h1>"
    counts = ", ".join(f"{_named(name)} {numbers[name]:,}" for name in ("train", "val", "test"))
    yield f'<p class="quiet">{total:,} pictures of {numbers["classes"]:,} classes: {counts}.</p>'


def _notes(numbers: Numbers, _: Pictures) -> Iterator[str]:
    """Say in words what deserves a look."""
    notes = [text for count, text in _worth_a_look(numbers) if count]
    yield "<h2>Worth a look</h2>"
    if not notes:
        yield "<p>Nothing stands out.</p>"
        return
    yield "<ul>"
    yield from (f"<li>{note}" for note in notes)
    yield "</ul>"


def _worth_a_look(numbers: Numbers) -> Iterator[tuple[float, str]]:
    count = numbers["near_duplicates_across_splits"]
    yield count, f"{_of(count, 'picture')} of val and test look like one in another split: the score may be flattered."
    count = numbers["duplicates_in_two_classes"]
    yield count, f"{_of(count, 'file')} show a picture that stands in two classes."
    count = numbers["duplicates_left_out"]
    yield count, f"{_of(count, 'duplicate')} left out, so that no picture is in two splits or two classes."
    yield numbers["bad"], f"{_of(numbers['bad'], 'file')} left out that cannot be used."
    small = numbers["small_classes"]
    yield len(small), f"Fewer than 10 pictures to train on in {_of(len(small), 'class', 'classes')}: {_list(small)}."
    for split in ("val", "test"):
        absent = [entry["class"] for entry in numbers["images_per_class"] if not entry[split]]
        yield len(absent), f"No picture in {split} of {_of(len(absent), 'class', 'classes')}: {_list(absent)}."
    ratio = numbers["imbalance"]
    yield ratio >= 3, f"The largest class has {ratio:g} times as many training pictures as the smallest."
    share = numbers["upscaled"]
    yield share, f"{share:.1%} of the pictures are smaller than the model's input and will be enlarged."


def _classes(numbers: Numbers, _: Pictures) -> Iterator[str]:
    entries = sorted(numbers["images_per_class"], key=lambda entry: (-entry["train"], entry["class"]))
    most = max(entry["train"] + entry["val"] + entry["test"] for entry in entries)
    yield "<h2>Classes</h2>"
    yield f"<p>Largest over smallest in train: {numbers['imbalance']:g}. Bars: {_legend()}.</p>"
    hidden = len(entries) - BARS
    if hidden > 0:
        yield f'<p class="quiet">The {BARS // 2} largest and smallest; {hidden:,} between them are not drawn.</p>'
        entries = entries[: BARS // 2] + entries[-(BARS // 2) :]
    yield '<div class="bars">'
    for entry in entries:
        counts = [(split, entry[split]) for split in ("train", "val", "test")]
        yield _bar(entry["class"], counts, most, " + ".join(f"{count:,}" for _, count in counts))
    yield "</div>"


def _sizes(numbers: Numbers, _: Pictures) -> Iterator[str]:
    yield "<h2>Sizes and formats</h2>"
    header = ("each by itself", "width, px", "height, px", "size, kB")
    rows = [
        (entry["of_all"], f"{entry['width']:,}", f"{entry['height']:,}", f"{entry['bytes'] / 1000:,.1f}")
        for entry in numbers["sizes"]
    ]
    yield from _table(header, rows)
    yield f"<p>Smaller than the model's input, so enlarged: {numbers['upscaled']:.1%}.</p>"
    for title, key, name in (("Shorter side, px", "shorter_sides", "px"), ("Width to height", "shapes", "shape")):
        most = max(entry["images"] for entry in numbers[key])
        yield f'<p>{title}</p><div class="bars">'
        for entry in numbers[key]:
            yield _bar(entry[name], [("train", entry["images"])], most, f"{entry['images']:,}")
        yield "</div>"
    formats = [(entry["format"], entry["mode"], f"{entry['images']:,}") for entry in numbers["formats"]]
    yield from _table(("format", "mode", "pictures"), formats)


def _equal(numbers: Numbers, pictures: Pictures) -> Iterator[str]:
    groups, count = numbers["equal_pictures"], numbers["exact_duplicates"]
    yield "<h2>Equal pictures</h2>"
    yield f"<p>{_of(count, 'file')} repeat another one, to the byte or to the pixel. Copies are kept in one split.</p>"
    yield '<div class="pairs">'
    for group in groups:
        classes = f"in {len(group['classes'])} classes: {_list(group['classes'])}" if len(group["classes"]) > 1 else ""
        left_out = f"{group['left_out']} left out" if group["left_out"] else ""
        said = "; ".join(text for text in (f"{group['images']} copies", classes, left_out) if text)
        yield _figure(pictures, group["paths"][:1], [said, *map(_text, group["paths"])])
    yield "</div>"


def _similar(numbers: Numbers, pictures: Pictures) -> Iterator[str]:
    pairs, count, across = (
        numbers[key] for key in ("similar_pictures", "near_duplicates", "near_duplicates_across_splits")
    )
    yield "<h2>Pictures that look alike</h2>"
    yield (
        f"<p>{_of(count, 'picture')} look like another one though their files differ, {across:,} of val and test like "
        f"one in another split. Nothing is moved for it. Not compared, being under 32 px or plain: "
        f"{numbers['not_compared']:,}.</p>"
    )
    yield '<div class="pairs">'
    for pair in pairs:
        said = f"{pair['similarity']:.1%} alike{', mirrored' if pair['mirrored'] else ''}"
        both = zip(pair["splits"], pair["classes"], pair["paths"], strict=True)
        lines = [f"{_named(split)} {_text(name)}: {_text(path)}" for split, name, path in both]
        yield _figure(pictures, pair["paths"], [said, *lines])
    yield "</div>"


def _left_out(numbers: Numbers, _: Pictures) -> Iterator[str]:
    files = numbers["bad_images"]
    if files:
        yield "<h2>Files that cannot be used</h2>"
        yield from _table(("file", "reason"), [(_text(file["path"]), _text(file["reason"])) for file in files[:ROWS]])
        if len(files) > ROWS:
            yield f'<p class="quiet">and {len(files) - ROWS:,} more, listed in metrics/preprocess.json.</p>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table of ready HTML; columns of numbers stand to the right."""
    right = [all(row[at][:1].isdigit() for row in rows) for at in range(len(header))]
    yield "<table>"
    for tag, row in (("th", header), *(("td", row) for row in rows)):
        cells = zip(right, row, strict=True)
        yield "<tr>" + "".join(f"<{tag}{' class=n' if aside else ''}>{text}" for aside, text in cells)
    yield "</table>"


def _bar(name: str, counts: Sequence[tuple[str, int]], most: int, said: str) -> str:
    at, drawn = 0.0, ""
    for split, count in counts:
        width = 100 * count / most
        drawn += f'<rect class="{split}" x="{at:.2f}" width="{width:.2f}" height="1"/>'
        at += width
    svg = f'<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    return f'<span class="class">{_text(name)}</span>{svg}<span class="n">{said}</span>'


def _figure(pictures: Pictures, paths: Sequence[str], lines: Sequence[str]) -> str:
    encoded = (base64.b64encode(pictures[path]).decode() for path in paths if path in pictures)
    images = "".join(f'<img alt="" src="data:image/jpeg;base64,{data}">' for data in encoded)
    return f'<figure><div class="two">{images}</div><figcaption>{"<br>".join(lines)}</figcaption></figure>'


def _legend() -> str:
    return ", ".join(map(_named, ("train", "val", "test")))


def _named(split: str) -> str:
    return f'<b class="{split}">{split}</b>'


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(_text, names[:10])) + more


def _of(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _text(text: str) -> str:
    """Return a name from outside as it may stand in a page."""
    return html.escape(printable(text))
