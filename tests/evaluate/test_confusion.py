"""The confusion picture: the same bytes every time, and true and readable for any number and kind of names."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from vitlora.evaluate.confusion import _figure, draw_confusion

LONG = ["a_class_name_that_is_much_longer_than_any_axis", "another_name_that_goes_on_and_on_and_on", "short"]
ODD = [
    "costs_$5_or_$6",
    r"back\slash\$",
    "{brace}_^2",
    "naïve café",
    "кошка",
    "γάτα",
    "猫",
    "🐈",
    "two\nlines",
    "caf\udce9",
]


def matrix(classes, each=40, seed=0):
    """Return counts, nine in ten on the diagonal."""
    random = np.random.default_rng(seed)
    shares = np.full((classes, classes), 0.1 / max(classes - 1, 1))
    np.fill_diagonal(shares, 0.9)
    return np.stack([random.multinomial(each, row) for row in shares])


def names(classes):
    """Return that many names, the long and the odd ones among them."""
    return [*ODD, *LONG, *(f"class_{label}" for label in range(classes))][:classes]


@pytest.mark.parametrize(
    ("classes", "least"),
    [
        (2, 300),
        (31, 1000),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((10, 500), (101, 1600), (150, 1600))),
    ],
)
def test_any_number_of_classes_is_drawn_without_a_warning(tmp_path, classes, least):
    path = tmp_path / "deep/er/confusion.png"
    draw_confusion(matrix(classes), names(classes), path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > least
        assert max(image.size) < 3000
        assert "Software" not in image.info


def test_the_same_counts_give_the_same_bytes_whatever_the_users_style(tmp_path):
    draw_confusion(matrix(10), names(10), tmp_path / "a.png")
    style = {"font.size": 20, "savefig.dpi": 50, "savefig.facecolor": "red", "axes.grid": True, "text.color": "blue"}
    with matplotlib.rc_context(style):
        draw_confusion(matrix(10), names(10), tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 20
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_counts_give_other_bytes(tmp_path):
    draw_confusion(matrix(3), names(3), tmp_path / "a.png")
    draw_confusion(matrix(3, seed=1), names(3), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def drawn(counts, class_names):
    with matplotlib.rc_context():
        return _figure(np.asarray(counts, np.int64), class_names).axes[0]


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_are_actual_columns_predicted_and_colours_are_shares_of_the_row():
    axes = drawn([[3, 1, 0], [0, 0, 10], [0, 0, 0]], ["cat", "dog", "absent"])
    assert np.allclose(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]])
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("actual", "predicted")
    assert labels(axes.xaxis) == labels(axes.yaxis) == ["cat", "dog", "absent"]
    assert axes.get_title() == "3 of 14 right"
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "3", (1, 0): "1", (2, 1): "10"}


def test_numbers_stand_out_from_their_cells():
    axes = drawn([[90, 10], [35, 65]], ["cat", "dog"])
    shown = {text.get_text(): text.get_color() for text in axes.texts}
    assert shown == {"90": "white", "10": "black", "35": "black", "65": "white"}


def test_numbers_stay_inside_their_cells():
    counts = np.full((30, 30), 1234)
    axes = drawn(counts, names(30))
    cell = axes.get_window_extent().width / 30
    assert axes.texts[0].get_text() == "1234"
    assert axes.texts[0].get_window_extent().width < cell


def test_a_hundred_classes_have_names_but_no_numbers():
    axes = drawn(matrix(101), [f"class_{label}" for label in range(101)])
    assert not axes.texts
    assert labels(axes.yaxis) == [f"class_{label}" for label in range(101)]


def test_the_names_of_a_hundred_classes_do_not_run_into_each_other():
    axes = drawn(matrix(101), [f"baby_back_ribs_{label}" for label in range(101)])
    cell = axes.get_window_extent().width / 101
    assert axes.get_yticklabels()[0].get_window_extent().height < cell
    assert axes.get_xticklabels()[0].get_window_extent().width < cell


def test_of_very_many_classes_every_few_are_named_rightly():
    axes = drawn(matrix(150), [f"class_{label}" for label in range(150)])
    assert 30 < len(labels(axes.yaxis)) <= 75
    positions = axes.get_yticks()
    assert labels(axes.yaxis) == [f"class_{position}" for position in positions]


def test_odd_names_stand_as_they_are_and_those_the_font_lacks_as_numbers():
    axes = drawn(matrix(len(ODD)), ODD)
    expected = [*ODD[:6], "class 6", "class 7", "class 8", "class 9"]
    assert labels(axes.yaxis) == expected
    assert not any(label.get_parse_math() for label in (*axes.get_xticklabels(), *axes.get_yticklabels()))


def test_a_long_name_is_cut():
    axes = drawn(matrix(3), LONG)
    assert labels(axes.xaxis) == ["a_class_name_that_is_mu…", "another_name_that_goes_…", "short"]


def test_short_names_stand_upright_and_longer_ones_on_their_side():
    for given, degrees in ((["0", "1"], 0), (["cat", "dog"], 0), (["apple_pie", "hot_dog"], 90)):
        assert {label.get_rotation() for label in drawn(matrix(2), given).get_xticklabels()} == {degrees}
