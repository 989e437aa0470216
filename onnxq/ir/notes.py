"""Comment lines of a module's text: ``# encode x: scale=0.5 zero_point=0 dtype=uint8``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.ir.knowledge import NamedDecision
from onnxq.quant.encodings import read_encoding
from onnxq.quant.facts import Facts, facts_of
from onnxq.quant.statistics import STATISTICS

Fields = dict[str, Any]
"""The fields of one line: texts, numbers, lists, and dictionaries of numbers."""


@dataclass(frozen=True)
class WeightNote:
    """What the text says of a weight that the graph shows otherwise.

    Args:
        dtype: Its type.
        low: Its smallest finite value, if it is elided.
        high: Its largest.
        sha256: The start of its digest, hexadecimal; None if the graph shows its numbers.
        proto: The message that holds its numbers, where the graph has no form for them.

    """

    dtype: ir.DataType
    low: float = 0.0
    high: float = 0.0
    sha256: str | None = None
    proto: bytes | None = None


_STRING = r'"(?:[^"\\]|\\.)*"'
_NAME = rf"(?:{_STRING}|[^\s\":+,(){{}}<>=\[\]]+)"
_NOTE = re.compile(rf"#\s*(encode|fact|function|metadata|node|weight)\s+({_NAME}):(.*)")
_FIELD = re.compile(rf"\s*(\w+)=(\[[^=]*\]|\{{[^=]*\}}|{_NAME}(?:\+{_NAME})*)")
_PLAIN = re.compile(r"[A-Za-z_]\w*")
_NUMBER = re.compile(r"[-+]?(\d|nan$|inf$)")


def quoted(name: str) -> str:
    """Return a value's or node's name as the text writes it: in quotes if it is not a plain word."""
    return name if _PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def note_line(kind: str, name: str, fields: Mapping[str, Any]) -> str:
    """Return one comment line; fields that are None are left out."""
    shown = [f"{key}={_field_text(value)}" for key, value in fields.items() if value is not None]
    return " ".join([f"# {kind} {quoted(name)}:", *shown])


def notes_in(lines: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield kind, name and content of each such line; other comments are passed over.

    The content is a NamedDecision for ``encode``, Facts for ``fact``, a WeightNote for ``weight``, bytes for
    ``function`` and ``node``, and text for ``metadata``.

    Raises:
        ModelError: A line does not parse.

    """
    readers: dict[str, Callable[[str, Fields], object]] = {
        "encode": read_decision,
        "fact": lambda _, fields: read_facts(fields),
        "function": lambda _, fields: bytes.fromhex(fields["proto"]),
        "metadata": lambda _, fields: fields["text"],
        "node": lambda _, fields: bytes.fromhex(fields["proto"]),
        "weight": lambda _, fields: read_weight(fields),
    }
    for number, line in enumerate(lines, start=1):
        found = _NOTE.fullmatch(line.strip())
        if found is None:
            continue
        try:
            name, fields = _plain(found[2]), _fields(found[3])
            yield found[1], name, readers[found[1]](name, fields)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise ModelError(f"{reason}, in: {line.strip()}", where=f"line {number}") from error


def decision_fields(decision: NamedDecision) -> Fields:
    """Return a decision as fields."""
    encoding, readers = decision.encoding, decision.readers
    return {**encoding.to_fields(), "readers": None if readers is None else tuple(sorted(readers))}


def read_decision(value: str, fields: Fields) -> NamedDecision:
    """Return the decision that ``decision_fields`` wrote."""
    readers = fields.get("readers")
    return NamedDecision(value, read_encoding(fields), None if readers is None else frozenset(readers))


def read_weight(fields: Fields) -> WeightNote:
    """Return what a ``# weight`` line says."""
    dtype = str(fields["dtype"]).upper()
    if dtype not in ir.DataType.__members__:
        raise ValueError(f"unknown dtype {dtype.lower()!r}")
    sha256 = fields.get("sha256")
    if sha256 is not None and not re.fullmatch("[0-9a-f]+", sha256):
        raise ValueError(f"{sha256!r} is not a hexadecimal digest")
    low, high = float(fields.get("low", 0)), float(fields.get("high", 0))
    proto = bytes.fromhex(fields["proto"]) if "proto" in fields else None
    return WeightNote(ir.DataType[dtype], low, high, sha256, proto)


def facts_fields(facts: Facts, elide_above: int | None) -> Iterator[Fields]:
    """Yield facts as the fields of a line for each channel axis, or of one line.

    Parts with more than ``elide_above`` entries are left out.
    """
    most = float("inf") if elide_above is None else elide_above
    axes: list[int | None] = [*facts.axes] or [None]
    for axis in axes:
        fields: Fields = {"count": facts.count}
        for kind in STATISTICS.values():
            if kind.by_channel:
                fields.setdefault("axis", axis)
            part = None if kind.by_channel and axis is None else facts.get(kind, axis or -1)
            if part is not None and part.bulk <= most:
                fields |= part.to_fields()
        yield fields


def read_facts(fields: Fields) -> Facts:
    """Return the facts that one line of ``facts_fields`` tells."""
    axis = fields.get("axis", -1)
    if axis >= 0:
        raise ValueError(f"channel axes count from the end, as -1 does; this is {axis}")
    parts = [part for kind in STATISTICS.values() if (part := kind.from_fields(fields)) is not None]
    return facts_of(fields.get("count", 1), *parts, axis=axis)


def _field_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(map(quoted, value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {number}" for key, number in value.items()) + "}"
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        return "[" + ", ".join(map(_field_text, value)) + "]"
    return str(value)


def _fields(text: str) -> Fields:
    fields: Fields = {}
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _FIELD.match(text, at)
        if found is None:
            raise ValueError(f"expected field=value, found {text[at:].strip()!r}")
        fields[found[1]] = _value(found[1], found[2])
        at = found.end()
    return fields


def _value(key: str, text: str) -> Any:
    if key == "readers":
        return tuple(_plain(name) for name in re.findall(_NAME, text))
    if text.startswith("["):
        return json.loads(text.replace("nan", "NaN").replace("inf", "Infinity"))
    if text.startswith("{"):
        return {int(index): int(count) for index, count in re.findall(r"(\d+): *(\d+)", text)}
    if key == "text":
        return _plain(text)
    if key in ("proto", "sha256") or not _NUMBER.match(text):
        return text
    return float(text) if re.search(r"[.einf]", text) else int(text)


def _plain(name: str) -> str:
    return str(json.loads(name)) if name.startswith('"') else name
