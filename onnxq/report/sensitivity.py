"""The tables of ``onnxq sensitivity``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxq.report.tables import Table, number
from onnxq.search.sensitivity import Entry, OutlierChannel, SensitivityReport

EXACT = "exact"
"""What stands for an infinite SQNR."""


def overall_table(report: SensitivityReport) -> Table:
    """Return the steps of the debugging flow: nothing, weights, activations, everything."""
    rows = (
        ("nothing", _decibels(report.float_db)),
        ("weights", _decibels(report.weights_db)),
        ("activations", _decibels(report.activations_db)),
        ("everything", _decibels(report.all_db)),
    )
    return Table("Output", ("quantized", "SQNR dB"), rows)


def tensors_table(report: SensitivityReport, most: int) -> Table:
    """Return the tensors that cost most, with the channels that reach furthest."""
    columns = ("tensor", "type", "furthest channels", "alone dB", "others dB")
    rows = tuple(
        (entry.name, entry.dtype, _channels(entry.channels), *_two(entry)) for entry in report.tensors[:most]
    )
    return Table(_title("Tensors", report.tensors, most), columns, rows, text_columns=3)


def layers_table(report: SensitivityReport, most: int) -> Table:
    """Return the layers that cost most."""
    columns = ("layer", "operator", "alone dB", "others dB")
    rows = tuple((entry.name, entry.kind, *_two(entry)) for entry in report.layers[:most])
    return Table(_title("Layers", report.layers, most), columns, rows, text_columns=2)


def _title(what: str, entries: Sequence[Entry], most: int) -> str:
    return what if len(entries) <= most else f"{what}: the worst {most} of {len(entries)}"


def _two(entry: Entry) -> tuple[str, str]:
    return _decibels(entry.alone_db), _decibels(entry.others_db)


def _decibels(value: float) -> str:
    return number(value, ".1f", EXACT)


def _channels(channels: Sequence[OutlierChannel]) -> str:
    """Return ``131: 24.7 (22x)`` for each: its furthest value, and that over the median channel's."""
    return ", ".join(
        f"{one.channel}: {max(one.low, one.high, key=abs):.3g}{_times(one.times_median)}" for one in channels
    )


def _times(value: float) -> str:
    return f" ({value:.0f}x)" if math.isfinite(value) else ""
