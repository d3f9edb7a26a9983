"""Training batches: the pixels of either decoder, and order, crops and flips as a function of seed, epoch and image."""

import io
import pickle

import numpy as np
import pytest
import simplejpeg
import tiny
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from vitlora.core.errors import VitloraError
from vitlora.images.pixels import crop_and_resize, decode, inspect
from vitlora.preprocess.stage import TRAIN_COLUMNS
from vitlora.storage.packed import write_packed
from vitlora.train.augment import draw_crops
from vitlora.train.dataset import TrainImages, TrainLoader
from vitlora.train.jpeg import decode_rows, scale_crop
from vitlora.train.params import Augment

LAW = Augment(**tiny.AUGMENT)
SIZES = [(64, 48), (37, 91), (16, 16), (17, 33), (8, 8), (7, 5), (2, 300), (2, 2)]
FILTERS = ("bilinear", "bicubic")


def photo(width, height, seed=0):
    """Return a picture with soft shapes, hard edges and a little noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(5, 40) + y / rng.uniform(5, 40)) for _ in range(3)]
    pixels = 128 + 70 * np.stack(waves, axis=-1) + rng.normal(0, 4, (height, width, 3))
    pixels[height // 3 : height // 2, width // 4 : width // 2] += 50
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "JPEG", "quality": 90, **options})
    return buffer.getvalue()


def rotated(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image, exif=exif.tobytes())


def encoded(image, sampling):
    return simplejpeg.encode_jpeg(np.array(image), colorsubsampling=sampling)


KINDS = {
    "4:4:4": lambda image: saved(image, subsampling=0),
    "4:2:2": lambda image: saved(image, subsampling=1),
    "4:2:0": lambda image: saved(image, subsampling=2),
    "4:1:1": lambda image: encoded(image, "411"),
    "4:4:0": lambda image: encoded(image, "440"),
    "grey": lambda image: saved(image.convert("L")),
    "progressive": lambda image: saved(image, progressive=True),
    "progressive grey": lambda image: saved(image.convert("L"), progressive=True),
    "restart markers": lambda image: saved(image, restart_marker_rows=1),
    "RGB stored as such": lambda image: saved(image, keep_rgb=True),
    "comment and profile": lambda image: saved(image, comment=b"\xff\xc0\0\x11", icc_profile=b"\xff\xc2" * 200),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


# Pixels


@each_kind
def test_a_jpeg_has_pillows_pixels_whatever_its_kind_and_size(kind):
    for number, size in enumerate(SIZES):
        data = KINDS[kind](photo(*size, seed=number))
        assert inspect(data).plain
        assert np.array_equal(decode_rows(data, size[1]), np.asarray(decode(data)))


@each_kind
def test_the_first_rows_are_the_same_however_few_are_asked_for(kind):
    data = KINDS[kind](photo(50, 200))
    whole = np.asarray(decode(data))
    for rows in [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 100, 191, 192, 193, 199, 200]:
        found = decode_rows(data, rows)
        assert np.array_equal(found[:rows], whole[:rows])
        assert len(found) == min(rows + 8, 200)


def test_a_padded_header_is_read_in_full():
    """Any number of FF may stand before a marker; the height is then left alone."""
    data = KINDS["4:2:0"](photo(40, 60))
    padded = data[:2] + b"\xff\xff" + data[2:]
    assert np.array_equal(decode_rows(padded, 10)[:10], np.asarray(decode(padded))[:10])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", saved(photo(9, 9), format="PNG"), KINDS["grey"](photo(9, 9))[:60]])
def test_what_is_no_jpeg_to_this_decoder_gives_nothing(data):
    assert decode_rows(data, 9) is None


def off_by(image, box, size, interpolation):
    ours = scale_crop(np.array(image), box, size, interpolation).numpy()
    assert ours.shape == (3, size, size)
    return np.abs(ours.astype(int) - crop_and_resize(image, box, size, interpolation))


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("box", [(5, 9, 395, 299), (0, 0, 400, 300), (100, 50, 220, 130), (30, 30, 31, 31)])
@pytest.mark.parametrize("size", [56, 224])
def test_a_scaled_crop_is_pillows_but_for_a_level_here_and_there(size, box, interpolation):
    off = off_by(photo(400, 300), box, size, interpolation)
    assert off.max() <= 1
    assert off.mean() <= 0.05


@pytest.mark.parametrize("interpolation", FILTERS)
def test_where_pillow_scales_the_height_first_more_values_are_off(interpolation):
    """Thin crops, hard edges: the most that rounding between the two passes can do."""
    for box in [(10, 0, 20, 300), (0, 7, 400, 9)]:
        off = off_by(photo(400, 300), box, 56, interpolation)
        assert off.max() <= 2
        assert off.mean() <= 0.25


@pytest.mark.parametrize("interpolation", FILTERS)
def test_over_many_random_crops_hardly_a_value_is_off(interpolation):
    image = photo(400, 300)
    boxes, _ = draw_crops(0, [(0, row) for row in range(60)], np.array([[400, 300]] * 60), LAW.scale, LAW.ratio, 0.5)
    off = np.stack([off_by(image, tuple(box), 112, interpolation) for box in boxes.tolist()])
    assert (off > 1).mean() <= 1e-4
    assert off.mean() <= 0.05


def test_a_crop_at_its_own_size_is_the_picture_itself():
    pixels = np.array(photo(40, 30))
    assert np.array_equal(
        scale_crop(pixels, (3, 4, 23, 24), 20, "bicubic").numpy(), pixels[4:24, 3:23].transpose(2, 0, 1)
    )


# Batches

PICTURES = [
    *(make(photo(60 + 9 * n, 50 + 7 * n, seed=n)) for n, make in enumerate(KINDS.values())),
    rotated(photo(70, 40)),
    saved(photo(30, 30).convert("CMYK")),
    saved(photo(33, 44), format="PNG"),
    KINDS["progressive"](photo(300, 280)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    def items():
        for number, data in enumerate(PICTURES):
            seen = inspect(data)
            yield (f"{number}.jpg", number % 3, "", seen.width, seen.height, int(seen.plain)), data

    path = tmp_path_factory.mktemp("train")
    write_packed(path, TRAIN_COLUMNS, items())
    return path


def images(folder, size=32, interpolation="bilinear", law=LAW, seed=0, decoder="simplejpeg"):
    return TrainImages(folder, size, interpolation, law, seed, decoder)


def pixels(data_set, indices):
    return data_set.load(indices).numpy()


def test_images_are_uint8_squares_in_memory_that_may_be_given(folder):
    batch = images(folder).load([0, 14, 3])
    assert batch.shape == (3, 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    given = torch.zeros((3, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(images(folder).load([0, 14, 3], given), batch)
    assert torch.equal(given.permute(0, 3, 1, 2), batch)
    assert images(folder).labels.dtype == torch.int64
    assert images(folder).labels.tolist() == [number % 3 for number in range(len(PICTURES))]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("epoch", [0, 3])
def test_with_pil_a_batch_is_torchvisions_bit_for_bit(folder, interpolation, epoch):
    data_set, count = images(folder, 40, interpolation, seed=5, decoder="pil"), len(PICTURES)
    sizes, places = data_set.packed.numbers("width", "height"), [(epoch, row) for row in range(count)]
    boxes, flips = draw_crops(5, places, sizes, LAW.scale, LAW.ratio, LAW.horizontal_flip_p)
    batch = pixels(data_set, [epoch * count + row for row in range(count)])
    assert 0 < flips.sum() < count
    for row, (left, top, right, bottom) in enumerate(boxes.tolist()):
        theirs = functional.resized_crop(
            decode(PICTURES[row]), top, left, bottom - top, right - left, [40, 40], InterpolationMode(interpolation)
        )
        theirs = functional.hflip(theirs) if flips[row] else theirs
        assert np.array_equal(batch[row], np.asarray(theirs).transpose(2, 0, 1))


@pytest.mark.parametrize("interpolation", FILTERS)
def test_the_two_decoders_give_the_same_batch_but_for_a_level_here_and_there(folder, interpolation):
    for epoch in range(3):
        rows = [epoch * len(PICTURES) + row for row in range(len(PICTURES))]
        fast, slow = (pixels(images(folder, 48, interpolation, decoder=d), rows) for d in ("simplejpeg", "pil"))
        off = np.abs(fast.astype(int) - slow)
        assert off.max() <= (1 if interpolation == "bilinear" else 3)
        assert off.mean() <= 0.05


def test_only_upright_jpegs_take_the_fast_way(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "vitlora.train.dataset.decode_rows", lambda data, rows: asked.append(data) or decode_rows(data, rows)
    )
    pixels(images(folder), range(len(PICTURES)))
    assert asked == [*PICTURES[: len(KINDS)], PICTURES[-1]]


def test_a_file_beyond_the_fast_decoder_gives_the_same_pixels(folder, monkeypatch):
    expected = pixels(images(folder), range(len(PICTURES)))
    monkeypatch.setattr("vitlora.train.dataset.decode_rows", lambda data, rows: None)
    assert np.array_equal(pixels(images(folder), range(len(PICTURES))), expected)


def test_an_image_does_not_depend_on_its_batch(folder):
    data_set, count = images(folder), len(PICTURES)
    together = pixels(data_set, range(2 * count))
    for index in (0, 7, count - 1, count, 2 * count - 1):
        assert np.array_equal(pixels(images(folder), [index])[0], together[index])
    assert np.array_equal(pixels(data_set, range(2 * count - 1, -1, -1)), together[::-1])


def test_another_epoch_or_seed_gives_other_pixels(folder):
    count = len(PICTURES)
    first = pixels(images(folder), range(count))
    for other in (pixels(images(folder), range(count, 2 * count)), pixels(images(folder, seed=1), range(count))):
        assert sum(np.array_equal(*pair) for pair in zip(first, other, strict=True)) <= 2


def test_torch_has_as_many_threads_after_a_batch_as_before(folder, monkeypatch):
    before = torch.get_num_threads()
    seen = []
    monkeypatch.setattr(
        "vitlora.train.dataset.scale_crop", lambda *a: seen.append(torch.get_num_threads()) or scale_crop(*a)
    )
    try:
        torch.set_num_threads(3)
        pixels(images(folder), [0])
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_a_pickled_data_set_reads_on(folder):
    data_set = images(folder)
    expected = pixels(data_set, [1, 2])
    assert np.array_equal(pixels(pickle.loads(pickle.dumps(data_set)), [1, 2]), expected)
    assert len(pickle.dumps(images(folder))) < 100 * len(PICTURES) + 3000  # rows stay at home


# A picture that was sound once

BROKEN = [PICTURES[3][:60], b"", b"no picture", KINDS["progressive"](photo(64, 48))[:-900]]


@pytest.mark.parametrize("decoder", ["simplejpeg", "pil"])
@pytest.mark.parametrize("data", BROKEN, ids=["cut", "empty", "text", "end lost"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_cannot_be_decoded_any_more_is_named(tmp_path, workers, data, decoder):
    def write(second):
        row = (1, "", 64, 48, 0)
        items = [(("a.png", *row), saved(photo(64, 48), format="PNG")), (("b/c.jpg", *row), second)]
        write_packed(tmp_path / "train", TRAIN_COLUMNS, items)
        return TrainLoader(images(tmp_path / "train", decoder=decoder), 0, 2, 1, workers, pinned=False)

    loader = write(data)
    with pytest.raises(VitloraError, match=r"train: b/c\.jpg can't be decoded \(.+; make the folder anew: `dvc repro"):
        list(loader)
    loader.close()
    healed = write(PICTURES[0])
    assert len(list(healed)) == 1
    healed.close()
