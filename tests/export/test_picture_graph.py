"""The picture form of a graph sees what Pillow makes of a picture, and adds softmax to the network."""

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign import classifier
from onnx import helper, numpy_helper, version_converter
from PIL import Image

from vitlora.evaluate.scores import softmax
from vitlora.export.picture_graph import with_pictures
from vitlora.images.pixels import resize_and_crop

MEAN, STD = [0.0] * 3, [1 / 255] * 3  # so that pixel values are levels
# Wide, tall (where Pillow makes the vertical pass first), upscaled, square, one px off, spare of 1 to 7 px.
SIZES = [(90, 60), (41, 130), (31, 200), (46, 275), (12, 17), (7, 30), (64, 64), (33, 32), (224, 225)]
SIZES += [(32, 32 + spare) for spare in range(1, 8)]


def squares(size, interpolation):
    """Return what gives the levels that reach the network."""
    graph = classifier()
    for value in graph.graph.input:
        for side in value.type.tensor_type.shape.dim[2:]:
            side.dim_value = size
    whole = with_pictures(graph, size, interpolation, MEAN, STD)
    whole.graph.output.append(helper.make_tensor_value_info("pixel_values", 1, None))
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["pixel_values"], {"pictures": pictures})[0]


def smooth(rng, width, height):
    """Return a picture whose levels change as a photograph's do."""
    rough = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    levels = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(levels + rng.integers(-3, 4, levels.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 32, 42])
def test_squares_are_pillows_but_for_a_level_and_that_in_one_value_of_two_hundred(size, interpolation):
    rng, seen = np.random.default_rng(size), squares(size, interpolation)
    off = []
    for shape in SIZES:
        picture = smooth(rng, *shape)
        (got,) = seen(picture[None])
        expected = resize_and_crop(Image.fromarray(picture), size, interpolation)
        assert got == pytest.approx(got.round(), abs=1e-3)
        apart = np.abs(got.round() - expected)
        assert apart.max() <= 1, shape
        if min(shape) > size:  # of a picture that is made larger, many values lie half-way between two levels
            off.append((apart > 0).mean())
    assert np.mean(off) <= 0.005


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_noise_differs_by_two_levels_at_most_also_where_it_is_tall(interpolation):
    rng, seen = np.random.default_rng(0), squares(32, interpolation)
    for shape in SIZES:
        picture = rng.integers(0, 256, (*shape[::-1], 3), np.uint8)
        expected = resize_and_crop(Image.fromarray(picture), 32, interpolation)
        assert np.abs(seen(picture[None])[0] - expected).max() <= 2.001, shape


def test_squares_of_the_models_own_size_pass_through_unchanged_in_any_number():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 42, 42, 3), np.uint8)
    assert np.array_equal(squares(42, "bilinear")(pictures).round(), pictures.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_logits_are_the_networks_and_probabilities_their_softmax(opset):
    graph = version_converter.convert_version(classifier(), opset) if opset != 20 else classifier()
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "w"))
    whole = with_pictures(graph, 8, "bilinear", [0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    onnx.checker.check_model(whole, full_check=True)
    assert [value.name for value in whole.graph.output] == ["probabilities", "logits"]
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    pictures = np.full((2, 20, 30, 3), [255, 0, 51], np.uint8)
    shares, logits = session.run(None, {"pictures": pictures})
    assert logits == pytest.approx(np.tile([1.0, -1.0], (2, 1)))
    assert shares == pytest.approx(softmax(logits))
