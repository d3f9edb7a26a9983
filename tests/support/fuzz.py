"""Random damage to real files: a decoder may give a picture or a reason, and nothing else.

    PYTHONPATH=src:tests python tests/support/fuzz.py 20000

A line for every seed that gives anything else; the same seed makes the same file.
"""

import sys
from collections import Counter

import numpy as np
from corpus import Case, make_corpus

from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, inspect
from vitlora.images.sandbox import Isolated

LARGEST = 200_000  # bytes; larger ones are slow to damage and no different
_sources: list[Case] = []


def sources():
    """Return the cases that begin as a format of ours does; made once a process."""
    if not _sources:
        _sources.extend(
            case for case in make_corpus() if case.category != "not_an_image" and 8 < len(case.data) < LARGEST
        )
    return _sources


def damaged(seed):
    """Return one of the files with bytes flipped, overwritten, cut out, doubled, moved in from another, or lost."""
    random = np.random.default_rng(seed)
    cases = sources()
    case = cases[random.integers(len(cases))]
    data = bytearray(case.data)
    for _ in range(random.integers(1, 8)):
        end = len(data) if random.random() < 0.5 else min(len(data), 400)
        at, length = int(random.integers(0, end + 1)), int(random.integers(1, 40))
        way = random.integers(0, 7)
        if way <= 2 and at < len(data):
            data[at] ^= 1 << int(random.integers(8)) if way else int(random.integers(1, 256))
        elif way == 3:
            del data[at : at + length]
        elif way == 4:
            data[at:at] = data[at : at + length]
        elif way == 5:
            other = cases[random.integers(len(cases))].data
            start = int(random.integers(len(other)))
            data[at : at + length] = other[start : start + length]
        elif random.random() < 0.3:
            del data[at:]
    return case.name, bytes(data)


def outcome(seed):
    """Return what ``decode`` says of a damaged file, and check that ``inspect`` says the same."""
    _, data = damaged(seed)
    try:
        image = decode(data)
        found, size, sound = "picture", image.size, image.mode == "RGB"
    except BadImageError as error:
        found, size, sound = error.reason, None, len(str(error).splitlines()) == 1
    try:
        seen = inspect(data)
        return found, sound and size == (seen.width, seen.height)
    except BadImageError as error:
        return found, sound and found == error.reason


def fuzz(seeds):
    """Return how often each outcome came, and the seeds of those that must not be."""
    counts, wrong = Counter(), []
    with Isolated(limit_s=5) as child:
        for seed, answer in zip(seeds, child.map(outcome, seeds, chunk=50), strict=True):
            if isinstance(answer, BadImageError):  # not raised by a decoder, but the end of its process
                wrong.append((seed, damaged(seed)[0], str(answer)))
            else:
                counts[answer[0]] += 1
                if not answer[1]:
                    wrong.append((seed, damaged(seed)[0], "decode and inspect differ, or the reason is no line"))
    return counts, wrong


if __name__ == "__main__":
    counts, wrong = fuzz(range(int(sys.argv[1])))
    print(*(f"{seed} {name}: {what}" for seed, name, what in wrong), dict(counts), sep="\n")
