"""Damage for files: bytes, protobuf messages, and what JSON and TOML hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Form = Literal["bytes", "text", "json", "json lines", "model", "tensor"]

NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 65535, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "x",
    "y",
    "w",
    "\0",
    "a" * 5000,
    "\N{RIGHT-TO-LEFT OVERRIDE}x",
    "[red]x[/]",
    "../x",
    "1e999",
    "-1",
)
ODD: tuple[Any, ...] = (
    *(None, True, False, [], {}, "", "nan", "../../x", "\0", "a" * 2000, [[]], {"a": None}, [1, "2"]),
    *(0, -1, 3, 2**31, 2**63, 10**40, 1e308, -0.5, float("inf"), float("-inf"), float("nan")),
)
WORDS = (b"1e999", b"-1", b"0", b"\0", b"\xff\xfe", b"[" * 3000, b"{" * 3000, b"NaN", b'"', b"\n", b"9" * 40)


def mutated(content: bytes, form: Form, rng: np.random.Generator) -> bytes:
    """Return ``content`` with one to four things wrong, the same for the same state of ``rng``."""
    structural: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
        "json": _json,
        "json lines": _json_lines,
        "model": lambda data, rng: _proto(onnx.ModelProto, data, rng),
        "tensor": lambda data, rng: _proto(onnx.TensorProto, data, rng),
    }
    if form in structural and rng.random() < 0.75:
        return structural[form](content, rng)
    for _ in range(int(rng.integers(1, 5))):
        content = _bytes(content, rng)
    return content


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 1 + min(64, len(data) + 1)))
    other = int(rng.integers(len(data) + 1))
    kind = rng.integers(8)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[:at] + data[other : other + length] + data[at:]
    if kind == 3:
        return data[:at] + WORDS[int(rng.integers(len(WORDS)))] + data[at:]
    if kind == 4:
        return data[:at] + rng.bytes(length) + data[at + length :]
    if kind == 5:
        word = int(rng.choice(np.array(NUMBERS))).to_bytes(8, "little", signed=True)
        return data[:at] + word[: int(rng.choice([1, 2, 4, 8]))] + data[at + 8 :]
    changed = bytearray(data)
    if changed:
        changed[at % len(changed)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    content = [json.loads(data)]
    for _ in range(int(rng.integers(1, 4))):
        _damage(content, rng)
    return json.dumps(content[0]).encode()


def _json_lines(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = _json(lines[at], rng)
    return b"\n".join(lines)


def _damage(content: Any, rng: np.random.Generator) -> None:
    """Change one place below ``content``, a list of one."""
    places = list(_places(content))
    holder, key = places[int(rng.integers(len(places)))]
    kind = rng.integers(4)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1:
        other, place = places[int(rng.integers(len(places)))]
        holder[key] = copy.deepcopy(other[place])
    else:
        holder[key] = copy.deepcopy(ODD[int(rng.integers(len(ODD)))])


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


def _proto(kind: type[Message], data: bytes, rng: np.random.Generator) -> bytes:
    message = kind()
    message.ParseFromString(data)
    for _ in range(int(rng.integers(1, 4))):
        messages = list(_messages(message))
        _damage_field(messages[int(rng.integers(len(messages)))], rng)
    return message.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, content in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in content if field.is_repeated else [content]:
                yield from _messages(inner)


def _damage_field(message: Message, rng: np.random.Generator) -> None:
    """Change one field, mostly one that is set."""
    given = [field for field, _ in message.ListFields()]
    fields = given if given and rng.random() < 0.85 else list(message.DESCRIPTOR.fields)
    field = fields[int(rng.integers(len(fields)))]
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.is_repeated:
        _damage_list(getattr(message, field.name), field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _other(getattr(message, field.name), field, rng))


def _damage_list(values: Any, field: FieldDescriptor, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(values))) if len(values) else None
    kind = rng.integers(3)
    if at is not None and kind == 0:
        del values[at]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if at is None:
            values.add()
        else:
            values.add().CopyFrom(values[at])
    elif at is not None and kind == 1:
        values[at] = _other(values[at], field, rng)
    else:
        values.append(_other(values[at] if at is not None else None, field, rng))


def _other(value: Any, field: FieldDescriptor, rng: np.random.Generator) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return _bytes(value or b"", rng)
        return TEXTS[int(rng.integers(len(TEXTS)))]
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return FLOATS[int(rng.integers(len(FLOATS)))]
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        numbers = sorted(one.number for one in field.enum_type.values)
        return numbers[int(rng.integers(len(numbers)))]
    low, high = (-(2**63), 2**63) if "INT64" in _cpp(field) else (-(2**31), 2**31)
    if _cpp(field).startswith("U"):
        low, high = 0, 2 * high
    chosen = NUMBERS[int(rng.integers(len(NUMBERS)))] if rng.random() < 0.6 else int(rng.integers(-4, 30))
    return min(max(chosen, low), high - 1)


def _cpp(field: FieldDescriptor) -> str:
    names = {
        FieldDescriptor.CPPTYPE_INT32: "INT32",
        FieldDescriptor.CPPTYPE_INT64: "INT64",
        FieldDescriptor.CPPTYPE_UINT32: "UINT32",
        FieldDescriptor.CPPTYPE_UINT64: "UINT64",
    }
    return names.get(field.cpp_type, "INT32")
