"""Weights that an ONNX file keeps elsewhere are found without onnx, wherever onnx can put a tensor."""

import onnx
import pytest
from foreign import classifier
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from vitlora.export.outside import FIELDS, outside_weights


def leads_to_a_tensor(descriptor, seen=()):
    return descriptor.name == "TensorProto" or any(
        leads_to_a_tensor(field.message_type, (*seen, descriptor.name))
        for field in descriptor.fields
        if field.message_type is not None and field.message_type.name not in (*seen, descriptor.name)
    )


def test_the_table_has_every_field_of_onnx_that_leads_to_a_tensor():
    expected, todo = {}, [onnx.ModelProto.DESCRIPTOR]
    while todo:
        descriptor = todo.pop()
        if descriptor.name in expected or descriptor.name == "TensorProto":
            continue
        fields = [each for each in descriptor.fields if each.message_type and leads_to_a_tensor(each.message_type)]
        expected[descriptor.name] = {each.number: each.message_type.name for each in fields}
        todo += [each.message_type for each in fields]
    assert expected == FIELDS


def outside(name, place):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    if place:
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=place)
    return tensor


@pytest.mark.parametrize(
    ("name", "place"), [("w", "weights.bin"), ("", "../x"), ("é", "/etc/passwd"), ("far away", ""), ("a\nb", "c\x1b")]
)
@pytest.mark.parametrize("depth", [0, 1, 5, 25])
def test_a_tensor_is_named_with_its_place_however_deep_it_lies(tmp_path, name, place, depth):
    graph = helper.make_graph([], "g", [], [], [outside(name, place)])
    for _ in range(depth):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph)
        graph = helper.make_graph([node], "g", [], [])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert list(outside_weights(tmp_path / "model.onnx")) == [(name, place)]


WHOLE = classifier().SerializeToString()


def test_a_model_with_all_inside_has_none(tmp_path):
    (tmp_path / "model.onnx").write_bytes(WHOLE)
    assert list(outside_weights(tmp_path / "model.onnx")) == []


@given(end=st.integers(0, len(WHOLE) - 1), noise=st.binary(max_size=12))
def test_a_cut_or_garbled_file_is_refused_or_read_but_breaks_nothing(tmp_path_factory, end, noise):
    path = tmp_path_factory.getbasetemp() / "cut.onnx"
    path.write_bytes(WHOLE[:end] + noise)
    try:
        found = list(outside_weights(path))
    except ValueError:
        return
    assert all(isinstance(part, str) for pair in found for part in pair)


@pytest.mark.parametrize("data", [b"", b"\x0b", b"\x38\x01", b"\x3a\x05a", b"\xff" * 11, b"\x02\x00"], ids=repr)
def test_what_is_no_message_is_refused(tmp_path, data):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"empty|wire type|beyond the end|no end|a number where"):
        list(outside_weights(tmp_path / "model.onnx"))
