"""Open a zip or tar from outside, member by member and without unpacking: no member can be written anywhere.

What could fill memory or disk, or keep the reader busy for hours, is refused with its name before any member is read.
"""

import bz2
import gzip
import lzma
import stat
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

from vitlora.core.errors import VitloraError
from vitlora.download.names import decoded, zip_names

MAX_ENTRIES = 500_000  # their table alone takes 300 MB of memory
MAX_TABLE = 500 * MAX_ENTRIES  # bytes of a zip's table, which `zipfile` reads at once
MAX_HEADER = 1_000_000  # bytes of one member of a tar; a name has 4,096 at most, the rest are attributes
MAX_HEADERS = 2_000 * MAX_ENTRIES  # bytes of all; they are kept in memory
MAX_UNPACKED = 50_000_000_000  # bytes; more than anyone trains on from one archive, less than a usual disk
MAX_RATIO = 200  # photos don't shrink, text does tenfold; deflate's limit is 1,032
RATIO_FROM = 10_000_000  # bytes unpacked; blank pictures shrink a thousandfold, and below this they do no harm
MAX_PICTURE = 50_000_000  # bytes, held in memory
TABLE_ROW, TABLE_END, TABLE_END_64 = b"PK\1\2", b"PK\5\6", (b"PK\6\6", b"PK\6\7")
PIECE = 1 << 20
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
    b"\x5d\0\0": lzma.open,  # .lzma, the older format
}
# Name, `file`, `folder` or `other`, and what its reader needs.
Entry = tuple[str, str, Any]
Reader = Callable[[Any], bytes]


def open_archive(path: Path, encoding: str | None, scratch: Path | None) -> tuple[list[Entry], Reader]:
    """List an archive's members and return the function that reads one.

    Args:
        path: Zip, or tar of whatever compression.
        encoding: Of names that are not UTF-8; None refuses them.
        scratch: Folder for a nameless copy of a compressed tar without its compression; None for the system's.

    Raises:
        VitloraError: More than a limit allows, members of a zip that overlap, or a name that can't be read.
        Exception: Neither of the two, damaged, or cut off; each kind of compression raises its own.
    """
    with ExitStack() as stack:
        plain = stack.enter_context(_uncompressed(path, scratch))
        # Tar first: one whose last picture is really a zip would pass for that zip.
        if _is_tar(plain):
            entries, read = _open_tar(plain, path, encoding)
            weakref.finalize(read, plain.close)
            stack.pop_all()
            return entries, read
    return _open_zip(path, encoding)


def kind_of(mode: int) -> str:
    """Return `file`, `folder`, or `other` for links, pipes, sockets and devices."""
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _open_zip(path: Path, encoding: str | None) -> tuple[list[Entry], Reader]:
    _refuse_long_table(path)
    archive = zipfile.ZipFile(path)
    members = archive.infolist()
    _refuse_overlap(members, archive.start_dir, path)
    for info in members:
        _refuse_bomb(info.file_size, info.compress_size, path, info.filename)
    _refuse_bomb(sum(info.file_size for info in members), path.stat().st_size, path)

    def read(info: zipfile.ZipInfo) -> bytes:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # The others' libraries unpack a piece to its end, however long that is.
            raise ValueError(f"compression {info.compress_type}; the rule: stored or deflated")
        with archive.open(info) as file:
            return _read(file, info.file_size)

    names = zip_names(members, encoding, path)
    return [(name.replace("\\", "/"), _zip_kind(info), info) for name, info in zip(names, members, strict=True)], read


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16  # zero where the archive comes from Windows
    return "folder" if info.is_dir() else kind_of(mode) if stat.S_IFMT(mode) else "file"


def _refuse_long_table(path: Path) -> None:
    """Count a zip's members before `zipfile` makes an object of each (a million take 6 s and 0.6 GB)."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        begin = file.seek(max(0, size - (1 << 16) - 98))  # a comment, the end record, and a long archive's second one
        end, length = _table_end(file.read())
        if length > MAX_TABLE:
            raise VitloraError(f"data.path: {path} has a table of {length:,} bytes; the rule: at most {MAX_TABLE:,}")
        file.seek(max(0, begin + end - length))
        count = file.read(length).count(TABLE_ROW)
    _refuse_many(count, path)


def _table_end(tail: bytes) -> tuple[int, int]:
    """Find where a zip's table ends, and its length in bytes, by the steps of `zipfile`, so as not to be deceived."""
    at = len(tail) - 22
    if not (tail[at:].startswith(TABLE_END) and tail.endswith(b"\0\0")):
        at = tail.rfind(TABLE_END)
    if at < 0:
        return 0, 0  # no zip; `zipfile` says so
    if tail[at - 20 :].startswith(TABLE_END_64[1]) and tail[at - 76 :].startswith(TABLE_END_64[0]) and at >= 76:
        return at - 76, int.from_bytes(tail[at - 36 : at - 28], "little")
    return at, int.from_bytes(tail[at + 12 : at + 16], "little")


def _refuse_many(count: int, path: Path) -> None:
    if count > MAX_ENTRIES:
        raise VitloraError(f"data.path: {path} has more than {MAX_ENTRIES:,} members; use data.source: folder")


def _refuse_overlap(members: Iterable[zipfile.ZipInfo], table: int, path: Path) -> None:
    """Refuse a zip that stores the same bytes once for many members, as the smallest bombs do.

    Source:
        D. Fifield, "A better zip bomb", 2019.
    """
    ordered = sorted(members, key=lambda info: info.header_offset)
    spans = [(info.header_offset, info.header_offset + 30 + info.compress_size, info.filename) for info in ordered]
    for (_, end, name), (begin, _, other) in pairwise([*spans, (table, 0, "its own table")]):
        if end > begin:
            raise VitloraError(f"data.path: {path}: {name} overlaps {other}; a zip stores no byte twice")


def _refuse_bomb(unpacked: int, packed: int, path: Path, name: str = "") -> None:
    where = f"{path}: {name}" if name else f"{path}"
    if unpacked > MAX_UNPACKED:
        raise VitloraError(f"data.path: {where} unpacks to {unpacked:,} bytes; the rule: at most {MAX_UNPACKED:,}")
    if unpacked > RATIO_FROM and unpacked > MAX_RATIO * packed:
        raise VitloraError(
            f"data.path: {where} unpacks {packed:,} bytes to {unpacked:,} or more; the rule: at most {MAX_RATIO}-fold"
        )


def _open_tar(plain: BinaryIO, path: Path, encoding: str | None) -> tuple[list[Entry], Reader]:
    tar = tarfile.open(fileobj=cast(BinaryIO, Bounded(plain)), mode="r:")  # noqa: SIM115 - read as they are asked for
    members = list(_members(tar, path))
    # `tarfile` takes a damaged header, or the end of a cut file, for the end of the archive.
    plain.seek(tar.offset)
    if plain.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"damaged or cut off after {len(members)} members")
    tar.fileobj = plain

    def read(member: tarfile.TarInfo) -> bytes:
        file = tar.extractfile(member)
        assert file is not None  # it is a regular file
        with file:
            return _read(file, member.size)

    return [(_tar_name(member, encoding, path), _tar_kind(member), member) for member in members], read


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    for count, member in enumerate(tar, 1):
        _refuse_many(count, path)
        if member.size < 0:  # Python below 3.11.14 would step back and read it again, for ever
            raise tarfile.ReadError(f"{member.name} has {member.size} bytes")
        yield member


def _tar_name(member: tarfile.TarInfo, encoding: str | None, path: Path) -> str:
    """Return a member's name; `tarfile` takes it for UTF-8 and keeps what isn't as surrogates."""
    if member.name.isascii() or "path" in member.pax_headers:  # which is UTF-8 always
        return member.name
    return decoded(member.name.encode("utf-8", "surrogateescape"), encoding, path)


def _tar_kind(member: tarfile.TarInfo) -> str:
    """Count a sparse file as no regular one: its holes take no room in the archive and any amount in memory."""
    return "folder" if member.isdir() else "file" if member.isfile() and not member.issparse() else "other"


class Bounded:
    """A tar's file while it is listed: `tarfile` keeps every header, a long name say, at whatever length it claims."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell, self.left = file, file.seek, file.tell, MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        """Read as much as a header may have, while that of all headers is not used up."""
        self.left -= size
        if not 0 <= size <= MAX_HEADER or self.left < 0:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)


def _is_tar(plain: BinaryIO) -> bool:
    """Look at the first header only; `tarfile.is_tarfile` would read all that it claims to have."""
    try:
        tarfile.TarInfo.frombuf(plain.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return False
    finally:
        plain.seek(0)
    return True


def _uncompressed(path: Path, scratch: Path | None) -> BinaryIO:
    """Open a tar for reads in any order. A compressed one would be decompressed from its start for every picture."""
    with path.open("rb") as file:
        start = file.read(8)
    unpack = next((unpack for magic, unpack in COMPRESSED.items() if start.startswith(magic)), None)
    if unpack is None:
        return path.open("rb")
    with ExitStack() as stack:
        plain = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=scratch)))
        packed, source = path.stat().st_size, stack.enter_context(unpack(path))
        while piece := source.read(PIECE):
            plain.write(piece)
            _refuse_bomb(plain.tell(), packed, path)
        source.close()
        plain.seek(0)
        stack.pop_all()
    return plain


def _read(file: Any, size: int) -> bytes:
    if size > MAX_PICTURE:
        raise ValueError(f"{size:,} bytes; the rule: at most {MAX_PICTURE:,}")
    return bytes(file.read(MAX_PICTURE))
