"""Text for people: what comes from outside made fit for a terminal, sizes made readable."""

JOINERS = "\u200c\u200d"  # invisible, but Persian, Hindi and families of emoji are spelt with them


def printable(text: str) -> str:
    """Write control characters, marks that turn the direction of text, and bytes outside UTF-8 as escapes.

    A file name may hold the codes that clear a terminal, set its title, or make `gnp.exe` look like `exe.png`.
    """
    return "".join(char if char.isprintable() or char in JOINERS else repr(char)[1:-1] for char in text)


def conflict_line(text: str) -> int | None:
    """Return the number of the first line that Git wrote for a conflict of a merge; None where there is none."""
    marks = ("<<<<<<< ", ">>>>>>> ")
    return next((number for number, line in enumerate(text.splitlines(), 1) if line.startswith(marks)), None)


def is_address(path: str | None) -> bool:
    """Whether a path has a scheme, such as https."""
    return path is not None and "://" in path


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return `1 image` or `1,797 images`; nouns with another plural bring it."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def shown_seconds(seconds: float) -> str:
    """Return a duration as people read it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def shown_bytes(count: int) -> str:
    """Return a size as people read it."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
