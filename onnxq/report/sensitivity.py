"""The tables of ``onnxq sensitivity``, from what ``SensitivityReport.to_dict()`` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxq.report.tables import Table

EXACT = "exact"
"""What stands for an infinite SQNR."""


def overall_table(report: Mapping[str, Any]) -> Table:
    """Return the steps of the debugging flow: nothing, weights, activations, everything."""
    steps = ("nothing", "weights", "activations", "everything")
    keys = ("float_db", "weights_db", "activations_db", "all_db")
    rows = tuple((step, _decibels(report[key])) for step, key in zip(steps, keys, strict=True))
    return Table("Output", ("quantized", "SQNR dB"), rows)


def tensors_table(report: Mapping[str, Any], most: int) -> Table:
    """Return the tensors that cost most, with the channels that reach furthest."""
    columns = ("tensor", "type", "furthest channels", "alone dB", "others dB")
    rows = tuple(
        (entry["name"], entry["dtype"], _channels(entry["channels"]), *_two(entry))
        for entry in report["tensors"][:most]
    )
    return Table(_title("Tensors", report["tensors"], most), columns, rows, text_columns=3)


def layers_table(report: Mapping[str, Any], most: int) -> Table:
    """Return the layers that cost most."""
    columns = ("layer", "operator", "alone dB", "others dB")
    rows = tuple((entry["name"], entry["kind"], *_two(entry)) for entry in report["layers"][:most])
    return Table(_title("Layers", report["layers"], most), columns, rows, text_columns=2)


def _title(what: str, entries: Sequence[Any], most: int) -> str:
    return what if len(entries) <= most else f"{what}: the worst {most} of {len(entries)}"


def _two(entry: Mapping[str, Any]) -> tuple[str, str]:
    return _decibels(entry["alone_db"]), _decibels(entry["others_db"])


def _decibels(value: float | None) -> str:
    return EXACT if value is None else f"{value:.1f}"


def _channels(channels: Sequence[Mapping[str, Any]]) -> str:
    """Return ``131: 24.7 (22x)`` for each: its furthest value, and that over the median channel's."""
    return ", ".join(
        f"{one['channel']}: {max(one['low'], one['high'], key=abs):.3g}{_times(one['times_median'])}"
        for one in channels
    )


def _times(value: float | None) -> str:
    return "" if value is None else f" ({value:.0f}x)"
