"""What counts as a fault of a form, and that a drop is judged with its interval."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import softmax

from vitlora.export.checks import faults, measured, paired_drop, reference, undecided
from vitlora.export.params import Export

NAMES = np.array(["cat", "dog"])


def rules(**changes):
    known = {"formats": ["onnx"], "batch_size": 8, "onnx_opset": 20, "max_logit_diff": 1e-3, "max_accuracy_drop": 0.02}
    return Export(**{**known, "max_check_images": None, **changes})


def known(images=100, right=90, kind="fp32"):
    """Return logits and what is known of them: all say cat, so many are one."""
    logits = np.tile(np.array([[2.0, -1.0]], np.float32), (images, 1))
    confidence = softmax(logits, axis=1)[:, 0]
    rows = [
        {"actual": "cat" if each < right else "dog", "predicted": "cat", "confidence": f"{confidence[each]:.4f}"}
        for each in range(images)
    ]
    return logits, reference(logits, rows, kind, 1e-3)


def flipped(logits, rows):
    other = logits.copy()
    other[rows] = other[rows, ::-1]
    return other


def test_the_same_logits_have_no_fault_and_full_agreement():
    logits, told = known()
    assert faults("onnx", logits, NAMES, told, rules()) == []
    row = measured(logits, NAMES, told)
    assert (row["accuracy"], row["agreement"], row["largest_logit_difference"]) == (0.9, 1.0, 0.0)
    assert row["accuracy_interval"] == pytest.approx([0.825635, 0.944771], abs=1e-4)  # Wilson's, by hand


@pytest.mark.parametrize("form", ["onnx", "plain", "transformers", "openvino", "executorch", "adapter"])
def test_a_form_of_full_precision_may_not_name_another_class_differ_in_a_logit_or_in_a_confidence(form):
    logits, told = known()
    assert "another class than evaluate on 1 of 100" in faults(form, flipped(logits, [3]), NAMES, told, rules())[0]
    moved = logits.copy()
    moved[7] += [0.0, 0.002]
    assert [line.split(" in a ")[1][:5] for line in faults(form, moved, NAMES, told, rules())] == ["logit"]
    warmer = faults(form, logits / 2, NAMES, told, rules(max_logit_diff=9))
    assert warmer
    assert warmer[0].startswith(f"a confidence of {form} is ")


@pytest.mark.parametrize("form", ["onnx-int8", "plain-int8", "onnx-fp16"])
def test_a_narrow_form_may_differ_until_its_accuracy_fell_beyond_chance(form):
    logits, told = known()
    assert faults(form, logits + np.float32(0.3), NAMES, told, rules()) == []
    assert faults(form, flipped(logits, range(3)), NAMES, told, rules()) == []
    (said,) = faults(form, flipped(logits, range(9)), NAMES, told, rules())
    assert said.startswith(f"{form} has 9.0 points of accuracy less than evaluate on 100 images, at least 2.9 with")
    assert faults(form, flipped(logits, range(9)), NAMES, told, rules(max_accuracy_drop=0.03)) == []


def test_more_lost_than_allowed_on_too_few_images_is_said():
    logits, told = known()
    assert undecided("onnx-int8", flipped(logits, range(2)), NAMES, told, 0.02) == ""
    said = undecided("onnx-int8", flipped(logits, range(3)), NAMES, told, 0.02)
    assert "3 of 100 images wrong that evaluate has right, and 0 the other way round: 3.0 points less" in said
    assert undecided("onnx-int8", flipped(logits, range(9)), NAMES, told, 0.02) == "", "that is a fault"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["onnx", "onnx-fp16"])
def test_logits_that_are_no_numbers_are_a_fault_of_any_form(form, bad):
    logits, told = known()
    logits[5, 0] = bad
    assert faults(form, logits, NAMES, told, rules()) == [
        f"{form} gives logits that are no numbers; leave it out of export.formats"
    ]


@pytest.mark.parametrize(("kind", "tied"), [("fp32", False), ("fp16", True)])
def test_near_ties_may_go_either_way_and_wider_where_evaluate_computed_in_half_precision(kind, tied):
    logits, _ = known()
    logits[3] = [1.0, 0.99]
    shares = softmax(logits, axis=1)[:, 0]
    rows = [{"actual": "cat", "predicted": "cat", "confidence": f"{each:.4f}"} for each in shares]
    told = reference(logits, rows, kind, 1e-3)
    assert told.tied[3] == tied
    lines = faults("onnx", flipped(logits, [3]), NAMES, told, rules(max_logit_diff=0.02))
    assert any("another class" in line for line in lines) != tied


def test_the_interval_of_a_paired_drop_holds_the_truth_as_often_as_promised():
    rng = np.random.default_rng(0)
    for only_a, only_b in ((0.05, 0.01), (0.02, 0.02), (0.1, 0.04)):
        draws = rng.multinomial(200, [only_a, only_b, 1 - only_a - only_b], 1500)[:, :2].tolist()
        low = {pair: paired_drop(*pair, 200)[1] for pair in set(map(tuple, draws))}
        held = np.mean([low[tuple(pair)] <= only_a - only_b for pair in draws])
        assert held >= 0.96, "what fails a stage is above the true drop in few of 100 tries"
    assert paired_drop(0, 0, 50) == (0.0, 0.0, 0.0)
    assert paired_drop(0, 4, 100)[0] == -0.04


@pytest.mark.parametrize(("formats", "said"), [([], "1"), (["transformers"], "onnx is"), (["onnx"] * 2, "each once")])
def test_formats_are_a_set_with_onnx(formats, said):
    with pytest.raises(ValidationError, match=said):
        rules(formats=formats)
