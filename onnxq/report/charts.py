"""Charts as plotly reads them: plain dictionaries of ``title``, ``note``, ``data`` and ``layout``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxq.report.words import escape
from onnxq.runtime.kernels import KernelReport

Chart = dict[str, Any]

_MOST = 14


def diff_charts(content: Mapping[str, Any]) -> list[Chart]:
    """Return the charts of a difference, from what ``ModelDiff.to_dict()`` gives."""
    charts = [bytes_chart(content["before"], content["after"])]
    if content["measured"]:
        charts = [error_chart(content), *_time_charts(content), *charts]
    return charts


def error_chart(content: Mapping[str, Any]) -> Chart:
    """Return signal to noise of every aligned value in the order of the graph; equal ones are left out."""
    errors = [error for error in content["measured"]["errors"] if error["sqnr_db"] is not None]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        kinds.setdefault(content["changes"][error["change"]]["kind"], []).append(error)
    places = {id(error): place for place, error in enumerate(errors)}
    line = {
        "x": list(range(len(errors))),
        "y": [error["sqnr_db"] for error in errors],
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
            "x": [places[id(error)] for error in group],
            "y": [error["sqnr_db"] for error in group],
            "text": [escape(error["value"]) for error in group],
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


def bytes_chart(before: Mapping[str, Any], after: Mapping[str, Any]) -> Chart:
    """Return the bytes of both models' constants by type."""
    sides = (before, after)
    types = list(dict.fromkeys(dtype for side in sides for dtype in side["bytes_by_dtype"]))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": dtype,
            "y": [escape(side["name"]) for side in sides],
            "x": [side["bytes_by_dtype"].get(dtype, 0) / 1e6 for side in sides],
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


def _time_charts(content: Mapping[str, Any]) -> Iterator[Chart]:
    timed = [row for row in content["patterns"] if row["microseconds_before"] or row["microseconds_after"]]
    timed.sort(key=lambda row: -max(row["microseconds_before"] or 0, row["microseconds_after"] or 0))
    rows: Sequence[Mapping[str, Any]] = timed[:8]
    if not rows:
        return
    labels = [_folded(f"{row['count']} x {row['pattern']}") for row in rows]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": escape(content[side]["name"]),
            "y": labels,
            "x": [(row[f"microseconds_{side}"] or 0) / 1e3 for row in rows],
        }
        for side in ("before", "after")
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
