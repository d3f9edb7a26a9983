"""Geometry: what is confused stands together, marks are round, nothing is drawn out of nothing."""

import numpy as np
import pytest

from vitlora.report.charts import DRAWN, cells, curves, draw, order_classes, reliability, ticks


def confused(classes, pairs):
    counts = np.diag(np.full(classes, 40))
    for a, b in pairs:
        counts[a, b] += 12
        counts[b, a] += 9
    return counts


@pytest.mark.parametrize("classes", [6, 40, 101])
def test_classes_that_are_taken_for_each_other_stand_together(classes):
    random = np.random.default_rng(classes)
    shuffled = random.permutation(classes).tolist()
    pairs = list(zip(shuffled[0::2], shuffled[1::2], strict=False))
    order = order_classes(confused(classes, pairs))
    assert sorted(order) == list(range(classes))
    assert all(abs(order.index(a) - order.index(b)) == 1 for a, b in pairs)


def test_of_a_thousand_classes_those_with_the_most_mistakes_are_drawn():
    pairs = [(number, 999 - number) for number in range(40)]
    counts = confused(1000, pairs)
    order = order_classes(counts)
    assert len(order) == DRAWN
    assert {label for pair in pairs for label in pair} < set(order)
    assert all(abs(order.index(a) - order.index(b)) == 1 for a, b in pairs)
    counts[0, 500:] += 1  # classes that are not drawn
    found = cells(counts, [0, 999])
    assert found[0].share == 40 / counts[0].sum()


@pytest.mark.parametrize("counts", [np.diag([3, 4, 5]), np.array([[3, 1], [1, 3]]), np.zeros((4, 4), int)])
def test_without_confusion_or_with_two_classes_the_order_stays(counts):
    assert order_classes(counts) == list(range(len(counts)))


def test_cells_are_the_counts_that_are_not_nought_in_the_new_order():
    counts = np.array([[5, 0, 1], [0, 4, 0], [2, 0, 6]])
    found = cells(counts, [1, 0, 2])
    assert [(each.row, each.column, each.pictures, each.right) for each in found] == [
        (0, 0, 4, True),
        (1, 1, 5, True),
        (1, 2, 1, False),
        (2, 1, 2, False),
        (2, 2, 6, True),
    ]
    assert found[3].share == 2 / 8


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 3, [1, 1.5, 2, 2.5, 3]),
        (0.92, 0.972, [0.92, 0.94, 0.96, 0.98]),
        (0.1157, 1.369, [0, 0.5, 1, 1.5]),
        (-3, 12, [-5, 0, 5, 10, 15]),
        (7, 7, [7]),
    ],
)
def test_marks_are_round_and_span_the_values(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_curve_spans_the_square_and_marks_whole_epochs_only():
    chart = draw({"val": [(1, 0.5), (2, 1.0), (3, 0.0)]})
    assert chart.lines[0].points == "0.0,50.0 50.0,0.0 100.0,100.0"
    assert [mark for _, mark in chart.x_marks] == ["1", "2", "3"]


def test_empty_cells_are_no_points_and_empty_columns_no_curves():
    rows = [{"epoch": "1", "a": "2", "b": ""}, {"epoch": "2", "a": "", "b": ""}, {"epoch": "3", "a": "1", "b": ""}]
    chart = curves(rows, "epoch", {"a": "A", "b": "B", "absent": "C"})
    assert [line.name for line in chart.lines] == ["A"]
    assert chart.lines[0].points.count(" ") == 1
    assert curves(rows, "epoch", {"b": "B"}) is None
    assert curves([], "epoch", {"a": "A"}) is None
    assert reliability([]) == {}


def test_one_point_is_drawn_in_the_middle():
    chart = draw({"loss": [(1, 0.7)]})
    assert chart.lines[0].points == "50.0,50.0"


def test_a_single_value_is_marked_in_few_digits():
    chart = curves([{"epoch": "1", "val_accuracy": "0.045879"}], "epoch", {"val_accuracy": "val"})
    assert [mark for _, mark in chart.y_marks] == ["0.0459"]
