"""Names in archives, which are bytes: read as what they are, or refused; a guess would put nonsense into labels."""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable

# What packers on Windows and old systems write, for the readings in the message.
USUAL = ("utf-8", "gb18030", "big5", "cp932", "euc_kr", "cp1251", "cp866", "cp1252", "cp850", "cp437")
UTF8_FLAG = 1 << 11
UNIX = (3, 19)  # systems that pack names in UTF-8 without saying so, macOS among them
UNICODE_PATH = 0x7075  # extra field of Info-ZIP: version, CRC-32 of the plain name, the name in UTF-8


def zip_names(members: Iterable[zipfile.ZipInfo], encoding: str | None, archive: Path) -> Iterator[str]:
    """Yield each member's name: as its flag or Unicode field says, else in the given encoding, or a Unix's in UTF-8.

    Two bytes of another encoding may happen to be UTF-8, so names that Windows packs need the encoding all the same.

    Args:
        members: As ``zipfile`` lists them, which takes names without the flag for cp437, as the format has it.
        encoding: Of names that say nothing, or None.
        archive: For messages.

    Raises:
        VitloraError: A name can't be read so.

    Source:
        APPNOTE.TXT 6.3.10, sections 4.4.4 and 4.6.9.
    """
    for info in members:
        if info.flag_bits & UTF8_FLAG or info.orig_filename.isascii():
            yield info.filename
        else:
            raw = info.orig_filename.encode("cp437")
            yield _unicode_path(info.extra, raw) or decoded(raw, encoding, archive, info.create_system in UNIX)


def decoded(raw: bytes, encoding: str | None, archive: Path, unix: bool = True) -> str:
    """Return the text of a name's bytes.

    Args:
        raw: The name.
        encoding: What it is in; None takes a Unix's for UTF-8.
        archive: For messages.
        unix: Whether a Unix has packed it.

    Raises:
        VitloraError: It is not in this encoding, or there is none; shows how it reads in others.
    """
    try:
        if encoding or unix:
            return raw.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        pass
    readings = ", ".join(f"{name} ({printable(text)})" for name, text in _readings(raw))
    got = f"not in {encoding}, as data.name_encoding says" if encoding else "in an encoding that is not said"
    raise VitloraError(
        f"data.path: {archive}: the name {printable(raw.decode('utf-8', 'backslashreplace'))} is {got}; set "
        f"data.name_encoding to the one that reads right: {readings}; or pack it anew in UTF-8"
    )


def _readings(raw: bytes) -> Iterator[tuple[str, str]]:
    for name in USUAL:
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        if text.isprintable():
            yield name, text


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in a zip's Unicode field, if there is one and it belongs to this plain name."""
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and field[:1] == b"\1" and int.from_bytes(field[1:5], "little") == zlib.crc32(raw):
            try:
                return field[5:].decode("utf-8")
            except UnicodeDecodeError:
                return None
    return None
