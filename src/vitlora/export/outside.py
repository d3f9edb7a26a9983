"""Find weights that an ONNX file keeps in other files, by reading the file's structure only: onnx need not be here."""

import mmap
from collections.abc import Iterator
from pathlib import Path

# Of each kind of message, the fields that lead to a tensor, by number; a test compares it with onnx's own.
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
NAME, EXTERNAL_DATA, DATA_LOCATION = 8, 13, 14  # fields of a TensorProto
KEY, VALUE = 1, 2  # fields of an entry of external_data
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # protobuf's wire types; groups (3, 4) are in no ONNX file
LONGEST = 10  # bytes of a number
Field = tuple[int, memoryview | int]


def outside_weights(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each tensor that lies in another file: its name, and the place of the file ("" where it isn't named).

    Tensors inside subgraphs, functions and sparse tensors are found too. The weights themselves are not read.

    Raises:
        OSError: The file can't be read.
        ValueError: It is no protobuf message.

    Source:
        protobuf's encoding, protobuf.dev/programming-guides/encoding.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        # Not closed by hand, which Python refuses while an error's traceback still holds a view of it.
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    yield from _outside(whole)


def _outside(whole: memoryview) -> Iterator[tuple[str, str]]:
    todo = [("ModelProto", whole)]
    while todo:
        kind, message = todo.pop()
        if kind == "TensorProto":
            yield from _places(message)
            continue
        for number, value in _fields(message):
            if number in FIELDS[kind]:
                todo.append((FIELDS[kind][number], _inner(value)))


def _places(tensor: memoryview) -> Iterator[tuple[str, str]]:
    name, place, is_outside = "", "", False
    for number, value in _fields(tensor):
        if number == NAME:
            name = _text(value)
        elif number == EXTERNAL_DATA:
            is_outside = True
            entry = {key: _text(each) for key, each in _fields(_inner(value)) if key in (KEY, VALUE)}
            place = entry.get(VALUE, "") if entry.get(KEY) == "location" else place
        elif number == DATA_LOCATION:
            is_outside = is_outside or value != 0
    if is_outside:
        yield name, place


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield number and value of each field: bytes as a view, numbers as int (those of fixed width as 0)."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _number(message, at)
            yield number, value
            continue
        if wire not in (FIXED64, BYTES, FIXED32) or not number:
            raise ValueError(f"field {number} has wire type {wire}")
        size, at = _number(message, at) if wire == BYTES else (8 if wire == FIXED64 else 4, at)
        if at + size > len(message):
            raise ValueError(f"field {number} goes beyond the end")
        yield number, message[at : at + size] if wire == BYTES else 0
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, 7 bits a byte, lowest first, and the place behind it."""
    value = 0
    for count, byte in enumerate(message[at : at + LONGEST]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    raise ValueError("a number has no end")


def _inner(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")
    return value


def _text(value: memoryview | int) -> str:
    return bytes(_inner(value)).decode("utf-8", "backslashreplace")
