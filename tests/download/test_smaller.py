"""Large pictures are scaled down as a person sees them; what is small, damaged or worth a look keeps its bytes."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from vitlora.download.found import Picture
from vitlora.download.smaller import scale_down, scaling
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, inspect


def photo(width, height, kind="JPEG", turn=None, mode="RGB", **more):
    """A smooth picture with some detail."""
    y, x = np.mgrid[:height, :width]
    levels = 128 + 60 * np.sin(x / 17) + 60 * np.cos(y / 11 + x / 40)
    image = Image.fromarray(np.stack([levels, levels[::-1], 255 - levels], 2).astype(np.uint8)).convert(mode)
    exif = image.getexif()
    if turn:
        exif[ExifTags.Base.Orientation] = turn
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **more)
    return file.getvalue()


LARGE = {
    "wide": photo(300, 200, quality=97),
    "on its side": photo(300, 200, turn=6, quality=97),
    "mirrored": photo(200, 300, turn=5, quality=97),
    "grey": photo(300, 200, mode="L", quality=97),
    "CMYK": photo(300, 200, mode="CMYK", quality=97),
    "png with alpha": photo(300, 200, "PNG", mode="RGBA"),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_picture_becomes_what_its_upright_pixels_are_at_that_size(name):
    data = LARGE[name]
    small, upright = scale_down(64, data), decode(data)
    assert small is not None
    assert len(small) < len(data)
    found = inspect(small)
    assert (found.plain, found.kind) == (True, "JPEG")
    assert min(found.width, found.height) == 64
    assert (found.width > found.height) == (upright.width > upright.height)
    wanted = upright.resize((found.width, found.height), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(decode(small), int) - np.asarray(wanted, int)).mean() < 4


def deep():
    """A picture of 16 bits that uses few of them."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 900, (300, 300)).astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


KEPT = {
    "as large": photo(64, 90),
    "a smaller file": photo(100, 100, quality=5),
    "of 16 bits with a note": deep(),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_picture_keeps_its_bytes(name):
    assert scale_down(64, KEPT[name]) is None


DAMAGED = {
    "cut": LARGE["wide"][:-2000],
    "a hole": LARGE["wide"][:6000] + bytes(300) + LARGE["wide"][6300:],
    "text": b"no picture",
    "nothing": b"",
}


def test_damaged_pictures_go_on_as_they_are_and_all_stay_in_order(monkeypatch):
    given = [*LARGE.values(), *KEPT.values(), *DAMAGED.values()] * 3
    for data in DAMAGED.values():
        with pytest.raises(BadImageError):
            inspect(data)
    pictures = [Picture(f"{n}.jpg", "train", n % 2, data) for n, data in enumerate(given)]
    found = []
    for cores in (1, 2):
        monkeypatch.setattr("vitlora.download.smaller.cores", lambda cores=cores: cores)
        with scaling(64) as scale:
            found.append(list(scale(iter(pictures))))
    assert found[0] == found[1]
    assert [picture.path for picture in found[0]] == [picture.path for picture in pictures]
    kept = [now.data for now, before in zip(found[0], given, strict=True) if now.data == before]
    assert kept == [*KEPT.values(), *DAMAGED.values()] * 3
    with scaling(None) as scale:
        assert list(scale(iter(pictures))) == pictures
