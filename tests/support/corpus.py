"""Odd, broken and hostile picture files, made here, with what must be said of each and, where it is one, its pixels.

What a picture must show is worked out from the array that was encoded, never by the code under test.
"""

import io
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jpegs import jpeg
from PIL import Image, ImageCms


class Case(NamedTuple):
    """A file: its path, its bytes, the reason to reject it or None, and what it shows, uint8 (H, W, 3)."""

    category: str
    name: str
    data: bytes
    reason: str | None = None
    pixels: np.ndarray | None = None
    near: int = 0  # largest difference of a value


def photo(width=64, height=48, seed=0):
    """Return a smooth picture that is the same under no turn or flip, uint8 (H, W, 3)."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.sin(7 * x + seed) * np.cos(5 * y)
    return np.dstack([x * 255, y * 200 + 20, 128 + 100 * waves]).astype(np.uint8)


def noisy(width=64, height=48, seed=0):
    """Return a picture that doesn't compress, uint8 (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(pixels, kind, mode=None, **options):
    """Encode an array or a Pillow image."""
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, content, wrong=0):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) ^ wrong)


def ihdr(width, height, depth=8, colour=2, interlace=0):
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def png(header, rows, *before, after=(), packed=None):
    """Write a PNG by hand: a header, rows with their filter bytes, and chunks before and after them."""
    idat = chunk(b"IDAT", zlib.compress(rows) if packed is None else packed)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", header), *before, idat, *after, chunk(b"IEND", b"")])


def filtered(rows):
    """Put the filter byte before each row of an array's bytes."""
    return b"".join(b"\0" + row.tobytes() for row in rows)


def tiff(order, fields, data):
    """Write a TIFF by hand: pixels at byte 8, then the directory; each field is (tag, type, values)."""
    entries, extra, at = b"", b"", 8 + len(data)
    beyond = at + 2 + 12 * len(fields) + 4
    for tag, kind, values in sorted(fields):
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind == 4]}", *values)
        entries += struct.pack(f"{order}HHI", tag, kind, len(values))
        entries += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", beyond + len(extra))
        extra += packed if len(packed) > 4 else b""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark + struct.pack(f"{order}I", at) + data + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + extra
    )


def tiff_of(values, photometric, order="<", kind=1, compression=1, **changed):
    """Write an array as one uncompressed strip, its type as it is."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    fields = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * values.dtype.itemsize] * channels),
        259: (3, [compression]),
        262: (3, [photometric]),
        273: (4, [8]),
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(data)]),
        339: (3, [kind] * channels),
    }
    fields |= {int(tag[1:]): field for tag, field in changed.items()}
    return tiff(order, [(tag, *field) for tag, field in fields.items()], data)


def exif(orientation, order=">"):
    """Write EXIF that holds an orientation only."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    entry = struct.pack(order + "HHHIHH", 1, 0x112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "I", 8) + entry + bytes(4)


def segment(kind, content):
    """Write a JPEG segment."""
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def after_start(jpeg, *parts):
    return jpeg[:2] + b"".join(parts) + jpeg[2:]


def put(data, at, new):
    return data[:at] + new + data[at + len(new) :]


def without(data, start, end):
    return data[:start] + data[end:]


def on_white(pixels, alpha):
    """Lay an array on white, alpha 0 to 255."""
    share = alpha[..., None] / 255
    return np.round(pixels * share + 255 * (1 - share)).astype(np.uint8)


def stored(upright, orientation):
    """Return the array that, with this orientation, shows ``upright``."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }.get(orientation, upright)
    return np.ascontiguousarray(turned)


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


PHOTO, NOISE = photo(), noisy()
BRIGHT = PHOTO[..., 0]
DEEP = (np.arange(64 * 48).reshape(48, 64) * 21).astype(np.uint16)
JPEG = saved(PHOTO, "JPEG", quality=95, subsampling=0)
PROGRESSIVE = saved(PHOTO, "JPEG", quality=95, subsampling=0, progressive=True)
RESTARTS = saved(noisy(160, 120), "JPEG", quality=90, restart_marker_rows=1)
BUSY = saved(noisy(160, 120), "JPEG", quality=90)
BUSY_PROGRESSIVE = saved(noisy(160, 120), "JPEG", quality=90, progressive=True)
PNG = saved(NOISE, "PNG")
GIF = saved(Image.fromarray(NOISE).quantize(64), "GIF")
GIF_FRAME = GIF.index(b",", 13 + 3 * (2 << (GIF[10] & 7)))
GIF_PIXELS = np.asarray(Image.fromarray(NOISE).quantize(64).convert("RGB"))
WEBP = saved(NOISE, "WEBP", lossless=True)
LOSSY_WEBP = saved(NOISE, "WEBP")
BMP = saved(NOISE, "BMP")
TIFF = tiff_of(NOISE, 2)
LZW = saved(NOISE, "TIFF", compression="tiff_lzw")
DEFLATE = saved(NOISE, "TIFF", compression="tiff_adobe_deflate")
SCAN, FRAME, TABLES = JPEG.index(b"\xff\xda"), JPEG.index(b"\xff\xc0"), JPEG.index(b"\xff\xdb")


def controls():
    yield "photo.jpg", JPEG, None, PHOTO, 6
    yield "progressive.jpg", PROGRESSIVE, None, PHOTO, 6
    yield "colour at half size.jpg", saved(PHOTO, "JPEG", quality=95), None, PHOTO, 14
    yield "plain.png", PNG, None, NOISE
    yield "lossless.webp", WEBP, None, NOISE
    yield "lossy.webp", saved(PHOTO, "WEBP", quality=95), None, PHOTO, 30
    yield "palette.gif", GIF, None, GIF_PIXELS
    yield "plain.bmp", BMP, None, NOISE
    yield "raw.tif", TIFF, None, NOISE
    yield "lzw.tif", LZW, None, NOISE
    yield "deflate.tif", DEFLATE, None, NOISE


def orientations():
    for number in range(1, 9):
        pixels = stored(PHOTO, number)
        mark = b"Exif\0\0" + exif(number, "<>"[number % 2])
        yield f"{number}.jpg", saved(pixels, "JPEG", quality=95, subsampling=0, exif=mark), None, PHOTO, 6
        yield f"{number}.png", saved(pixels, "PNG", exif=exif(number)), None, PHOTO
        yield f"{number}.webp", saved(pixels, "WEBP", lossless=True, exif=mark), None, PHOTO
        yield f"{number}.tif", tiff_of(pixels, 2, t274=(3, [number])), None, PHOTO
    for number in (0, 9, 65535):
        yield (
            f"none such {number}.jpg",
            saved(PHOTO, "JPEG", quality=95, subsampling=0, exif=exif(number)),
            None,
            PHOTO,
            6,
        )
        yield f"none such {number}.png", saved(PHOTO, "PNG", exif=exif(number)), None, PHOTO


def colours():
    deep = DEEP
    deep_rgb = np.dstack([deep, deep[::-1], deep.T.reshape(48, 64)])
    high = (deep >> 8).astype(np.uint8)
    scaled = grey(np.round(deep / 257))
    alpha = np.ascontiguousarray(BRIGHT[::-1])
    rgba, la = np.dstack([NOISE, alpha]), np.dstack([BRIGHT, alpha])
    bits = NOISE[..., 0] > 127
    yield "1 bit.png", saved(Image.fromarray(bits), "PNG"), None, grey(bits * 255)
    yield (
        "2 bits.png",
        png(ihdr(64, 48, 2, 0), filtered(noisy(16, 48)[..., 0])),
        None,
        grey(np.stack([noisy(16, 48)[..., 0] >> shift & 3 for shift in (6, 4, 2, 0)], 2).reshape(48, 64) * 85),
    )
    yield "grey.png", saved(BRIGHT, "PNG"), None, grey(BRIGHT)
    yield "grey, alpha.png", saved(Image.fromarray(la, "LA"), "PNG"), None, on_white(grey(BRIGHT), alpha), 1
    yield "alpha.png", saved(rgba, "PNG"), None, on_white(NOISE, alpha), 1
    yield "16 bits grey.png", saved(deep, "PNG"), None, scaled
    yield (
        "16 bits.png",
        png(ihdr(64, 48, 16, 2), filtered(deep_rgb.astype(">u2"))),
        None,
        (deep_rgb >> 8).astype(np.uint8),
    )
    deep_la = np.dstack([deep, deep[::-1]]).astype(">u2")
    yield (
        "16 bits grey, alpha.png",
        png(ihdr(64, 48, 16, 4), filtered(deep_la)),
        None,
        on_white(grey(high), high[::-1]),
        1,
    )
    deep_rgba = np.dstack([deep_rgb, deep]).astype(">u2")
    flat = on_white((deep_rgb >> 8).astype(np.uint8), high)
    yield "16 bits, alpha.png", png(ihdr(64, 48, 16, 6), filtered(deep_rgba)), None, flat, 1
    key = chunk(b"tRNS", struct.pack(">H", int(BRIGHT[5, 9])))
    clear = np.where(BRIGHT[5, 9] == BRIGHT, 255, BRIGHT)
    yield "grey, a clear one.png", png(ihdr(64, 48, 8, 0), filtered(BRIGHT), key), None, grey(clear)
    key = chunk(b"tRNS", struct.pack(">HHH", *NOISE[3, 4].tolist()))
    clear = np.where((NOISE[3, 4] == NOISE).all(2, keepdims=True), 255, NOISE).astype(np.uint8)
    yield "a clear colour.png", png(ihdr(64, 48), filtered(NOISE), key), None, clear
    key = chunk(b"tRNS", struct.pack(">H", int(deep[7, 7])))
    clear = np.where((deep == deep[7, 7])[..., None], 255, scaled).astype(np.uint8)
    yield "16 bits grey, a clear one.png", png(ihdr(64, 48, 16, 0), filtered(deep.astype(">u2")), key), None, clear
    key = chunk(b"tRNS", struct.pack(">HHH", *deep_rgb[3, 4].tolist()))
    same = (deep_rgb >> 8 == deep_rgb[3, 4] >> 8).all(2, keepdims=True)
    clear = np.where(same, 255, deep_rgb >> 8).astype(np.uint8)
    yield "16 bits, a clear colour.png", png(ihdr(64, 48, 16, 2), filtered(deep_rgb.astype(">u2")), key), None, clear
    table, index = noisy(16, 1)[0], noisy(64, 48)[..., 1] % 16
    shares = np.arange(0, 256, 17).astype(np.uint8)
    plte, trns = chunk(b"PLTE", table.tobytes()), chunk(b"tRNS", shares.tobytes())
    yield "palette.png", png(ihdr(64, 48, 8, 3), filtered(index), plte), None, table[index]
    flat = on_white(table[index], shares[index])
    yield "palette, alpha.png", png(ihdr(64, 48, 8, 3), filtered(index), plte, trns), None, flat, 1
    nibbles = (index[:, ::2] << 4 | index[:, 1::2]).astype(np.uint8)
    yield "palette of 4 bits.png", png(ihdr(64, 48, 4, 3), filtered(nibbles), plte), None, table[index]
    yield "interlaced.png", png(ihdr(64, 48, interlace=1), interlaced(NOISE)), None, NOISE
    yield "cmyk.jpg", saved(cmyk(PHOTO), "JPEG", quality=95, subsampling=0), None, PHOTO, 8
    yield "no luma.jpg", saved(PHOTO, "JPEG", quality=95, keep_rgb=True), None, PHOTO, 8
    yield "grey.jpg", saved(BRIGHT, "JPEG", quality=95), None, grey(BRIGHT), 4
    for factors in ("4:2 1:1 1:1", "1:3 1:1 1:1", "2:2 2:1 1:1", "3:1 1:1 3:1"):
        sampled = [tuple(map(int, pair.split(":"))) for pair in factors.split()]
        yield f"sampled {factors}.jpg".replace(":", "x"), jpeg(PHOTO, sampled), None, PHOTO, 20
    for order, name in (("<", "little"), (">", "big")):
        yield f"16 bits, {name} end.tif", tiff_of(deep, 1, order), None, scaled
    yield "16 bits rgb.tif", tiff_of(deep_rgb, 2), None, (deep_rgb >> 8).astype(np.uint8)
    yield "32 bits.tif", saved(Image.fromarray(deep.astype(np.int32)), "TIFF"), None, scaled
    yield (
        "12 bits.tif",
        tiff_of(in_bits(deep >> 4, 12), 1, t256=(4, [64]), t258=(3, [12])),
        None,
        grey(np.round((deep >> 4) / 4095 * 255)),
    )
    yield "16 bits, white is 0.tif", tiff_of(65535 - deep, 0), None, scaled
    signed = (deep.astype(int) - 32768).astype(np.int16)
    yield "16 bits, signed.tif", tiff_of(signed, 1, kind=2), None, scaled
    yield "8 bits, signed.tif", tiff_of((BRIGHT.astype(int) - 128).astype(np.int8), 1, kind=2), None, grey(BRIGHT)
    yield "float, white is 0.tif", tiff_of((1 - deep / 65535).astype(np.float32), 0, ">", 3), None, scaled, 1
    yield "float.tif", saved((deep / 65535).astype(np.float32), "TIFF"), None, grey(np.round(deep / 257)), 1
    yield "white is 0.tif", tiff_of(255 - BRIGHT, 0), None, grey(BRIGHT)
    yield (
        "white is 0, 1 bit.tif",
        tiff_of(np.packbits(~bits, 1), 0, t256=(4, [64]), t258=(3, [1])),
        None,
        grey(bits * 255),
    )
    yield "fax.tif", saved(Image.fromarray(bits), "TIFF", compression="group4"), None, grey(bits * 255)
    yield "alpha.tif", saved(rgba, "TIFF"), None, on_white(NOISE, alpha), 1
    yield "cmyk.tif", saved(cmyk(NOISE), "TIFF"), None, NOISE, 1
    yield "ycbcr.tif", saved(PHOTO, "TIFF", compression="jpeg", quality=95), None, PHOTO, 14
    lab = Image.fromarray(PHOTO)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    yield "lab.tif", saved(ImageCms.applyTransform(lab, to_lab), "TIFF"), None, PHOTO, 60
    yield "alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True), None, on_white(NOISE, alpha), 1
    yield "1 bit.bmp", saved(Image.fromarray(bits), "BMP"), None, grey(bits * 255)
    yield "palette.bmp", saved(Image.fromarray(NOISE).quantize(64), "BMP"), None, GIF_PIXELS
    yield "from the top.bmp", upside_bmp(NOISE), None, NOISE
    yield (
        "clear.gif",
        clear_gif(index, table),
        None,
        np.where((index == 3)[..., None], 255, table[index]).astype(np.uint8),
    )


def in_bits(values, bits):
    """Pack whole numbers into as many bits each, row by row."""
    each = values[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(each.astype(np.uint8).reshape(len(values), -1), axis=1)


def cmyk(pixels):
    return Image.merge("CMYK", [*Image.fromarray(255 - pixels).split(), Image.new("L", pixels.shape[1::-1])])


def interlaced(pixels):
    """Return the rows of the seven passes."""
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(
        filtered(np.ascontiguousarray(pixels[top::down, left::across])) for left, top, across, down in steps
    )


def upside_bmp(pixels):
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels[..., ::-1]).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def clear_gif(index, table):
    image = Image.fromarray(index)
    image.putpalette(table.tobytes())
    return saved(image, "GIF", transparency=3, optimize=False)


FRAMES = [Image.fromarray(noisy(seed=seed)) for seed in range(3)]


def animations():
    for kind, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = saved(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:], **options)
        yield f"three.{kind.lower()}", data, None, NOISE
    apart = saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:], default_image=True)
    yield "poster and two.png", apart, None, NOISE
    palettes = [frame.quantize(64) for frame in FRAMES]
    gif = saved(palettes[0], "GIF", save_all=True, append_images=palettes[1:], optimize=False)
    yield "three.gif", gif, None, GIF_PIXELS
    yield "no end of it.gif", gif[:-1] + gif[len(GIF) - 1 : -1] * 40 + b";", None, GIF_PIXELS
    yield "rubbish after the first.gif", GIF[:-1] + b"\x99\x98\x97;", None, GIF_PIXELS
    mpo = saved(PHOTO, "MPO", save_all=True, append_images=[FRAMES[1].copy()], quality=95, subsampling=0)
    yield "two.jpg", mpo, None, PHOTO, 6
    yield "part of the screen.gif", part_gif(), None, part_of_screen()
    yield "a pixel of the screen.gif", small_gif(1, 1, 9, 7), None, small_on_white(1, 1, 9, 7)
    yield "a column of the screen.gif", small_gif(1, 11, 3, 4), None, small_on_white(1, 11, 3, 4)
    yield "a row of the screen, beyond it.gif", small_gif(30, 1, 0, 2), None, small_on_white(30, 1, 0, 2)
    yield "first of two cut.tif", TIFF + b"rubbish", None, NOISE


def part_gif():
    """Return a GIF whose only frame is smaller than its screen, all the rest being transparent."""
    image = Image.new("P", (10, 8), 1)
    image.putpalette([9, 8, 7, 200, 100, 50])
    whole = saved(image, "GIF", transparency=0, optimize=False)
    at = whole.index(b",", 13 + 3 * (2 << (whole[10] & 7)))
    return put(put(whole, 6, struct.pack("<HH", 20, 16)), at + 1, struct.pack("<HH", 4, 3))


def small_gif(width, height, left, top):
    """Return a GIF of 20 x 16 px whose first frame is a part of it in one colour, and whose second is whole."""
    image = Image.new("P", (width, height), 1)
    image.putpalette([9, 8, 7, 200, 100, 50])
    part = saved(image, "GIF", transparency=0, optimize=False)
    at = part.index(b",", 13 + 3 * (2 << (part[10] & 7)))
    part = put(put(part, 6, struct.pack("<HH", 20, 16)), at + 1, struct.pack("<HH", left, top))
    whole = saved(Image.fromarray(noisy(20, 16)).quantize(4), "GIF", optimize=False)
    table = 13 + 3 * (2 << (whole[10] & 7))
    second = whole.index(b",", table)
    local = whole[second : second + 9] + bytes([0x80 | whole[10] & 7]) + whole[13:table] + whole[second + 10 :]
    return part[:-1] + local


def small_on_white(width, height, left, top):
    pixels = np.full((16, max(20, left + width), 3), 255, np.uint8)
    pixels[top : top + height, left : left + width] = 200, 100, 50
    return pixels


def part_of_screen():
    pixels = np.full((16, 20, 3), 255, np.uint8)
    pixels[3:11, 4:14] = 200, 100, 50
    return pixels


def cuts():
    whole = {
        "jpg": BUSY,
        "progressive.jpg": BUSY_PROGRESSIVE,
        "png": PNG,
        "gif": GIF,
        "webp": WEBP,
        "lossy.webp": LOSSY_WEBP,
        "bmp": BMP,
        "raw.tif": TIFF,
        "lzw.tif": LZW,
    }
    for name, data in whole.items():
        for share in (10, 50, 90):
            yield f"{share} percent.{name}", data[: len(data) * share // 100], "truncated"
        if name != "raw.tif":  # it loses a value that the pixels don't need
            yield f"the last two.{name}", data[:-2], "corrupt" if name == "lzw.tif" else "truncated"
    first = saved(NOISE, "TIFF")  # its directory stands before the pixels
    for share in (10, 50, 99):
        yield f"{share} percent.tif", first[: len(first) * share // 100], "truncated"
    yield "no end.jpg", JPEG[:-2], "truncated"
    yield "no end.png", PNG[:-12], "truncated"
    yield "no end.gif", GIF[:-1], "truncated"
    yield "start.jpg", JPEG[:20], "truncated"
    yield "start.png", PNG[:20], "truncated"
    yield "start.gif", GIF[:9], "truncated"
    yield "before the scan.jpg", JPEG[:SCAN], "truncated"
    yield "in the second.gif", saved(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])[:-500], "truncated"
    yield "fewer rows.png", png(ihdr(64, 48), filtered(NOISE[:20])), "truncated"
    yield "zeros to the end.jpg", BUSY[: len(BUSY) // 2] + bytes(len(BUSY) // 2), "truncated"


def corruption():
    idat = PNG.index(b"IDAT") + 4
    yield "wrong checksum.png", put(PNG, idat + 50, bytes([PNG[idat + 50] ^ 255])), "corrupt"
    yield "wrong header checksum.png", put(PNG, 29, b"\1\2\3\4"), "corrupt"
    rows = zlib.compress(filtered(NOISE))
    yield "damaged rows.png", png(ihdr(64, 48), b"", packed=put(rows, 900, b"\0\0\0\0")), "corrupt"
    yield "adler.png", png(ihdr(64, 48), b"", packed=rows[:-4] + b"abcd"), "corrupt"
    yield "no such colour.png", png(ihdr(64, 48, 8, 5), filtered(NOISE)), "corrupt"
    yield "no such depth.png", png(ihdr(64, 48, 7), filtered(NOISE)), "corrupt"
    yield "no rows.png", without(PNG, idat - 8, len(PNG) - 12), "truncated"
    yield "no header.png", without(PNG, 8, 33), "corrupt"
    yield "rubbish chunk.png", put(PNG, 37, b"\0\1\2\3"), "corrupt"
    plte = chunk(b"PLTE", noisy(16, 1).tobytes(), wrong=1)
    yield "palette.png", png(ihdr(64, 48, 8, 3), filtered(NOISE[..., 0] % 16), plte), "corrupt"
    yield "mark.png", put(PNG, 0, b"\x09"), "corrupt"
    yield "line ends.png", PNG.replace(b"\r\n\x1a\n", b"\n\x1a\n", 1), "corrupt"
    yield "filter.png", png(ihdr(64, 48), b"\x09" + filtered(NOISE)[1:]), "corrupt"
    yield "no scan.jpg", JPEG[:SCAN] + b"\xff\xd9", "corrupt"
    yield "no frame.jpg", without(JPEG, FRAME, FRAME + 19), "corrupt"
    yield "no tables.jpg", without(JPEG, TABLES, FRAME), "corrupt"
    yield "codes.jpg", put(JPEG, JPEG.index(b"\xff\xc4") + 5, b"\xff" * 16), "corrupt"
    yield "marks in the scan.jpg", put(BUSY, len(BUSY) // 2, b"\xff" * 60), "corrupt"
    yield "mark.jpg", put(JPEG, 0, b"\0\0\0"), "corrupt"
    yield "no block.gif", put(GIF, GIF.index(b",", 13 + 3 * (2 << (GIF[10] & 7))), b"?"), "corrupt"
    yield "no frame.gif", GIF[: 13 + 3 * (2 << (GIF[10] & 7))] + b";", "corrupt"
    yield "mark.gif", put(GIF, 4, b"8"), "corrupt"
    yield "rubbish.webp", WEBP[:30] + bytes(len(WEBP) - 30), "corrupt"
    yield "rubbish lossy.webp", LOSSY_WEBP[:40] + b"\xff" * (len(LOSSY_WEBP) - 40), "corrupt"
    yield "no chunk.webp", put(WEBP, 12, b"ABCD"), "corrupt"
    yield "header.bmp", put(BMP, 14, struct.pack("<I", 66)), "unsupported"
    yield "bits.bmp", put(BMP, 28, struct.pack("<H", 77)), "unsupported"
    yield "narrow.bmp", put(BMP, 18, struct.pack("<i", -64)), "bomb"
    yield "points to nothing.tif", tiff("<", [(256, 4, [64]), (257, 4, [48])], NOISE.tobytes()), "corrupt"
    yield "rows.tif", put(DEFLATE, len(DEFLATE) // 2, bytes(40)), "corrupt"


def bombs():
    zeros = zlib.compress(bytes(100_000))
    for side in (8_000, 30_000, 2**31 - 1):
        yield f"{side}.png", png(ihdr(side, side), b"", packed=zeros), "bomb"
    yield "true to its header.png", png(ihdr(10_000, 10_000, 1, 0), bytes(1251 * 10_000)), "bomb"
    text = zlib.compress(bytes(60_000_000), 9)
    for kind, content in (
        ("zTXt", b"Comment\0\0" + text),
        ("iTXt", b"Comment\0\1\0\0\0" + text),
        ("iCCP", b"profile\0\0" + text),
    ):
        yield f"{kind}.png", png(ihdr(64, 48), filtered(NOISE), chunk(kind.encode(), content)), "bomb"
    yield "behind the last row.png", png(ihdr(64, 48), filtered(NOISE) + bytes(60_000_000)), "bomb"
    yield "screen.gif", put(GIF, 6, b"\xff" * 4), "bomb"
    yield "frame.gif", put(GIF, GIF.index(b",", 13 + 3 * (2 << (GIF[10] & 7))) + 5, b"\xff" * 4), "bomb"
    yield "wide.bmp", put(BMP, 18, struct.pack("<ii", 60_000, 60_000)), "bomb"
    yield "wide.tif", tiff_of(NOISE, 2, t256=(4, [90_000]), t257=(4, [90_000])), "bomb"
    yield "wide.jpg", put(JPEG, FRAME + 5, struct.pack(">HH", 65_500, 65_500)), "bomb"
    canvas = b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xfe\x3f\0" * 2
    yield "canvas.webp", b"RIFF" + struct.pack("<I", len(canvas)) + canvas, "bomb"
    yield "lossless.webp", put(WEBP, 21, b"\xff" * 4), "bomb"
    second = BUSY_PROGRESSIVE.index(b"\xff\xda")
    yield "scans.jpg", BUSY_PROGRESSIVE[:second] + BUSY_PROGRESSIVE[second:-2] * 30 + b"\xff\xd9", "bomb"


def strangers():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("photo.jpg", JPEG)
    yield "text.jpg", b"Not a picture, said the text.\n" * 40, "not_an_image"
    yield "page.jpg", b"<!DOCTYPE html><html><body><svg></svg>404</body></html>", "not_an_image"
    yield "archive.png", archive.getvalue(), "not_an_image"
    yield "random.jpg", noisy(seed=9).tobytes(), "not_an_image"
    yield "program.png", b"\x7fELF\2\1\1" + bytes(500), "not_an_image"
    yield "paper.png", b"%PDF-1.7\n" + bytes(300), "not_an_image"
    yield "film.jpg", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(400), "not_an_image"
    yield "pickle.png", b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.", "not_an_image"
    yield "zeros.jpg", bytes(5000), "not_an_image"
    yield "spaces.jpg", b" " * 700, "not_an_image"
    yield "car.bmp", b"BMW makes cars, and this is no picture of one.", "not_an_image"
    yield "one byte.gif", b"G", "not_an_image"
    yield "data.json", b'{"svg": "P6 is not the beginning"}', "not_an_image"


def extremes():
    yield "empty.jpg", b"", "empty"
    yield "empty", b"", "empty"
    yield "pixel.png", saved(noisy(1, 1), "PNG"), "too_small"
    yield "pixel.gif", saved(Image.new("P", (1, 1)), "GIF"), "too_small"
    yield "column.gif", saved(Image.new("P", (1, 9)), "GIF"), "too_small"
    yield "a frame of nothing.gif", put(GIF, GIF_FRAME + 5, bytes(4)), "corrupt"
    yield "a pixel on a column.gif", put(small_gif(1, 1, 0, 0), 6, struct.pack("<HH", 1, 60)), "too_small"
    yield "column.png", saved(noisy(1, 500), "PNG"), "too_small"
    yield "row.jpg", saved(noisy(500, 1), "JPEG"), "too_small"
    yield "no size.png", png(ihdr(0, 0), b""), "too_small"
    yield "no width.bmp", put(BMP, 18, struct.pack("<i", 0)), "corrupt"
    yield "no height.jpg", put(JPEG, FRAME + 5, b"\0\0"), "too_small"
    yield "four pixels.png", saved(noisy(2, 2), "PNG"), None, noisy(2, 2)
    yield "white.png", saved(np.full((32, 32, 3), 255, np.uint8), "PNG"), None, np.full((32, 32, 3), 255, np.uint8)
    yield "strip.png", saved(noisy(3000, 3), "PNG"), None, noisy(3000, 3)
    yield "long.bmp", BMP + bytes(50_000_001 - len(BMP)), "too_large"


def foreigners():
    for kind in ("JPEG2000", "ICO", "PPM", "TGA", "DDS", "PCX", "SGI", "EPS", "XBM", "ICNS", "MSP"):
        mode = "1" if kind in ("XBM", "MSP") else None
        yield f"photo.{kind.lower()}", saved(photo(64, 64), kind, mode), "unsupported"
    yield "photo.im", b"Image type: RGB\r\nName: photo\r\n" + bytes(600), "not_an_image"
    yield "packed.tga", saved(PHOTO, "TGA", compression="tga_rle"), "not_an_image"
    yield "old.tga", saved(PHOTO, "TGA")[:-26], "unsupported"
    yield "photo.psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 48, 64, 8, 3) + bytes(300), "unsupported"
    yield "photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), "unsupported"
    yield "photo.avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(300), "unsupported"
    yield "photo.jxl", b"\xff\x0a" + bytes(300), "unsupported"
    yield "drawing.svg", b'<?xml version="1.0"?>\n<!-- a --><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported"
    yield "photo.cr2", b"II*\0\x10\0\0\0CR\2\0" + bytes(300), "unsupported"
    yield "photo.qoi", b"qoif" + struct.pack(">IIBB", 64, 48, 3, 0) + bytes(300), "unsupported"
    yield "arithmetic.jpg", put(JPEG, FRAME + 1, b"\xc9"), "unsupported"
    yield "lossless.jpg", put(JPEG, FRAME + 1, b"\xc3"), "unsupported"
    yield "12 bits.jpg", put(JPEG, FRAME + 4, b"\x0c"), "unsupported"
    yield "jpeg within.bmp", put(BMP, 30, struct.pack("<I", 4)), "unsupported"
    yield "24 bits.tif", tiff_of(NOISE[..., 0], 1, t258=(3, [24])), "unsupported"
    yield "10 bits.tif", tiff_of(in_bits(DEEP >> 6, 10), 1, t256=(4, [64]), t258=(3, [10])), "unsupported"
    yield "half a float.tif", tiff_of((DEEP / 65535).astype(np.float16), 1, kind=3), "unsupported"
    yield "no such packing.tif", tiff_of(NOISE, 2, compression=34925 + 1000), "unsupported"
    yield "camera.dng", tiff_of(NOISE, 2, t50706=(3, [1, 4, 0, 0])), "unsupported"
    yield "camera.nef", tiff_of(NOISE, 2, t254=(4, [1]), t330=(4, [8])), "unsupported"
    yield "sensor.tif", tiff_of(NOISE[..., 0], 32803), "unsupported"
    yield "apple.png", put(PNG, 8, chunk(b"CgBI", b"\x50\0\x20\6")) + PNG[8:], "unsupported"


def misnomers():
    yield "png.jpg", PNG, None, NOISE
    yield "jpg.png", JPEG, None, PHOTO, 6
    yield "webp.gif", WEBP, None, NOISE
    yield "gif.bmp", GIF, None, GIF_PIXELS
    yield "bmp.tiff", BMP, None, NOISE
    yield "tiff.jpeg", TIFF, None, NOISE
    yield "nothing", PNG, None, NOISE
    yield "LOUD.TXT", JPEG, None, PHOTO, 6
    yield "zip.jpg", b"PK\3\4" + bytes(200), "not_an_image"


def odd_names():
    for name in (
        "ネコ café 🐈.png",
        "two  spaces.png",
        "a\nline.png",
        'quotes "and" \\ back.png',
        "caf\udce9.png",
        ".hidden.png",
        "-o.png",
        "x" * 251 + ".png",
        "deep/er/and/deeper/one.png",
        "both.png",
        "both.png.png/inside.png",
        "$(touch no).png",
    ):
        yield name, PNG, None, NOISE


def bad_metadata():
    for name, content in (
        ("rubbish exif", b"Exif\0\0rubbish"),
        ("cut exif", b"Exif\0\0MM\0*\0\0\0\x08\0\x05"),
        ("exif points outside", b"Exif\0\0II*\0\xff\xff\xff\xff"),
        ("empty exif", b"Exif\0\0"),
        ("exif circle", b"Exif\0\0" + exif(1)[:-4] + struct.pack(">I", 8)),
        ("huge exif", b"Exif\0\0" + exif(1) + bytes(65_000)),
        ("rubbish xmp", b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta <<<"),
    ):
        yield f"{name}.jpg", after_start(JPEG, segment(0xE1, content)), None, PHOTO, 6
    for name, kind, content in (
        ("rubbish profile", 0xE2, b"ICC_PROFILE\0\1\1rubbish"),
        ("profile of many parts", 0xE2, b"ICC_PROFILE\0\x09\x02rubbish"),
        ("rubbish mpf", 0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        ("rubbish photoshop", 0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff"),
        ("long comment", 0xFE, b"c" * 65_000),
        ("short jfif", 0xE0, b"JFIF\0"),
        ("rubbish adobe", 0xEE, b"Adob"),
        ("adobe of the future", 0xEE, b"Adobe\0\x64\0\0\0\0\x07"),
    ):
        yield f"{name}.jpg", after_start(JPEG, segment(kind, content)), None, PHOTO, 6
    jfif = JPEG[2 : 4 + int.from_bytes(JPEG[4:6])]
    yield "jfif twice.jpg", after_start(JPEG, jfif), None, PHOTO, 6
    yield "jfif of the future.jpg", put(JPEG, 11, b"\x05"), None, PHOTO, 6
    yield "two exif.jpg", after_start(JPEG, *[segment(0xE1, b"Exif\0\0" + exif(1))] * 2), None, PHOTO, 6
    yield "more after the end.jpg", JPEG + b"rubbish" * 30, None, PHOTO, 6
    yield "padded.jpg", after_start(JPEG, b"\xff" * 9), None, PHOTO, 6
    for name, part in (
        ("text checksum", chunk(b"tEXt", b"Comment\0hello", wrong=5)),
        ("rubbish text", chunk(b"zTXt", b"Comment\0\0no stream")),
        ("text without end", chunk(b"iTXt", b"Comment")),
        ("rubbish profile", chunk(b"iCCP", b"p\0\0no stream")),
        ("unknown packing", chunk(b"iCCP", b"p\0\x07rubbish")),
        ("rubbish exif", chunk(b"eXIf", b"rubbish")),
        ("short density", chunk(b"pHYs", b"\0")),
        ("rubbish gamma", chunk(b"gAMA", b"")),
        ("rubbish animation", chunk(b"acTL", b"\0")),
        ("private", chunk(b"prIv", bytes(70_000))),
    ):
        yield f"{name}.png", png(ihdr(64, 48), filtered(NOISE), part), None, NOISE
    yield "more after the end.png", PNG + b"rubbish" * 30, None, NOISE
    yield "rubbish exif.webp", saved(NOISE, "WEBP", lossless=True, exif=b"Exif\0\0rubbish"), None, NOISE
    yield "comment.gif", GIF[:-1] + b"!\xfe\x05hello\0;", None, GIF_PIXELS
    yield "more after the end.gif", GIF + b"rubbish" * 30, None, GIF_PIXELS
    yield "unknown tag.tif", tiff_of(NOISE, 2, t65000=(4, [1, 2, 3])), None, NOISE
    yield "resolution.tif", tiff_of(NOISE, 2, t282=(3, [0]), t283=(3, [0])), None, NOISE
    yield "wrong length.bmp", put(BMP, 2, b"\1\0\0\0"), None, NOISE


def silent_damage():
    """Pillow shows all of these, with grey or shifted blocks, and says nothing."""
    half = len(BUSY) // 2
    yield "zeros.jpg", put(BUSY, half, bytes(200)), "corrupt"
    yield "flipped.jpg", put(BUSY, half, bytes(byte ^ 0x55 for byte in BUSY[half : half + 40])), "corrupt"
    yield "early end.jpg", BUSY[:half] + b"\xff\xd9", "corrupt"
    yield "early end of progressive.jpg", BUSY_PROGRESSIVE[: len(BUSY_PROGRESSIVE) * 2 // 3] + b"\xff\xd9", "corrupt"
    lost, next_one = RESTARTS.index(b"\xff\xd3"), RESTARTS.index(b"\xff\xd5")
    yield "restarts lost.jpg", without(RESTARTS, lost, next_one), "corrupt"
    yield "part lost.jpg", without(BUSY, half, half + 2000), "corrupt"
    yield "taller.jpg", put(JPEG, FRAME + 5, struct.pack(">H", 96)), "corrupt"
    rows = bytearray(zlib.compress(filtered(NOISE), 0))
    rows[1000] ^= 64
    yield "flipped.png", png(ihdr(64, 48), b"", packed=bytes(rows)), "corrupt"
    rare = jpeg(noisy(160, 120), [(4, 2), (1, 1), (1, 1)])
    half = len(rare) // 2
    yield "rare sampling, early end.jpg", rare[:half] + b"\xff\xd9", "corrupt"
    yield "rare sampling, part lost.jpg", without(rare, half, half + 2000), "corrupt"
    yield "rare sampling, marks in the scan.jpg", put(rare, half, b"\xff\xe5" * 60), "corrupt"


MAKERS = {
    "ok_control": controls,
    "exif_orientation": orientations,
    "colour_modes": colours,
    "animated_multi": animations,
    "truncated": cuts,
    "corrupt": corruption,
    "bomb": bombs,
    "not_an_image": strangers,
    "degenerate": extremes,
    "unsupported": foreigners,
    "misnamed": misnomers,
    "filenames": odd_names,
    "bad_metadata": bad_metadata,
    "silent_damage": silent_damage,
}


@cache
def make_corpus():
    """Return all cases, made once: nobody changes the list."""
    return [Case(category, f"{category}/{case[0]}", *case[1:]) for category, make in MAKERS.items() for case in make()]


def write_corpus(folder: Path, cases):
    for case in cases:
        path = folder / case.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.data)
