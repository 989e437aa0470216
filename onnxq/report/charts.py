"""Charts as plotly reads them: plain dictionaries of ``title``, ``note``, ``data`` and ``layout``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from onnxq.diff.result import ChangeRow, ModelDiff, Side, TensorError
from onnxq.report.words import escape
from onnxq.runtime.kernels import KernelReport

Chart = dict[str, Any]

_MOST = 14


def diff_charts(diff: ModelDiff) -> list[Chart]:
    """Return the charts of a difference."""
    charts = [bytes_chart(diff.before, diff.after)]
    if diff.measured:
        charts = [error_chart(diff.measured.errors, diff.changes), *_time_charts(diff), *charts]
    return charts


def error_chart(errors: Sequence[TensorError], changes: Sequence[ChangeRow]) -> Chart:
    """Return signal to noise of every aligned value in the order of the graph; equal ones are left out."""
    shown = [(error, sqnr) for error in errors if (sqnr := error.sqnr_db) is not None and math.isfinite(sqnr)]
    kinds: dict[str, list[tuple[int, TensorError, float]]] = {}
    for place, (error, sqnr) in enumerate(shown):
        kinds.setdefault(changes[error.change].kind, []).append((place, error, sqnr))
    line = {
        "x": list(range(len(shown))),
        "y": [sqnr for _, sqnr in shown],
        "mode": "lines",
        "line": {"width": 1, "color": "#8a949e"},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    symbols = {
        "same": "circle",
        "rewritten": "diamond",
        "replaced": "square",
        "added": "cross",
        "removed": "x",
    }
    points = [
        {
            "x": [place for place, _, _ in group],
            "y": [sqnr for _, _, sqnr in group],
            "text": [escape(error.value) for _, error, _ in group],
            "mode": "markers",
            "marker": {"symbol": symbols[kind], "size": 8},
            "name": kind,
            "hovertemplate": "%{text}<br>%{y:.1f} dB<extra></extra>",
        }
        for kind, group in sorted(kinds.items())
    ]
    axes = {
        "xaxis": {"title": {"text": "value, in the order of the graph"}},
        "yaxis": {"title": {"text": "SQNR in dB"}},
    }
    note = "Each point is one value of both models; lower is worse. Values that are equal are left out."
    return {"title": "How error grows", "note": note, "data": [line, *points], "layout": axes, "wide": True}


def bytes_chart(before: Side, after: Side) -> Chart:
    """Return the bytes of both models' constants by type."""
    sides = (before, after)
    types = list(dict.fromkeys(dtype for side in sides for dtype in side.bytes_by_dtype))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": dtype,
            "y": [escape(side.name) for side in sides],
            "x": [side.bytes_by_dtype.get(dtype, 0) / 1e6 for side in sides],
        }
        for dtype in types
    ]
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "MB of constants"}},
        "yaxis": {"autorange": "reversed"},
    }
    return {"title": "Bytes by type", "data": data, "layout": layout}


def kernels_chart(kernels: KernelReport) -> Chart:
    """Return the kernels in the order in which they ran, one bar after the other, by operator."""
    ends: dict[str, list[tuple[float, float, str]]] = {}
    at = 0.0
    for node in kernels.nodes:
        ends.setdefault(node.op_type, []).append((at, node.microseconds, node.name))
        at += node.microseconds
    longest = sorted(ends, key=lambda op: -sum(time for _, time, _ in ends[op]))[:_MOST]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": escape(op),
            "y": [escape(op)] * len(ends[op]),
            "base": [round(start, 3) for start, _, _ in ends[op]],
            "x": [round(time, 3) for _, time, _ in ends[op]],
            "text": [escape(name) for _, _, name in ends[op]],
            "textposition": "none",
            "hovertemplate": "%{text}<br>%{x:.1f} µs<extra></extra>",
        }
        for op in longest
    ]
    note = (
        "When each kernel ran within one run of the model, by operator; those that took least are left out."
    )
    layout = {
        "showlegend": False,
        "barmode": "overlay",
        "xaxis": {"title": {"text": "µs since the start"}},
        "yaxis": {"autorange": "reversed"},
    }
    return {"title": "Kernel timeline", "note": note, "data": data, "layout": layout, "wide": True}


def _time_charts(diff: ModelDiff) -> Iterator[Chart]:
    timed = [
        (row, row.microseconds_before or 0.0, row.microseconds_after or 0.0)
        for row in diff.patterns
        if row.microseconds_before or row.microseconds_after
    ]
    rows = sorted(timed, key=lambda row: -max(row[1:]))[:8]
    if not rows:
        return
    labels = [_folded(f"{row.count} x {row.pattern}") for row, _, _ in rows]
    sides = (diff.before, [one for _, one, _ in rows]), (diff.after, [one for _, _, one in rows])
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": escape(side.name),
            "y": labels,
            "x": [one / 1e3 for one in times],
        }
        for side, times in sides
    ]
    layout = {"xaxis": {"title": {"text": "ms in kernels"}}, "yaxis": {"autorange": "reversed"}}
    yield {"title": "Time by pattern", "data": data, "layout": layout}


def _folded(text: str, width: int = 34) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(map(escape, lines[:3])) + ("…" if len(lines) > 3 else "")
