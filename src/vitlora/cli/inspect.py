"""Tell of every file in a folder whether it is a picture that can be used, why not, and what it shows.

    vitlora inspect FOLDER --decoded DIR

One JSON object a line on standard output, in name order: ``file``, its path below FOLDER, in ASCII, where bytes that
are not UTF-8 stand as Python's surrogate escapes (``os.fsencode`` gives them back); ``verdict``, `accept` or `reject`;
``reason``, null or one of images.formats.Reason, and ``text``, the same for people; ``width``, ``height``, px, upright;
``seconds`` to read and decode it; ``peak_rss_mb``, the most memory of the process meanwhile (VmHWM, reset before each
file; of a process that the file took down, the most that any such process has had); ``decoded``, the PNG below DIR;
``litter``, whether it is what systems and programs leave behind, which download and predict pass over, picture or not.

Links are not followed; they, pipes, sockets and devices are `not_an_image` and never opened. A file that may not be
read is `corrupt`. Nothing in FOLDER is written to.
"""

import argparse
import hashlib
import json
import os
import resource
import signal
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

from vitlora.core.errors import VitloraError
from vitlora.download.layout import is_litter
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, read_picture
from vitlora.images.sandbox import STATUS, Isolated

LIMIT_S = 4.5  # to read and decode one picture; at most 5 with all around it
WRITE_S = 60.0
LONGEST = 255  # bytes of a file's name on common file systems
Line = dict[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--decoded", type=Path, required=True, metavar="DIR", help="gets one PNG for each picture")


def act(args: argparse.Namespace) -> None:
    """Print a line for every file; exit 0 whatever they are.

    Raises:
        VitloraError: FOLDER can't be listed, or DIR's PNGs would come among its files.
    """
    if args.folder.resolve().is_relative_to(args.decoded.resolve()):
        raise VitloraError(
            f"--decoded: got {args.decoded}, where FOLDER is; the rule: a folder of its own, since a PNG may take the "
            f"name of one of your files; such as --decoded {args.folder / 'decoded'}"
        )
    try:
        os.listdir(args.folder)
        files = [os.path.relpath(path, args.folder) for path in below(str(args.folder), args.decoded.resolve())]
        args.decoded.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VitloraError(f"{error.filename}: {error.strerror}") from None
    for line in report(args.folder, args.decoded, files):
        print(json.dumps(line), flush=True)


def below(folder: str, left_out: Path) -> Iterator[str]:
    """Yield the path of everything but folders below a folder, in name order; a folder that can't be listed too."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield entry.path
        elif Path(entry.path).resolve() != left_out:
            yield from below(entry.path, left_out)


def report(folder: Path, decoded: Path, files: list[str]) -> Iterator[Line]:
    """Yield each file's line."""
    names = decoded_names(files)
    with Isolated(limit_s=LIMIT_S) as child:
        lines = child.map(partial(judge, folder, decoded), zip(files, names, strict=True))
        for file, name, line in zip(files, names, lines, strict=True):
            if isinstance(line, BadImageError):
                (decoded / name).unlink(missing_ok=True)  # it may have been at work on it
                took = LIMIT_S if line.reason == "timeout" else 0.0
                line = {**rejected(line), "seconds": took, "peak_rss_mb": mb(resource.RUSAGE_CHILDREN)}
            yield {"file": file, **line, "litter": is_litter(Path(file).parts)}


def decoded_names(files: list[str]) -> list[str]:
    """Return a PNG's path for each file: its own and `.png`, or a digest where that is too long or names a folder."""
    folders = {str(parent) for file in files for parent in Path(file).parents}
    return [
        f"{hashlib.sha256(os.fsencode(file)).hexdigest()}.png"
        if len(os.fsencode(Path(file).name)) > LONGEST - 4 or f"{file}.png" in folders
        else f"{file}.png"
        for file in files
    ]


def judge(folder: Path, decoded: Path, names: tuple[str, str]) -> Line:
    """Read and decode one file, in a process of its own, and write the picture."""
    file, name = names
    reset_peak()
    start = perf_counter()
    try:
        image = decode(read(folder / file))
    except BadImageError as error:
        return {**rejected(error), "seconds": round(perf_counter() - start, 4), "peak_rss_mb": peak_mb()}
    seconds = round(perf_counter() - start, 4)
    signal.setitimer(signal.ITIMER_REAL, WRITE_S)  # the limit is for decoding
    (decoded / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(decoded / name, format="PNG", compress_level=1)
    accepted = {"verdict": "accept", "reason": None, "text": None, "width": image.width, "height": image.height}
    return {**accepted, "decoded": name, "seconds": seconds, "peak_rss_mb": peak_mb()}


def read(path: Path) -> bytes:
    """Read a file that stands in the folder itself."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadImageError("not_an_image", "a link, folder, pipe, socket or device")
        return read_picture(path)
    except OSError as error:
        raise BadImageError("corrupt", f"cannot be read: {error.strerror}") from None


def rejected(error: BadImageError) -> Line:
    """Return the part of a line that tells why not."""
    return {
        "verdict": "reject",
        "reason": error.reason,
        "text": str(error),
        "width": None,
        "height": None,
        "decoded": None,
    }


def reset_peak() -> None:
    """Let the kernel count this process's peak anew, where it can."""
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return this process's peak of resident memory in MB: since ``reset_peak`` on Linux, else since it began."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return mb(resource.RUSAGE_SELF)


def mb(who: int) -> float:
    """Return the peak of this process or of its largest ended child, in MB."""
    return round(resource.getrusage(who).ru_maxrss * 1024 / 1e6, 1)
