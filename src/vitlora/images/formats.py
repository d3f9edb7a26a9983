"""A picture file from outside: its format, whether it is whole, and the parts that its pixels come from.

Decoders are made to show something: Pillow and libjpeg fill what is missing with grey, pass over checksums and
warnings, and stop at the last row whatever follows. What they would overlook is found here, before a pixel is made.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

from PIL import Image

Reason = Literal[
    "truncated", "corrupt", "bomb", "not_an_image", "empty", "too_small", "unsupported", "too_large", "timeout"
]
MAX_BYTES = 50_000_000  # of a file
# The largest that phones and 35-mm cameras commonly write (8192 x 6144 px), and what a worker's memory allows.
MAX_PIXELS = 52_000_000
MAX_WEBP_PIXELS = 25_000_000  # its decoder takes 17 bytes a pixel, others 4 to 10
MIN_SIDE = 2  # px; less is a tracking pixel or a rule, nothing to learn from
MAX_INFLATED = 1 << 20  # bytes of a compressed text or colour profile, and beyond the last row: Pillow's own limit
MAX_SCANS = 100  # of a progressive JPEG, each of which passes over the whole picture; encoders write some ten
STEP = 1 << 24  # bytes inflated at a time; after each, zlib copies what is left to inflate

# What a file of each format begins with. RAW photos of Canon pose as TIFF, and two letters are too little to know BMP
# by; the upper bytes of its header's length, which are 0, tell more.
KINDS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "BMP": rb"BM.{13}\0\0\0",
    "TIFF": rb"(II[*+]\0|MM\0[*+])(?!....CR)",
}
# Common pictures that neither we nor Pillow read; it knows the marks of forty more. SVG is text, so it may begin late.
FOREIGN = {
    "HEIF, AVIF or raw": rb"....ftyp(avi[fs]|hei[cxms]|hev[cxms]|mif[12]|msf1|jxl |crx )",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "Canon raw": rb"(II|MM).{6}CR",
    "SVG": rb"(?i)(\xef\xbb\xbf)?\s*<(?!!doctype\s+html|html)(.*<)?svg[\s>]",
}
# All formats begin with a line made so that damage shows; what follows it tells it from no picture at all.
DAMAGED = rb".{8,20}IHDR|GIF\d\d[a-z]|.{6}(JFIF|Exif)\0"

PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Where the packed part of a text or profile begins, if it is packed.
PNG_PACKED = {b"zTXt": rb"[^\0]*\0.", b"iCCP": rb"[^\0]*\0.", b"iTXt": rb"[^\0]*\0\x01.[^\0]*\0[^\0]*\0"}
PNG_KEPT = (*PNG_PIXELS, b"eXIf", b"zTXt", b"iTXt", b"tEXt")
# By colour type: channels, and the bits that each may have.
PNG_COLOURS = {0: (1, (1, 2, 4, 8, 16)), 2: (3, (8, 16)), 3: (1, (1, 2, 4, 8)), 4: (2, (8, 16)), 6: (4, (8, 16))}
# First column and row and the steps between them, in px, of each pass of an interlaced picture.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
JPEG_MARK = re.compile(rb"\xff+[^\xff]")
SCAN_MARK = re.compile(rb"\xff+([^\0\xff])")  # between codes, 255 is followed by 0
JPEG_BARE = (0x00, 0x01, *range(0xD0, 0xD9))  # no segments: padding, restarts, another beginning
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # what may begin a frame; F7 is JPEG-LS
PROGRESSIVE, SCAN, END = 0xC2, 0xDA, 0xD9
BEFORE_SCANS = (0xC4, SCAN, 0xDB, 0xDD, 0xFE)  # what may follow a scan that is not the last


class BadImageError(ValueError):
    """The bytes are not a picture we can use; the message is for people, without the file's name."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)  # both, so that it can be pickled
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


def essence(data: bytes) -> tuple[str, bytes]:
    """Tell the format from the content, check what can be checked from outside, and cut off what holds no pixels.

    Args:
        data: The whole file.

    Returns:
        Pillow's name of the format; bytes that decode to the first frame. Broken metadata and the frames of an
        animation after the first are gone, so no decoder stumbles over them.

    Raises:
        BadImageError: Any reason but `timeout`.
    """
    refuse_length(len(data))
    kind = _kind(data)
    try:
        return kind, CHECKS[kind](data) if kind in CHECKS else data
    except (struct.error, IndexError):
        raise BadImageError("truncated", f"the {kind} file ends {ENDS.get(kind, 'in its header')}") from None


def refuse_length(length: int) -> None:
    """Refuse a file of no bytes or too many."""
    if not length:
        raise BadImageError("empty", "empty file")
    if length > MAX_BYTES:
        raise BadImageError("too_large", f"{length:,} bytes; the rule: at most {MAX_BYTES:,}")


def refuse_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Refuse sizes in px that would fill the memory, or that nothing can be learnt from."""
    if width * height > most:
        raise BadImageError("bomb", f"too many pixels: {width} x {height}; the rule: at most {most:,}")
    if min(width, height) < MIN_SIDE:
        raise BadImageError("too_small", f"{width} x {height} px; the rule: no side under {MIN_SIDE} px")


def _kind(data: bytes) -> str:
    head = data[:2000]
    name = next((name for name, mark in (KINDS | FOREIGN).items() if re.match(mark, head, re.DOTALL)), None)
    if name in KINDS:
        return name
    if re.match(DAMAGED, head, re.DOTALL):
        raise BadImageError("corrupt", "the mark of its format, at the beginning, is damaged")
    if name := name or _pillow_names(head[:16].ljust(16, b"\0")):
        raise BadImageError("unsupported", f"{name}; the rule: {', '.join(KINDS)}")
    raise BadImageError("not_an_image", f"not a picture of a known format ({', '.join(KINDS)})")


def _pillow_names(head: bytes) -> str | None:
    """Name a format that is not ours but one of Pillow's, which look at the first 16 bytes only."""
    Image.init()
    known = ((name, accepts) for name, (_, accepts) in Image.OPEN.items() if accepts and name not in KINDS)
    return next((name for name, accepts in known if accepts(head)), None)


def _png(data: bytes) -> bytes:
    """Check every checksum that the pixels hang on and the length of the rows; keep pixels, orientation and texts."""
    kept: list[tuple[bytes, bytes]] = []
    for kind, content, sound in _png_chunks(data):
        if kind in PNG_PIXELS and not sound:
            raise BadImageError("corrupt", f"wrong checksum in chunk {kind.decode()}")
        if kind not in PNG_PIXELS and kind[:1].isupper():
            raise BadImageError("unsupported", f"unknown critical chunk {kind.decode()}")
        if not kept and (kind, len(content)) != (b"IHDR", 13):
            raise BadImageError("corrupt", "the PNG file does not begin with its header")
        if sound and kind in PNG_PACKED:
            _refuse_packed(kind, content)
        if sound and kind in PNG_KEPT:
            kept.append((kind, content))
    due, deep = _png_header(kept[0][1])
    _refuse_rows(due, [content for kind, content in kept if kind == b"IDAT"])
    if deep:  # Pillow cuts the pixels to their high bytes, but not the colour that stands for transparency
        kept = [(kind, re.sub(rb"(?s)(.).", rb"\0\1", part) if kind == b"tRNS" else part) for kind, part in kept]
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in kept
    )


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield the kind and content of every chunk to the last, and whether its checksum is right."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            raise BadImageError("corrupt", f"no PNG chunk at byte {at}")
        (found,) = struct.unpack_from(">I", data, at + 8 + length)
        content = data[at + 8 : at + 8 + length]
        yield kind, content, zlib.crc32(kind + content) == found
        at += 12 + length


def _png_header(header: bytes) -> tuple[int, bool]:
    """Return the bytes that the rows take, each with its filter byte, and whether they are 48-bit colour."""
    width, height, depth, colour, packing, filters, interlace = struct.unpack(">IIBBBBB", header)
    refuse_size(width, height)
    channels, depths = PNG_COLOURS.get(colour, (0, ()))
    if depth not in depths or packing or filters or interlace > 1:
        raise BadImageError("corrupt", f"no PNG is of colour type {colour} with {depth} bits, or packed like this one")
    due = 0
    for left, top, across, down in ADAM7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        due += rows * (1 + (columns * channels * depth + 7) // 8) if columns > 0 else 0
    return due, (colour, depth) == (2, 16)


def _refuse_rows(due: int, parts: Sequence[bytes]) -> None:
    """Inflate the rows, which tells a wrong checksum of theirs, too few of them, and a bomb behind the last."""
    found, stream = 0, zlib.decompressobj()
    try:
        for part in parts:
            while part and not stream.eof:
                found += len(stream.decompress(part, STEP))
                part = stream.unconsumed_tail
                if found > due + MAX_INFLATED:
                    raise BadImageError("bomb", f"inflates to more than the {due:,} bytes of its rows")
        found += len(stream.flush())
    except zlib.error as error:
        raise BadImageError("corrupt", f"damaged PNG rows: {error}") from None
    if found < due or not stream.eof:
        raise BadImageError("truncated", f"the PNG rows end after {found:,} of {due:,} bytes and their checksum")


def _refuse_packed(kind: bytes, content: bytes) -> None:
    """Refuse a text or colour profile that inflates to more than Pillow, too, allows; a broken one is passed over."""
    head = re.match(PNG_PACKED[kind], content, re.DOTALL)
    stream = zlib.decompressobj()
    with suppress(zlib.error):
        stream.decompress(content[head.end() :] if head else b"", MAX_INFLATED)
        if stream.unconsumed_tail:
            raise BadImageError("bomb", f"chunk {kind.decode()} inflates to more than {MAX_INFLATED:,} bytes")


def _jpeg(data: bytes) -> bytes:
    """Keep tables, scans, EXIF and what tells the colour space; codes are checked where they are read."""
    kept, frame, start = [data[:2]], 0, 0
    for kind, start, end in _jpeg_segments(data):
        if kind in JPEG_FRAMES:
            frame = kind
            _refuse_frame(kind, data[start:end])
        if _is_needed(kind, data[start : start + 20]):
            kept.append(data[start:end])
    if not frame:
        raise BadImageError("corrupt", "the JPEG scan comes before its frame")
    if data.rfind(b"\xff\xd9", start) < 0:
        raise BadImageError("truncated", "the JPEG file ends before its end marker")
    if frame == PROGRESSIVE and data.count(b"\xff\xda", start) > MAX_SCANS:
        raise BadImageError("bomb", f"more than {MAX_SCANS} JPEG scans")
    return b"".join(kept)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of every segment up to the first scan, which goes on to the end of the file."""
    at = 2
    while mark := JPEG_MARK.search(data, at):
        at, kind = mark.end() - 2, data[mark.end() - 1]
        if kind == SCAN:
            yield kind, at, len(data)
            return
        if kind == END:
            raise BadImageError("corrupt", "the JPEG file has no scan")
        length = 0
        if kind not in JPEG_BARE:
            (length,) = struct.unpack_from(">H", data, at + 2)
            yield kind, at, at + 2 + length
            length = max(length, 2)
        at += 2 + length
    raise BadImageError("truncated", "the JPEG file ends in its header")


def sole_scan(jpeg: bytes) -> int:
    """Return where a JPEG's only scan ends; 0 where there are more of them.

    Args:
        jpeg: As ``essence`` gives it.

    Raises:
        BadImageError: Its restart markers are not in turn, or another marker stands in it.
    """
    start = next(start for kind, start, _ in _jpeg_segments(jpeg) if kind == SCAN)
    (length,) = struct.unpack_from(">H", jpeg, start + 2)
    colours = jpeg[start + 4]
    is_whole = colours > 2 and jpeg[start + 6 + 2 * colours] == 63  # all colours, up to the finest detail
    for count, mark in enumerate(SCAN_MARK.finditer(jpeg, start + 2 + length)):
        kind = mark[1][0]
        if kind == END:
            return mark.start()
        if kind in BEFORE_SCANS and not is_whole:
            return 0
        if kind != 0xD0 + count % 8:
            raise BadImageError("corrupt", f"marker {kind:#x} at byte {mark.start()} of a JPEG scan")
    return 0


def _refuse_frame(kind: int, segment: bytes) -> None:
    bits, height, width, colours = struct.unpack_from(">BHHB", segment, 4)
    if kind not in (0xC0, 0xC1, 0xC2) or bits != 8:
        raise BadImageError("unsupported", f"JPEG frame {kind:#x} of {bits} bits; the rule: Huffman codes, 8 bits")
    if colours not in (1, 3, 4):
        raise BadImageError("unsupported", f"JPEG of {colours} colours; the rule: 1, 3 or 4")
    for each in ([byte >> 4 for byte in segment[11::3]], [byte & 15 for byte in segment[11::3]]):
        if any(factor and max(each) % factor for factor in each):
            raise BadImageError("unsupported", f"JPEG colours sampled {each}; the rule: whole parts of the largest")
    # Decoding may take memory by the colour: 2 bytes of coefficients for each, and 4 of a pixel's.
    refuse_size(width, height, MAX_PIXELS * 3 // max(colours, 3))


def _is_needed(kind: int, head: bytes) -> bool:
    """Whether the decoder needs the segment; of the application's own, JFIF and Adobe tell the colours.

    Odd ones of these make the decoder warn, and its first warning would hide those that tell of damage.
    """
    if kind == 0xE0:
        return head[4:10] == b"JFIF\0\1" and head[2:4] >= b"\0\x10"
    if kind == 0xEE:
        return head[4:9] == b"Adobe" and head[2:4] >= b"\0\x0e" and head[15] in (0, 1, 2)
    return kind == 0xE1 or not (0xE2 <= kind <= 0xEF or kind == 0xFE)


def _gif(data: bytes) -> bytes:
    """Walk to the trailer, and keep the first frame."""
    at, first = _after_table(data, 10, 13), 0
    while (kind := data[at : at + 1]) != b";":
        if kind == b"!":
            at = _after_blocks(data, at + 2)
        elif kind == b",":
            if not first:
                refuse_size(*_gif_canvas(data, at + 1))
            at = _after_blocks(data, _after_table(data, at + 9, at + 10) + 1)
            first = first or at
        elif not kind:
            raise BadImageError("truncated", "the GIF file ends before its trailer")
        elif first:
            break  # no viewer minds what follows
        elif kind == b"\0":
            at += 1
        else:
            raise BadImageError("corrupt", f"no GIF block at byte {at}")
    if not first:
        raise BadImageError("corrupt", "the GIF file has no frame")
    return data[:first] + b";"


def _gif_canvas(data: bytes, frame: int) -> tuple[int, int]:
    """Return width and height in px of what is shown: the screen, or as far as a frame reaches beyond it."""
    screen, (left, top, width, height) = struct.unpack_from("<HH", data, 6), struct.unpack_from("<4H", data, frame)
    if not width or not height:
        raise BadImageError("corrupt", f"the first GIF frame is of {width} x {height} px")
    return max(screen[0], left + width), max(screen[1], top + height)


def _after_table(data: bytes, flags: int, at: int) -> int:
    return at + (3 << (data[flags] & 7) + 1 if data[flags] & 128 else 0)


def _after_blocks(data: bytes, at: int) -> int:
    while data[at]:
        at += 1 + data[at]
    return at + 1


def _webp(data: bytes) -> bytes:
    if 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise BadImageError("truncated", f"the WEBP file has {len(data):,} bytes, fewer than its header says")
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        raise BadImageError("corrupt", "the WEBP file does not begin with a picture")
    refuse_size(width, height, MAX_WEBP_PIXELS)
    return data


ENDS = {"PNG": "before its last chunk", "GIF": "before its trailer"}
CHECKS: dict[str, Callable[[bytes], bytes]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "GIF": _gif}
