"""The calibration table: facts on disk, tied to the model and the data that they were measured on."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxq.errors import CalibrationError
from onnxq.files import write_whole
from onnxq.quant.facts import Facts, Kind, Place
from onnxq.quant.statistics import STATISTICS, Statistic
from onnxq.reading import parse_json

SCHEMA = 2
"""The version of the table's layout; a table of another one is refused."""

LEFT_OUT: frozenset[Kind] = frozenset(kind for kind in STATISTICS.values() if not kind.in_tables)
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

    def for_manifest(self) -> CalibrationTable:
        """Return the table without what is large, and without pieces of the data itself: sampled rows."""
        out = [kind for kind in STATISTICS.values() if not kind.in_manifests]
        return replace(self, facts={name: facts.without(out) for name, facts in self.facts.items()})

    def to_json(self) -> str:
        """Return the text form; equal tables give equal text."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "onnxq": self.onnxq,
                "model": self.model,
                "data": self.data,
                "samples": self.samples,
                "facts": {name: facts_out(facts.without(LEFT_OUT)) for name, facts in self.facts.items()},
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
                facts = {name: facts_in(entry) for name, entry in content["facts"].items()}
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


def facts_out(facts: Facts) -> dict[str, Any]:
    """Return facts as plain JSON values; parts that were not measured are left out."""
    entry = {"count": facts.count, **_parts_out(facts, None)}
    channels = {str(axis): part for axis in facts.axes if (part := _parts_out(facts, axis))}
    return {**entry, "channels": channels} if channels else entry


def _parts_out(facts: Facts, axis: int | None) -> dict[str, Any]:
    """Return what is known along an axis, or, with None, of the whole."""
    parts = [part.to_table() for part in facts.along(axis)]
    return {key: value for part in parts for key, value in part.items()}


def facts_in(entry: Mapping[str, Any]) -> Facts:
    """Read what ``facts_out`` returned.

    Raises:
        ValueError: The entry is damaged; so may be TypeError, KeyError.

    """
    parts = _parts_in(entry, None)
    for axis, along in entry.get("channels", {}).items():
        parts |= _parts_in(along, int(axis))
    return Facts(int(entry["count"]), parts)


def _parts_in(entry: Mapping[str, Any], axis: int | None) -> dict[Place, Statistic]:
    kinds = [kind for kind in STATISTICS.values() if kind.by_channel == (axis is not None)]
    return {(kind, axis): part for kind in kinds if (part := kind.from_table(entry)) is not None}
