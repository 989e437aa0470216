"""The calibration table: facts on disk, tied to the model and the data that they were measured on."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import CalibrationError
from onnxq.files import write_whole
from onnxq.quant.facts import ChannelFacts, Facts, Stat
from onnxq.quant.histogram import BIN_COUNT, Histogram
from onnxq.reading import parse_json

SCHEMA = 2
"""The version of the table's layout; a table of another one is refused."""

LEFT_OUT = frozenset({Stat.GRAM})
"""Statistics that no table holds: they are large."""

_AGAIN = "collect it again: onnxq calibrate MODEL --data DATA -o TABLE"


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """Facts by value, and where they come from.

    The text form has sorted keys and holds arrays as base64 of their little-endian bytes, so that equal
    tables have equal bytes.

    Args:
        model: Digest of the model that ran.
        data: Digest of the samples.
        samples: How many samples there were.
        facts: Value name to facts.
        onnxq: The version that measured.

    Raises:
        ValueError: There is no sample, or a digest is empty.

    """

    model: str
    data: str
    samples: int
    facts: Mapping[str, Facts]
    onnxq: str = field(default_factory=lambda: version("onnxq"))

    def __post_init__(self) -> None:
        """Check the header."""
        texts = all(isinstance(text, str) for text in (self.model, self.data, self.onnxq))
        if (
            not texts
            or not isinstance(self.samples, int)
            or self.samples < 1
            or not self.model
            or not self.data
        ):
            raise ValueError("a calibration table needs samples and the digests of model and data")

    def check(self, model: str, where: str = "the calibration table") -> None:
        """Refuse to be used for the model with another digest.

        Raises:
            CalibrationError: ``model`` is not the digest of the model that was calibrated.

        """
        if model != self.model:
            raise CalibrationError("it was collected on another model", where=where, hint=_AGAIN)

    def only(self, names: Container[str]) -> CalibrationTable:
        """Return the table with the facts of these values alone."""
        return replace(self, facts={name: facts for name, facts in self.facts.items() if name in names})

    def without_rows(self) -> CalibrationTable:
        """Return the table without sampled rows: they are large, and pieces of the data itself."""
        return replace(self, facts={name: _without_rows(facts) for name, facts in self.facts.items()})

    def to_json(self) -> str:
        """Return the text form; equal tables give equal text."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "onnxq": self.onnxq,
                "model": self.model,
                "data": self.data,
                "samples": self.samples,
                "facts": {name: _facts_out(facts) for name, facts in self.facts.items()},
            },
            indent=1,
            sort_keys=True,
            allow_nan=False,
        )

    @staticmethod
    def from_json(text: str, where: str = "the calibration table") -> CalibrationTable:
        """Read the text form.

        Raises:
            CalibrationError: It is truncated, is no table, or has another schema version.

        """
        try:
            content = parse_json(text)
            schema = content["schema"]
            if schema == SCHEMA:
                facts = {name: _facts_in(entry) for name, entry in content["facts"].items()}
                header = {key: content[key] for key in ("model", "data", "samples", "onnxq")}
                return CalibrationTable(facts=facts, **header)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise CalibrationError(
                "it is not a calibration table, or is damaged", where=where, hint=_AGAIN
            ) from error
        raise CalibrationError(
            f"its schema version is {schema!r}, this onnxq reads {SCHEMA}", where=where, hint=_AGAIN
        )

    def save(self, path: Path) -> None:
        """Write the text form whole or not at all.

        Raises:
            InputError: The file cannot be written.

        """
        write_whole(path, self.to_json() + "\n")

    @staticmethod
    def load(path: Path) -> CalibrationTable:
        """Read a file that ``save`` wrote.

        Raises:
            CalibrationError: The file cannot be read, or holds no table.

        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CalibrationError(f"cannot be read: {reason}", where=str(path), hint=_AGAIN) from error
        return CalibrationTable.from_json(text, str(path))


def _facts_out(facts: Facts) -> dict[str, Any]:
    """Return plain values; parts that were not measured are left out."""
    parts = {
        "count": facts.count,
        "low": _number_out(facts.low),
        "high": _number_out(facts.high),
        "average": _if(_pair_out, facts.average),
        "histogram": _if(_histogram_out, facts.histogram),
        "channels": {str(axis): _along_out(along) for axis, along in facts.channels.items()} or None,
    }
    return {key: part for key, part in parts.items() if part is not None}


def _facts_in(entry: Mapping[str, Any]) -> Facts:
    facts = Facts(
        count=int(entry["count"]),
        low=float(entry["low"]),
        high=float(entry["high"]),
        average=_if(_pair, entry.get("average")),
        histogram=_if(_histogram_in, entry.get("histogram")),
        channels={int(axis): _along_in(along) for axis, along in entry.get("channels", {}).items()},
    )
    numbers = (facts.low, facts.high, *(facts.average or ()))
    if facts.count < 0 or any(map(math.isnan, numbers)) or any(axis >= 0 for axis in facts.channels):
        raise ValueError("no facts look like this")
    return facts


CHANNEL_PARTS = ("low", "high", "mean", "rows")
"""What a table holds along a channel axis."""


def _along_out(along: ChannelFacts) -> dict[str, Any]:
    parts = {name: _if(_array_out, getattr(along, name)) for name in CHANNEL_PARTS}
    return {key: part for key, part in parts.items() if part is not None}


def _along_in(entry: Mapping[str, Any]) -> ChannelFacts:
    parts = {name: _if(_array_in, entry.get(name)) for name in CHANNEL_PARTS}
    arrays = {name: array for name, array in parts.items() if array is not None}
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != 1 + (name == "rows") or np.isnan(array).any():
            raise ValueError(f"{name} of channels is {array.dtype}{list(array.shape)}")
    if len({array.shape[-1] for array in arrays.values()}) > 1:
        raise ValueError("parts of channels have different lengths")
    return ChannelFacts(**parts)


def _without_rows(facts: Facts) -> Facts:
    channels = {axis: replace(along, rows=None) for axis, along in facts.channels.items()}
    return replace(facts, channels=channels)


def _if(convert: Callable[[Any], Any], part: Any) -> Any:
    return None if part is None else convert(part)


def _number_out(number: float) -> float | str:
    """Return what JSON can hold, and ``float`` reads back: it has no infinity."""
    return number if math.isfinite(number) else str(number)


def _pair_out(values: tuple[float, float]) -> list[float | str]:
    return [_number_out(number) for number in values]


def _pair(values: list[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _array_out(array: NDArray[Any]) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def _array_in(entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(entry["dtype"])
    flat = np.frombuffer(base64.b64decode(entry["data"], validate=True), dtype.newbyteorder("<"))
    return flat.astype(dtype).reshape(entry["shape"])


def _histogram_out(histogram: Histogram) -> dict[str, Any]:
    filled = np.flatnonzero(histogram.counts)
    return {"bins": _array_out(filled.astype(np.uint16)), "counts": _array_out(histogram.counts[filled])}


def _histogram_in(entry: Mapping[str, Any]) -> Histogram:
    counts = np.zeros(BIN_COUNT, np.int64)
    counts[_array_in(entry["bins"])] = _array_in(entry["counts"])
    if counts.min() < 0:
        raise ValueError("a bin counts less than nothing")
    return Histogram(counts)
