"""A picture file from outside: its format, whether it is whole, and the parts that its pixels come from.

Decoders are made to show something: Pillow and libjpeg fill what is missing with grey, pass over checksums and
warnings, and stop at the last row whatever follows. What they would overlook is found here, before a pixel is made.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

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
MAX_TIFF_ENTRIES = 4096  # of a directory; some dozens are common
STEP = 1 << 16  # bytes inflated at a time

# Pictures, but none that we read. HEIC, AVIF and raw photos that hide in a common container are told apart below.
UNSUPPORTED = (
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"\0\0\2\0", "CUR"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"gimp xcf", "XCF"),
    (0, b"/* XPM */", "XPM"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x01\xda\0", "SGI"),
    (0, b"\x01\xda\1", "SGI"),
    (0, b"\x59\xa6\x6a\x95", "Sun raster"),
    (0, b"\x8aMNG\r\n", "MNG"),
    (0, b"\x8bJNG\r\n", "JNG"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FLIF", "FLIF"),
    (0, b"BLP1", "BLP"),
    (0, b"BLP2", "BLP"),
    (0, b"AT&TFORM", "DjVu"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (40, b" EMF", "EMF"),
    (128, b"DICM", "DICOM"),
    (0, b"FUJIFILMCCD-RAW", "Fuji raw"),
    (0, b"IIRO", "Olympus raw"),
    (0, b"IIU\0", "Panasonic raw"),
    (0, b"FOVb", "Sigma raw"),
    (6, b"HEAPCCDR", "Canon raw"),
    (0, b"\xb1\x68\xde\x3a", "DCX"),
    (4, b"\x11\xaf", "FLI"),
    (4, b"\x12\xaf", "FLI"),
    (0, b"DanM", "MSP"),
    (0, b"LinS", "MSP"),
    (0, b"Image type: ", "IM"),
    (20, b"GIMP", "GIMP brush"),
)
# Two letters are too little to know BMP by; the length of the header after them tells more.
BMP_HEADERS = tuple(length.to_bytes(4, "little") for length in (12, 16, 40, 52, 56, 64, 108, 124))
PATTERNS = (
    (re.compile(rb"P[1-7FfY][ \t\r\n]"), "Netpbm"),
    (re.compile(rb"\x0a[\x00\x02-\x05]\x01[\x01\x02\x04\x08]"), "PCX"),
    (re.compile(rb"....ftyp(avi[fs]|hei[cxms]|hev[cxms]|mif[12]|msf1|jxl |crx )", re.DOTALL), "HEIF, AVIF or raw"),
    (re.compile(rb"\s*#define\s+\w+_width\s+\d"), "XBM"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*<(?!!doctype\s+html|html)(.*<)?svg[\s>]", re.DOTALL | re.IGNORECASE), "SVG"),
)


PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bits by colour type
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column and row and the steps between them, in px, of each pass of an interlaced picture.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class BadImageError(ValueError):
    """The bytes are not a picture we can use; the message is for people, without the file's name."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(reason, text)  # both, so that it can be pickled
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


class PngHeader(NamedTuple):
    """What stands in IHDR."""

    width: int
    height: int
    depth: int
    colour: int
    packing: int
    filters: int
    interlace: int


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
        return kind, CHECKS[kind](data)
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
    refuse_large(width, height, most)
    if min(width, height) < MIN_SIDE:
        raise BadImageError("too_small", f"{width} x {height} px; the rule: no side under {MIN_SIDE} px")


def refuse_large(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Refuse sizes in px that would fill the memory."""
    if width * height > most:
        raise BadImageError("bomb", f"too many pixels: {width} x {height}; the rule: at most {most:,}")


def _kind(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) and data[8:10] != b"CR":
        return "TIFF"
    if data[:2] == b"BM" and (len(data) < 18 or data[14:18] in BMP_HEADERS or not any(data[6:10])):
        return "BMP"
    _refuse_broken_mark(data)
    name = _foreign(data)
    if name:
        raise BadImageError("unsupported", f"{name}; the rule: {', '.join(CHECKS)}")
    raise BadImageError("not_an_image", f"not a picture of a known format ({', '.join(CHECKS)})")


def _refuse_broken_mark(data: bytes) -> None:
    """Tell a damaged first line, which all formats begin with so that damage shows, from no picture at all."""
    if b"IHDR" in data[8:24] or re.match(rb"GIF\d\d[a-z]", data) or data[6:11] in (b"JFIF\0", b"Exif\0"):
        raise BadImageError("corrupt", "the mark of its format, at the beginning, is damaged")


def _foreign(data: bytes) -> str | None:
    """Name a picture format that is not ours; SVG and XBM are text, so only their beginning is searched."""
    head = data[:2000]
    named = [name for at, magic, name in UNSUPPORTED if head.startswith(magic, at)]
    named += [name for pattern, name in PATTERNS if pattern.match(head)]
    if data[:2] in (b"II", b"MM") and data[8:10] == b"CR":
        named.append("Canon raw")
    if _is_tga(data):
        named.append("TGA")
    return named[0] if named else None


def _is_tga(data: bytes) -> bool:
    """Whether the last bytes say so or, in the old kind without any mark, all of the header and the length do."""
    if data[-18:-2] == b"TRUEVISION-XFILE":
        return True
    if len(data) < 18:
        return False
    skipped, mapped, kind, _, colours, bits, _, _, width, height, depth, _ = struct.unpack("<BBBHHBHHHHBB", data[:18])
    if mapped > 1 or kind not in (1, 2, 3, 9, 10, 11) or depth not in (8, 15, 16, 24, 32) or not width * height:
        return False
    body = len(data) - 18 - skipped - mapped * colours * ((bits + 7) // 8)
    whole = width * height * ((depth + 7) // 8)
    return bool(body >= whole if kind < 9 else 0 < body < 2 * whole)


def _png(data: bytes) -> bytes:
    """Check every checksum that the pixels hang on and the length of the rows; keep pixels, orientation and texts."""
    header = _png_header(data)
    kept = []
    for kind, content, sound in _png_chunks(data):
        if kind in PNG_PIXELS and not sound:
            raise BadImageError("corrupt", f"wrong checksum in chunk {kind.decode()}")
        if kind[:1].isupper() and kind not in PNG_PIXELS:
            raise BadImageError("unsupported", f"unknown critical chunk {kind.decode()}")
        if sound and kind in (b"zTXt", b"iTXt", b"iCCP"):
            _refuse_bomb(kind, content)
        if sound and kind in (*PNG_PIXELS, b"eXIf", b"zTXt", b"iTXt", b"tEXt"):
            kept.append((kind, _in_8_bits(header, content) if kind == b"tRNS" else content))
    _refuse_rows(header, [content for kind, content in kept if kind == b"IDAT"])
    refuse_size(header.width, header.height)
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in kept
    )


def _png_header(data: bytes) -> PngHeader:
    length, kind, *fields, found = struct.unpack_from(">I4sIIBBBBBI", data, 8)
    if kind == b"CgBI":
        raise BadImageError("unsupported", "Apple's own kind of PNG")
    header = PngHeader(*fields)
    if (length, kind) != (13, b"IHDR") or zlib.crc32(data[12:29]) != found:
        raise BadImageError("corrupt", "the PNG file's header is damaged")
    refuse_large(header.width, header.height)
    if (
        header.depth not in PNG_DEPTHS.get(header.colour, ())
        or header.packing
        or header.filters
        or header.interlace > 1
    ):
        raise BadImageError("corrupt", f"no PNG is like its header, {header}")
    return header


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


def _in_8_bits(header: PngHeader, transparency: bytes) -> bytes:
    """Cut the colour that stands for transparency to its high bytes where Pillow does so with the pixels."""
    if (header.colour, header.depth) != (2, 16):
        return transparency
    return b"".join(b"\0" + transparency[at : at + 1] for at in (0, 2, 4))


def _rows_length(header: PngHeader) -> int:
    """Return the bytes that a PNG's rows take, each with its filter byte."""
    length = 0
    for left, top, across, down in ADAM7 if header.interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(header.width - left) // across), -(-(header.height - top) // down)
        if columns > 0 and rows > 0:
            length += rows * (1 + (columns * PNG_CHANNELS[header.colour] * header.depth + 7) // 8)
    return length


def _refuse_rows(header: PngHeader, parts: Sequence[bytes]) -> None:
    """Inflate the rows, which tells a wrong checksum of theirs, too few of them, and a bomb behind the last."""
    if not parts:
        raise BadImageError("corrupt", "the PNG file has no rows")
    due, found, stream = _rows_length(header), 0, zlib.decompressobj()
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
    if found < due:
        raise BadImageError("truncated", f"the PNG rows end after {found:,} of {due:,} bytes")
    if not stream.eof:
        raise BadImageError("truncated", "the PNG rows end before their checksum")


def _refuse_bomb(kind: bytes, content: bytes) -> None:
    """Refuse a text or colour profile that inflates to more than Pillow, too, allows; a broken one is passed over."""
    if kind == b"iTXt":
        _, _, rest = content.partition(b"\0")
        packed = rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
    else:
        packed = content.partition(b"\0")[2][1:]
    stream = zlib.decompressobj()
    try:
        stream.decompress(packed, MAX_INFLATED)
    except zlib.error:
        return
    if stream.unconsumed_tail:
        raise BadImageError("bomb", f"chunk {kind.decode()} inflates to more than {MAX_INFLATED:,} bytes")


def _jpeg(data: bytes) -> bytes:
    """Keep tables, scans, EXIF and what tells the colour space; codes are checked where they are read."""
    kept, frame = [data[:2]], 0
    for kind, start, end in _jpeg_segments(data):
        if kind in FRAMES:
            frame = kind
            _refuse_frame(kind, data[start:end])
        if kind == SCAN:
            _refuse_scans(frame, data, start)
        if _is_needed(kind, data[start : start + 20]):
            kept.append(data[start:end])
    return b"".join(kept)


FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # what may begin a frame; F7 is JPEG-LS
PROGRESSIVE, SCAN, END = 0xC2, 0xDA, 0xD9


JPEG_MARK = re.compile(rb"\xff+[^\xff]")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of every segment up to the first scan, which goes on to the end of the file."""
    at = 2
    while True:
        mark = JPEG_MARK.search(data, at)
        if not mark:
            raise BadImageError("truncated", "the JPEG file ends in its header")
        at, kind = mark.end() - 2, data[mark.end() - 1]
        if kind == SCAN:
            yield kind, at, len(data)
            return
        if kind == END:
            raise BadImageError("corrupt", "the JPEG file has no scan")
        if kind in (0x00, 0x01, *range(0xD0, 0xD9)):  # no segments: padding, restarts, another beginning
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if at + 2 + length > len(data):
            raise BadImageError("truncated", "the JPEG file ends in its header")
        yield kind, at, at + 2 + length
        at += 2 + max(length, 2)


def _refuse_frame(kind: int, segment: bytes) -> None:
    bits, height, width, colours = struct.unpack_from(">BHHB", segment, 4)
    if kind not in (0xC0, 0xC1, 0xC2) or bits != 8:
        raise BadImageError("unsupported", f"JPEG frame {kind:#x} of {bits} bits; the rule: Huffman codes, 8 bits")
    # Decoding may take memory by the colour: 2 bytes of coefficients for each, and 4 of a pixel's.
    refuse_size(width, height, MAX_PIXELS * 3 // max(colours, 3))


def _refuse_scans(frame: int, data: bytes, start: int) -> None:
    if not frame:
        raise BadImageError("corrupt", "the JPEG scan comes before its frame")
    if data.rfind(b"\xff\xd9", start) < 0:
        raise BadImageError("truncated", "the JPEG file ends before its end marker")
    if frame == PROGRESSIVE and data.count(b"\xff\xda", start) > MAX_SCANS:
        raise BadImageError("bomb", f"more than {MAX_SCANS} JPEG scans")


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
                refuse_size(*struct.unpack_from("<HH", data, at + 5))
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


def _bmp(data: bytes) -> bytes:
    if data[14:18] not in BMP_HEADERS:
        raise BadImageError("corrupt", "no BMP header has such a length")
    width, height, _, bits = struct.unpack_from("<HHHH" if data[14] == 12 else "<iiHH", data, 18)
    if bits not in (0, 1, 2, 4, 8, 16, 24, 32, 64) or width < 0:
        raise BadImageError("corrupt", f"no BMP is {width} px wide with {bits} bits a pixel")
    refuse_size(width, abs(height))  # rows from the top down have a negative height
    return data


def _tiff(data: bytes) -> bytes:
    """Check that the first directory lies in the file and tells the size and where the pixels are."""
    entries = _tiff_entries(data)
    if not entries.keys() & {273, 324} or not {256, 257} <= entries.keys():
        raise BadImageError("corrupt", "the TIFF file's first directory has no size or points to no pixels")
    refuse_size(entries[256][0], entries[257][0])
    return data


def is_cut(data: bytes) -> bool:
    """Whether a TIFF's directory points past the end; only a reason for what went wrong, for it may be mistaken."""
    spans = [(at, number * TIFF_TYPES[kind][0]) for _, kind, number, at in _tiff_directory(data) if kind in TIFF_TYPES]
    if any(at + length > len(data) for at, length in spans):
        return True
    entries = _tiff_entries(data)
    strips = zip(entries.get(273, ()), entries.get(279, ()), strict=False)
    tiles = zip(entries.get(324, ()), entries.get(325, ()), strict=False)
    return any(at + length > len(data) for at, length in (*strips, *tiles))


# Length and struct's letter of a number.
TIFF_TYPES = {1: (1, "B"), 2: (1, "c"), 3: (2, "H"), 4: (4, "I"), 5: (8, "Q"), 12: (8, "d"), 16: (8, "Q")}
TIFF_TAGS = (256, 257, 273, 279, 324, 325)  # width, height; offsets and lengths of strips, of tiles


def _tiff_entries(data: bytes) -> dict[int, tuple[int, ...]]:
    """Read the numbers that tell the size and where the pixels are."""
    order = _tiff_order(data)
    return {
        tag: struct.unpack_from(f"{order}{min(number, len(data))}{TIFF_TYPES[kind][1]}", data, at)
        for tag, kind, number, at in _tiff_directory(data)
        if tag in TIFF_TAGS and kind in (1, 3, 4, 16) and number
    }


def _tiff_directory(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, number of values and their place of every entry of the first directory, classic or big."""
    order, big = _tiff_order(data), 43 in data[2:4]
    head, entry, wide = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + head, data, at)
    at += struct.calcsize(order + head)
    for _ in range(min(count, MAX_TIFF_ENTRIES)):
        tag, kind, number = struct.unpack_from(order + entry, data, at)
        place = at + struct.calcsize(order + entry)
        (pointer,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        inline = number * TIFF_TYPES.get(kind, (1, ""))[0] <= wide
        yield tag, kind, number, place if inline else pointer
        at = place + wide


def _tiff_order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


ENDS = {"PNG": "before its last chunk", "GIF": "before its trailer", "TIFF": "before its directory of pixels"}
CHECKS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
}
