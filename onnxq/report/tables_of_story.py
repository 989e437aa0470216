"""The tables and charts of ``onnxq report``, from what ``Story.to_dict()`` gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from onnxq.report.charts import Chart, kernels_chart
from onnxq.report.tables import (
    NOTHING,
    Table,
    accuracy_table,
    choices_table,
    footprint_table,
    kernels_table,
    latency_table,
    layers_table,
    passes_table,
    reasons_table,
    result_table,
    short_name,
    skipped_table,
    tuning_table,
)
from onnxq.report.words import escape

WORST = 12
"""Tensors that are shown first, and those with a histogram of their own."""


def story_tables(content: Mapping[str, Any], limit: int | None = WORST) -> list[Table]:
    """Return results, work and ranges; a part that was not measured has no table."""
    accuracy, latency, kernels = content["accuracy"], content["latency"], content["kernels"]
    tables = [result_table(content)]
    tables += [accuracy_table(accuracy)] if accuracy else []
    tables += [latency_table(latency), footprint_table(latency)] if latency else []
    tables += (
        [kernels_table(kernels), layers_table(kernels, limit=limit or len(kernels["layers"]))]
        if kernels
        else []
    )
    tables += [choices_table(content["choices"] or ()), tuning_table(content["tuning"] or ())]
    tables += [
        passes_table(content["passes"]),
        reasons_table(content["passes"]),
        skipped_table(content["passes"]),
    ]
    tables += [ranges_table(content["tensors"], limit), outliers_table(content["tensors"], limit)]
    return [table for table in tables if table.rows]


def ranges_table(tensors: Sequence[Mapping[str, Any]], limit: int | None = None) -> Table:
    """Return what was seen of each quantized tensor and where its encoding cuts, the noisiest first."""
    rows = tuple(
        (
            short_name(tensor["name"], limit),
            tensor["dtype"],
            f"{tensor['low']:.4g} to {tensor['high']:.4g}",
            f"{tensor['clip_low']:.4g} to {tensor['clip_high']:.4g}",
            NOTHING if tensor["clipped"] is None else f"{100 * tensor['clipped']:.3f} %",
            NOTHING if tensor["sqnr_db"] is None else f"{tensor['sqnr_db']:.1f}",
        )
        for tensor in tensors[:limit]
    )
    return Table("Ranges", ("tensor", "type", "seen", "on the grid", "cut off", "SQNR dB"), rows, 2)


def outliers_table(tensors: Sequence[Mapping[str, Any]], limit: int | None = None) -> Table:
    """Return the channels that are largest beside their tensor's median channel."""
    found = sorted((one for one in tensors if one["outliers"]), key=lambda one: -one["outliers"][0][1])
    rows = tuple(
        (
            short_name(one["name"], limit),
            ", ".join(f"{channel}: {ratio:.1f}x" for channel, ratio in one["outliers"][:4]),
        )
        for one in found[:limit]
    )
    return Table("Outlier channels", ("tensor", "channel: times the median channel"), rows, 2)


def warnings_table(content: Mapping[str, Any]) -> Table:
    """Return the warnings of a manifest, which stand first on its page."""
    return Table("Warnings", ("what to know of this result",), tuple((one,) for one in content["warnings"]))


def story_facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what to see at a glance: what was asked for, what came out, and how many warnings there are."""
    recipe, data, warnings = content["recipe"], content["data"], content["warnings"]
    facts = [("recipe", recipe["name"]), ("target", recipe["target"])]
    facts += [("data", f"{data['samples']} samples of {data['name']}")] if data else []
    facts += [
        (row[0], " → ".join(filter(None, row[1:3])) + (f" ({row[3]})" if row[3] else ""))
        for row in result_table(content).rows
    ]
    return facts + ([("warnings", f"{len(warnings)}, listed first")] if warnings else [])


def story_charts(content: Mapping[str, Any]) -> list[Chart]:
    """Return the timeline, and the worst tensors with their clip points."""
    charts = [kernels_chart(content["kernels"])] if content["kernels"] else []
    if content["tensors"]:
        charts.append(_ranges_chart(content["tensors"]))
    return [*charts, *_outlier_charts(content["tensors"]), *map(_histogram_chart, _drawn(content["tensors"]))]


def _drawn(tensors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [tensor for tensor in tensors if tensor["edges"]][:WORST]


def _ranges_chart(tensors: Sequence[Mapping[str, Any]]) -> Chart:
    shown = tensors[:40][::-1]
    names = [escape(tensor["name"]) for tensor in shown]

    def spans(low: str, high: str, **looks: Any) -> dict[str, Any]:
        """Return a line for each tensor from one of its numbers to another, with gaps between."""
        points = [
            (end, name)
            for tensor, name in zip(shown, names, strict=True)
            for end in (tensor[low], tensor[high], None)
        ]
        return {"x": [x for x, _ in points], "y": [y for _, y in points], "mode": "lines+markers", **looks}

    data = [
        spans("low", "high", name="seen", line={"width": 7}, marker={"size": 1}, opacity=0.6),
        spans(
            "clip_low",
            "clip_high",
            name="on the grid",
            line={"width": 1},
            marker={"symbol": "line-ns-open", "size": 13},
        ),
    ]
    layout = {
        "height": 120 + 22 * len(shown),
        "yaxis": {"tickfont": {"size": 10}},
        "xaxis": {"title": {"text": "value"}},
    }
    note = "What calibration saw of each tensor, and the range that its encoding holds; the noisiest on top."
    return {"title": "Ranges and clip points", "note": note, "data": data, "layout": layout, "wide": True}


def _histogram_chart(tensor: Mapping[str, Any]) -> Chart:
    edges, heights = tensor["edges"], tensor["heights"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    bars = {"type": "bar", "x": middles, "y": heights, "name": "values", "marker": {"line": {"width": 0}}}
    lines = [
        {
            "type": "line",
            "x0": x,
            "x1": x,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": "#d55e00", "dash": "dash"},
        }
        for x in (tensor["clip_low"], tensor["clip_high"])
    ]
    layout = {
        "shapes": lines,
        "bargap": 0,
        "yaxis": {"type": "log", "title": {"text": "values"}},
        "showlegend": False,
    }
    note = f"{tensor['dtype']}; the dashed lines are where the encoding cuts" + (
        f"; {100 * tensor['clipped']:.3f} % cut off, {tensor['sqnr_db']:.1f} dB"
        if tensor["sqnr_db"] is not None
        else ""
    )
    return {"title": tensor["name"], "note": note, "data": [bars], "layout": layout}


def _outlier_charts(tensors: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    found = sorted((one for one in tensors if one["outliers"]), key=lambda one: -one["outliers"][0][1])[
        :WORST
    ]
    if found:
        data = [
            {
                "type": "bar",
                "orientation": "h",
                "y": [escape(one["name"]) for one in found],
                "x": [one["outliers"][0][1] for one in found],
                "text": [f"channel {one['outliers'][0][0]}" for one in found],
            }
        ]
        layout = {
            "yaxis": {"autorange": "reversed", "tickfont": {"size": 10}},
            "xaxis": {"title": {"text": "times the median channel"}},
        }
        note = "The largest channel of each tensor, beside the median channel's largest magnitude."
        yield {"title": "Outlier channels", "note": note, "data": data, "layout": layout, "wide": True}
