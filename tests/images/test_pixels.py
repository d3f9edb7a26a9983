"""Pixels: whatever the file, what a person would see; whatever the size, what torchvision would make of it."""

import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision import transforms
from torchvision.transforms import functional

from vitlora.export.onnx_runtime import normalise
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import _to_rgb, crop_and_resize, decode, inspect, resize_and_crop, scaled_size, to_array
from vitlora.model.base import Normalisation

MODES = {
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def picture(width, height):
    return Image.fromarray(noise(width, height))


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def pixels(data):
    """Decode, and return uint8 (H, W, 3)."""
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values):
    return np.stack([np.asarray(values, np.uint8)] * 3, axis=-1)


# Sizes and crops, against torchvision


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("size", [8, 56, 224])
@pytest.mark.parametrize(
    "shape",
    [
        (31, 47),
        (500, 333),
        (333, 500),
        (57, 56),
        (56, 57),
        (224, 225),
        (225, 224),
        (224, 224),
        (56, 56),
        (8, 8),
        (9, 8),
        (11, 8),
        (300, 301),
        (97, 31),
        (1, 300),
        (300, 1),
        (2, 5),
        (1, 1),
        (640, 427),
    ],
)
def test_a_resized_and_cropped_picture_is_torchvisions_bit_for_bit(shape, size, interpolation):
    image = picture(*shape)
    theirs = transforms.Compose([transforms.Resize(size, MODES[interpolation]), transforms.CenterCrop(size)])(image)
    ours = resize_and_crop(image, size, interpolation)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((500, 333), (17, 5, 400, 301)),
        ((333, 500), (0, 0, 333, 500)),
        ((64, 64), (63, 63, 64, 64)),
        ((40, 30), (3, 2, 11, 28)),
        ((8, 8), (1, 0, 8, 7)),
        ((1, 90), (0, 10, 1, 60)),
        ((56, 56), (0, 0, 56, 56)),
    ],
)
def test_a_cropped_and_resized_picture_is_torchvisions_bit_for_bit(shape, box, interpolation):
    image = picture(*shape)
    left, top, right, bottom = box
    for size in (8, 56, 224):
        theirs = functional.resized_crop(
            image, top, left, bottom - top, right - left, [size, size], MODES[interpolation]
        )
        ours = crop_and_resize(image, box, size, interpolation)
        assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


def test_the_two_filters_differ():
    image = picture(100, 80)
    assert not np.array_equal(resize_and_crop(image, 56, "bilinear"), resize_and_crop(image, 56, "bicubic"))


def test_a_picture_so_narrow_that_it_would_fill_the_memory_is_refused():
    for shape in ((1, 60000), (60000, 1)):
        with pytest.raises(
            BadImageError, match=f"{shape[0]} x {shape[1]} px is too long and narrow to be scaled to 224"
        ):
            resize_and_crop(Image.new("RGB", shape), 224, "bilinear")
    assert scaled_size(1, 60000, 8) == (8, 480000)


def test_an_array_has_channels_first():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert to_array(image).tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]


def test_normalised_pixels_are_torchvisions_and_the_models_exactly():
    every = np.arange(256, dtype=np.uint8)
    images = np.stack([noise(16, 16).reshape(16, 16, 3), np.stack([every.reshape(16, 16)] * 3, axis=-1)])
    squares = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    theirs = torch.stack([transform(Image.fromarray(image)) for image in images]).numpy()
    ours = normalise(squares, MEAN, STD)
    assert ours.dtype == np.float32
    assert np.array_equal(ours, theirs)
    assert np.array_equal(ours, Normalisation(MEAN, STD)(torch.from_numpy(squares)).numpy())


# Kinds of pictures


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped_to_white(kind):
    values = np.array([[0, 32768, 65535], [256, 257, 1000]], np.uint16)
    assert np.array_equal(pixels(saved(Image.fromarray(values), format=kind)), grey([[0, 128, 255], [1, 1, 4]]))


def test_dark_sixteen_bit_grey_stays_dark():
    values = np.full((4, 4), 200, np.uint16)
    assert np.array_equal(pixels(saved(Image.fromarray(values), format="PNG")), grey(np.ones((4, 4))))


def test_big_endian_sixteen_bit_tiff_is_scaled():
    values = np.array([[0, 32768, 65535]] * 2, ">u2")
    assert np.array_equal(pixels(tiff(values, sample_format=1)), grey([[0, 128, 255]] * 2))


def tiff(values, sample_format):
    """Write one grey strip by hand, big-endian; sample format 1 is unsigned, 3 is float."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(">")).tobytes()
    fields = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, values.dtype.itemsize * 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
        (339, 3, sample_format),
    ]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in fields
    )
    return b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + struct.pack(">H", len(fields)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ([[0.0, 0.5, 1.0]], [[0, 128, 255]]),
        ([[0.0, 100.0, 255.0]], [[0, 100, 255]]),
        ([[0.0, 32767.5, 65535.0]], [[0, 128, 255]]),
        ([[-1.0, 0.25, float("nan")]], [[0, 64, 0]]),
        ([[0.0, float("inf"), 65535.0]], [[0, 255, 255]]),
    ],
    ids=["shares", "bytes", "16-bit", "negative and NaN", "infinite"],
)
def test_a_float_tiff_is_scaled_by_the_least_range_that_holds_it(values, seen):
    image = Image.fromarray(np.array(values * 2, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(pixels(saved(image, format="TIFF")), grey(seen * 2))


@pytest.mark.parametrize(("top", "middle"), [(255, 128), (65535, 32768), (2**31 - 1, 65535)])
def test_a_32_bit_tiff_is_scaled_by_the_least_range_that_holds_it(top, middle):
    image = Image.fromarray(np.array([[0, middle, top]] * 2, np.int32))
    seen = [[0, 128, 255]] if top <= 65535 else [[0, 255, 255]]
    assert np.array_equal(pixels(saved(image, format="TIFF")), grey(seen * 2))


RED_CLEAR = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [255, 0, 0, 128]]] * 2, np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(kind):
    data = saved(
        Image.fromarray(RED_CLEAR), format=kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})
    )
    assert np.array_equal(pixels(data), [[[255, 0, 0], [255, 255, 255], [255, 127, 127]]] * 2)


def test_transparent_grey_is_laid_on_white():
    image = Image.fromarray(np.array([[[10, 255], [10, 0], [0, 128]]] * 2, np.uint8), mode="LA")
    assert np.array_equal(pixels(saved(image, format="PNG")), grey([[10, 255, 127]] * 2))


@pytest.mark.parametrize("alpha", [bytes([255, 0, 128]), 1], ids=["shares", "one colour"])
def test_a_transparent_palette_is_laid_on_white(alpha):
    image = Image.fromarray(np.array([[0, 1, 2]] * 2, np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 0])
    third = 127 if isinstance(alpha, bytes) else 0
    expected = [[[255, 0, 0], [255, 255, 255], [third] * 3]] * 2
    assert np.array_equal(pixels(saved(image, format="PNG", transparency=alpha)), expected)


def test_a_palette_with_an_alpha_channel_is_laid_on_white():
    """No file that we read opens as PA today, but TIFF's writer and other tools know the mode."""
    image = Image.fromarray(RED_CLEAR).convert("RGB").convert("P").convert("PA")
    image.putalpha(Image.fromarray(RED_CLEAR[..., 3]))
    assert image.mode == "PA"
    assert np.array_equal(np.asarray(_to_rgb(image)), [[[255, 0, 0], [255, 255, 255], [255, 127, 127]]] * 2)


def test_the_one_colour_that_a_png_names_as_transparent_becomes_white():
    colours = np.array([[[9, 9, 9], [255, 0, 0]]] * 2, np.uint8)
    data = saved(Image.fromarray(colours), format="PNG", transparency=(9, 9, 9))
    assert np.array_equal(pixels(data), [[[255, 255, 255], [255, 0, 0]]] * 2)
    data = saved(Image.fromarray(colours[..., 0]), format="PNG", transparency=9)
    assert np.array_equal(pixels(data), grey([[255, 255]] * 2))


def test_a_transparent_gif_is_laid_on_white():
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    data = saved(image, format="GIF", transparency=1)
    white, red = [255, 255, 255], [255, 0, 0]
    assert np.array_equal(pixels(data), [[red, white], [white, red]])


def test_a_cmyk_jpeg_shows_its_colours():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(pixels(saved(image, format="JPEG", quality=95)).astype(int) - [255, 0, 0]).max() <= 3


def test_a_lab_tiff_shows_its_colours():
    data = saved(Image.new("RGB", (4, 4), "red").convert("LAB"), format="TIFF")
    assert np.abs(pixels(data).astype(int) - [255, 0, 0]).max() <= 6


def test_a_grey_jpeg_is_grey():
    image = Image.fromarray(np.full((16, 16), 77, np.uint8))
    assert np.array_equal(pixels(saved(image, format="JPEG")), grey(np.full((16, 16), 77)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_black_and_white_picture_keeps_both(kind):
    values = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    assert np.array_equal(pixels(saved(Image.fromarray(values).convert("1"), format=kind)), grey(values))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_palette_shows_its_colours(kind):
    image = Image.fromarray(np.array([[0, 1, 2]] * 2, np.uint8)).convert("P")
    image.putpalette([1, 2, 3, 40, 50, 60, 250, 240, 230])
    assert np.array_equal(pixels(saved(image, format=kind)), [[[1, 2, 3], [40, 50, 60], [250, 240, 230]]] * 2)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_a_lossless_picture_keeps_every_pixel(kind, options):
    assert np.array_equal(pixels(saved(picture(21, 13), format=kind, **options)), noise(21, 13))


def test_48_bit_colour_is_cut_to_its_high_bytes():
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 32768, 65535, 256, 511, 65280) for _ in range(2))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    assert np.array_equal(pixels(png(parts)), [[[0, 128, 255], [1, 1, 255]]] * 2)


def png(parts):
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_jpeg_named_png_is_read_by_its_content(tmp_path):
    path = tmp_path / "photo.png"
    picture(20, 10).save(path, format="JPEG", quality=95)
    assert decode(path.read_bytes()).size == (20, 10)


def test_a_photo_with_a_second_picture_inside_gives_the_first():
    data = saved(
        Image.new("RGB", (16, 16), "red"), format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))]
    )
    assert np.abs(pixels(data).astype(int) - [254, 0, 0]).max() <= 3


# Orientation: what is stored, for a photo that upright is UPRIGHT

UPRIGHT = noise(5, 3, seed=1)
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def with_orientation(image, orientation, kind, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, format=kind, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_a_rotated_photo_is_turned_upright(kind, options, orientation):
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation]))
    assert np.array_equal(pixels(with_orientation(image, orientation, kind, **options)), UPRIGHT)


@pytest.mark.parametrize("orientation", STORED)
def test_a_rotated_jpeg_is_turned_upright(orientation):
    corner = np.zeros((40, 64, 3), np.uint8)
    corner[:16, :16] = 255  # white at the upper left
    stored = {
        1: corner,
        2: corner[:, ::-1],
        3: corner[::-1, ::-1],
        4: corner[::-1],
        5: corner.transpose(1, 0, 2),
        6: np.rot90(corner),
        7: np.rot90(corner, 2).transpose(1, 0, 2),
        8: np.rot90(corner, -1),
    }[orientation]
    data = with_orientation(Image.fromarray(np.ascontiguousarray(stored)), orientation, "JPEG", quality=95)
    found = pixels(data)
    assert found.shape == (40, 64, 3)
    assert np.abs(found.astype(int) - corner).max() < 12


def test_a_rotated_palette_picture_keeps_its_transparency():
    image = Image.fromarray(np.array([[0, 1]] * 2, np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    data = with_orientation(image, 6, "PNG", transparency=1)
    assert np.array_equal(pixels(data), [[[255, 0, 0]] * 2, [[255, 255, 255]] * 2])


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0MM\0*\0\0\0\x08\0\x05", b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"],
    ids=["cut", "rubbish", "points outside", "empty"],
)
def test_broken_exif_costs_no_picture(exif):
    plain = saved(picture(20, 10), format="JPEG", quality=95)
    assert np.array_equal(pixels(saved(picture(20, 10), format="JPEG", quality=95, exif=exif)), pixels(plain))


def test_an_orientation_that_does_not_exist_is_passed_over():
    data = with_orientation(picture(5, 3), 9, "PNG")
    assert np.array_equal(pixels(data), noise(5, 3))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_an_animation_gives_its_first_frame(kind, options):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "green", "blue")]
    data = saved(frames[0], format=kind, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert np.array_equal(pixels(data), np.full((4, 6, 3), [255, 0, 0]))


def test_a_tiff_of_many_pages_gives_the_first():
    pages = [Image.new("RGB", (6, 4), colour) for colour in ("red", "green")]
    data = saved(pages[0], format="TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(pixels(data), np.full((4, 6, 3), [255, 0, 0]))


# What is known of a picture before it is used


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (saved(picture(30, 20), format="JPEG"), True),
        (saved(picture(30, 20).convert("L"), format="JPEG"), True),
        (saved(picture(30, 20), format="JPEG", progressive=True), True),
        (with_orientation(picture(30, 20), 1, "JPEG"), True),
        (with_orientation(picture(30, 20), 0, "JPEG"), True),
        (with_orientation(picture(30, 20), 9, "JPEG"), True),
        (saved(picture(30, 20), format="JPEG", exif=b"Exif\0\0rubbish"), True),
        (with_orientation(picture(30, 20), 3, "JPEG"), False),
        (with_orientation(picture(20, 30), 6, "JPEG"), False),
        (saved(picture(30, 20).convert("CMYK"), format="JPEG"), False),
        (saved(picture(30, 20), format="MPO", save_all=True, append_images=[picture(8, 8)]), True),
        (saved(picture(30, 20), format="PNG"), False),
        (saved(picture(30, 20), format="WEBP"), False),
    ],
)
def test_only_an_upright_jpeg_in_rgb_or_grey_is_plain_and_every_size_is_the_upright_one(data, plain):
    seen = inspect(data)
    assert (seen.width, seen.height, seen.plain) == (30, 20, plain)
    assert decode(data).size == (30, 20)


@pytest.mark.parametrize("size", [(2, 2), (7, 9), (8, 8), (15, 300)])
def test_a_picture_too_small_to_be_scaled_down_is_inspected(size):
    seen = inspect(saved(picture(*size), format="JPEG"))
    assert (seen.width, seen.height, seen.plain) == (*size, True)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "I;16")),
        *(("TIFF", mode) for mode in ("RGB", "L", "CMYK", "P", "RGBA", "I;16")),
    ],
)
def test_format_mode_and_a_grey_thumbnail_are_told_whatever_the_way_they_were_come_by(kind, mode):
    rows, columns = np.mgrid[0:192, 0:256]
    grey = (rows * 0.5 + columns * 0.5).astype(np.uint8)
    image = Image.fromarray(grey)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert("RGB").convert(mode)
    seen = inspect(saved(image, format=kind))
    assert (seen.kind, seen.mode) == (kind, mode)
    expected = grey.reshape(16, 12, 16, 16).mean(axis=(1, 3))
    found = np.frombuffer(seen.thumbnail, np.uint8).reshape(16, 16)
    assert np.abs(found - expected).max() <= (8 if mode == "P" else 3)


def test_a_jpeg_whose_end_is_missing_is_seen_at_any_place():
    data = saved(picture(64, 48), format="JPEG", quality=95)
    for left in range(700, len(data) - 2, 97):
        with pytest.raises(BadImageError):
            inspect(data[:left])


# What is refused


def bomb(width, height):
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return png([header, (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")])


JPEG = saved(picture(64, 48), format="JPEG")
PNG = saved(picture(64, 48), format="PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"\0", "not a picture of a known format"),
        (b"hello, I am text\n" * 20, r"not a picture of a known format \(JPEG, PNG, WEBP, GIF, BMP, TIFF\)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG; the rule: JPEG, PNG, WEBP, GIF, BMP, TIFF"),
        (saved(picture(8, 8), format="ICO"), "ICO; the rule: "),
        (JPEG[: len(JPEG) // 2], "the JPEG file ends before its end marker"),
        (JPEG[:20], "the JPEG file ends in its header"),
        (PNG[: len(PNG) // 2], "the PNG file ends before its last chunk"),
        (saved(picture(64, 48), format="WEBP")[:200], "the WEBP file has 200 bytes, fewer than its header says"),
        (saved(picture(64, 48), format="BMP")[:200], "truncated"),
        (saved(picture(64, 48), format="TIFF", compression="tiff_lzw")[:900], "only got"),
        (bomb(20_000, 20_000), "too many pixels: 20000 x 20000; the rule: at most 52,000,000"),
        (bomb(10_000, 9_000), "too many pixels: 10000 x 9000; the rule"),
        (bomb(100, 100), "the PNG rows end after 100 of 30,100 bytes"),
    ],
    ids=[
        "empty",
        "one byte",
        "text",
        "SVG",
        "ICO",
        "half a JPEG",
        "a JPEG's start",
        "half a PNG",
        "half a WEBP",
        "half a BMP",
        "half a TIFF",
        "bomb",
        "small bomb",
        "PNG without rows",
    ],
)
def test_a_file_that_is_no_whole_picture_is_refused_with_the_reason(data, reason):
    for read in (decode, inspect):
        with pytest.raises(BadImageError, match=reason) as refused:
            read(data)
        assert "\n" not in str(refused.value)
        assert "BytesIO" not in str(refused.value)
        assert " at 0x" not in str(refused.value)


def mutations(data, count, seed):
    """Yield copies with bytes overwritten, cut out, doubled, or with the end lost."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(random.integers(1, 6)):
            end = min(len(changed), 700) if random.random() < 0.7 else len(changed)
            at = int(random.integers(0, max(end, 1)))
            way = random.integers(0, 4)
            if way == 0:
                changed[at : at + 1] = bytes([random.integers(0, 256)])
            elif way == 1:
                del changed[at : at + int(random.integers(1, 20))]
            elif way == 2:
                changed[at:at] = random.integers(0, 256, int(random.integers(1, 9)), np.uint8).tobytes()
            else:
                del changed[max(at, 30) :]
        yield bytes(changed)


def honest_mutations(data, count, seed):
    """Yield copies of a PNG with one part damaged before it is compressed, so that no checksum gives it away."""
    parts, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    random = np.random.default_rng(seed)
    for number in range(count):
        chosen = int(random.integers(0, len(parts) - 1))
        kind, content = parts[chosen]
        if kind == b"IDAT":
            (rows,) = mutations(zlib.decompress(content), 1, seed=number)
            content = zlib.compress(rows)
        else:
            (content,) = mutations(content, 1, seed=number)
        yield png([*parts[:chosen], (kind, content), *parts[chosen + 1 :]])


UPSIDE_JPEG = with_orientation(picture(64, 48), 6, "JPEG")
UPSIDE_PNG = with_orientation(picture(24, 18), 6, "PNG")


@pytest.mark.parametrize(
    ("damaged", "least"),
    [
        (list(mutations(UPSIDE_JPEG, 300, seed=7)), 20),
        (list(mutations(UPSIDE_PNG, 300, seed=7)), 0),
        (list(honest_mutations(UPSIDE_PNG, 300, seed=8)), 20),
    ],
    ids=["JPEG", "PNG", "PNG with honest checksums"],
)
def test_a_damaged_file_gives_pixels_or_a_reason_and_never_anything_else(damaged, least):
    decoded, reasons = 0, []
    for data in damaged:
        try:
            image = decode(data)
        except BadImageError as error:
            reasons.append(str(error))
            with pytest.raises(BadImageError):
                inspect(data)
        else:
            decoded += image.mode == "RGB"
            seen = inspect(data)
            assert (seen.width, seen.height) == image.size
    assert decoded + len(reasons) == 300
    assert all(reasons)
    assert (
        min(decoded, len(reasons)) >= least
    )  # neither always harmless nor always fatal, but that PNG's checksums tell all


def test_decoding_leaves_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    decode(PNG)
    with pytest.raises(BadImageError):
        decode(b"")
    assert warnings.filters == before


# What goes with the pixels


PROFILES = {
    "a profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "rubbish": b"rubbish" * 9,
    "one that packs badly": np.random.default_rng(3).bytes(300_000),
}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "P"), ("WEBP", "RGB"), ("TIFF", "RGB")],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_is_saved_of_a_picture_holds_pixels_only(kind, mode, profile, orientation):
    image = picture(20, 10).convert(mode)
    data = with_orientation(image, orientation, kind, icc_profile=profile, dpi=(300, 300))
    decoded = decode(data)
    assert decoded.info == {}
    again = saved(decoded, format="PNG")
    assert sorted(set(re.findall(rb"IHDR|iCCP|eXIf|pHYs|tRNS|tEXt|zTXt|iTXt|gAMA", again))) == [b"IHDR"]
    assert np.array_equal(pixels(again), np.asarray(decoded))
    small = saved(decoded, format="JPEG")
    assert not re.search(rb"ICC_PROFILE|Exif|Photoshop|ns\.adobe\.com", small)
    assert Image.open(io.BytesIO(small)).size == decoded.size
