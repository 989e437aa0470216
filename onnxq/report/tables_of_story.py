"""The tables and charts of ``onnxq report``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from onnxq.manifest import Manifest
from onnxq.report.charts import Chart, kernels_chart
from onnxq.report.tables import (
    NOTHING,
    Table,
    accuracy_table,
    choices_table,
    footprint_table,
    frontier_table,
    kernels_table,
    latency_table,
    layers_table,
    number,
    passes_table,
    precision_table,
    reasons_table,
    result_table,
    short_name,
    skipped_table,
    tuning_table,
)
from onnxq.report.words import escape
from onnxq.story import SeenTensor, Story

WORST = 12
"""Tensors that are shown first, and those with a histogram of their own."""


def story_tables(story: Story, limit: int | None = WORST) -> list[Table]:
    """Return results, work and ranges; a part that was not measured has no table."""
    manifest = story.manifest
    accuracy, latency, kernels = manifest.accuracy, manifest.latency, manifest.kernels
    tables = [result_table(manifest), frontier_table(manifest.frontier or ())]
    tables += [accuracy_table(accuracy)] if accuracy else []
    tables += [latency_table(latency), footprint_table(latency)] if latency else []
    tables += [kernels_table(kernels), layers_table(kernels.provenance, limit)] if kernels else []
    tables += [choices_table(manifest.choices or ()), tuning_table(manifest.tuning or ())]
    tables += [precision_table(manifest.precision)]
    tables += [show(manifest.passes) for show in (passes_table, reasons_table, skipped_table)]
    tables += [ranges_table(story.tensors, limit), outliers_table(story.tensors, limit)]
    return [table for table in tables if table.rows]


def ranges_table(tensors: Sequence[SeenTensor], limit: int | None = None) -> Table:
    """Return what was seen of each quantized tensor and where its encoding cuts, the noisiest first."""
    rows = tuple(
        (
            short_name(tensor.name, limit),
            tensor.dtype,
            f"{tensor.low:.4g} to {tensor.high:.4g}",
            f"{tensor.clip_low:.4g} to {tensor.clip_high:.4g}",
            NOTHING if tensor.clipped is None else f"{100 * tensor.clipped:.3f} %",
            number(tensor.sqnr_db, ".1f"),
        )
        for tensor in tensors[:limit]
    )
    return Table("Ranges", ("tensor", "type", "seen", "on the grid", "cut off", "SQNR dB"), rows, 2)


def outliers_table(tensors: Sequence[SeenTensor], limit: int | None = None) -> Table:
    """Return the channels that are largest beside their tensor's median channel."""
    rows = tuple(
        (
            short_name(one.name, limit),
            ", ".join(f"{channel}: {ratio:.1f}x" for channel, ratio in one.outliers[:4]),
        )
        for one in _outlying(tensors)[:limit]
    )
    return Table("Outlier channels", ("tensor", "channel: times the median channel"), rows, 2)


def warnings_table(manifest: Manifest) -> Table:
    """Return the warnings, which stand first on the page."""
    return Table("Warnings", ("what to know of this result",), tuple((one,) for one in manifest.warnings))


def story_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what to see at a glance: what was asked for, what came out, and how many warnings there are."""
    recipe, data, warnings = manifest.recipe, manifest.data, manifest.warnings
    facts = [("recipe", recipe.name), ("target", recipe.target)]
    facts += [("data", f"{data.samples} samples of {data.name}")] if data else []
    facts += [
        (row[0], " → ".join(filter(None, row[1:3])) + (f" ({row[3]})" if row[3] else ""))
        for row in result_table(manifest).rows
    ]
    return facts + ([("warnings", f"{len(warnings)}, listed first")] if warnings else [])


def story_charts(story: Story) -> list[Chart]:
    """Return the timeline, and the worst tensors with their clip points."""
    charts = [kernels_chart(story.manifest.kernels)] if story.manifest.kernels else []
    charts += [_ranges_chart(story.tensors)] if story.tensors else []
    drawn = [tensor for tensor in story.tensors if tensor.edges][:WORST]
    return [*charts, *_outlier_charts(story.tensors), *map(_histogram_chart, drawn)]


def _outlying(tensors: Sequence[SeenTensor]) -> list[SeenTensor]:
    """Return the tensors whose channels were measured, those that reach furthest first."""
    return sorted((one for one in tensors if one.outliers), key=lambda one: -one.outliers[0][1])


def _ranges_chart(tensors: Sequence[SeenTensor]) -> Chart:
    shown = tensors[:40][::-1]
    names = [escape(tensor.name) for tensor in shown]

    def spans(ends: Callable[[SeenTensor], tuple[float, float]], **looks: Any) -> dict[str, Any]:
        """Return a line for each tensor from one of its numbers to another, with gaps between."""
        points = [
            (end, name) for tensor, name in zip(shown, names, strict=True) for end in (*ends(tensor), None)
        ]
        return {"x": [x for x, _ in points], "y": [y for _, y in points], "mode": "lines+markers", **looks}

    data = [
        spans(
            lambda tensor: (tensor.low, tensor.high),
            name="seen",
            line={"width": 7},
            marker={"size": 1},
            opacity=0.6,
        ),
        spans(
            lambda tensor: (tensor.clip_low, tensor.clip_high),
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


def _histogram_chart(tensor: SeenTensor) -> Chart:
    edges, heights = tensor.edges, tensor.heights
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
        for x in (tensor.clip_low, tensor.clip_high)
    ]
    layout = {
        "shapes": lines,
        "bargap": 0,
        "yaxis": {"type": "log", "title": {"text": "values"}},
        "showlegend": False,
    }
    cut = "" if tensor.clipped is None else f"; {100 * tensor.clipped:.3f} % cut off"
    noise = "" if tensor.sqnr_db is None else f", {number(tensor.sqnr_db, '.1f')} dB"
    note = f"{tensor.dtype}; the dashed lines are where the encoding cuts{cut}{noise}"
    return {"title": tensor.name, "note": note, "data": [bars], "layout": layout}


def _outlier_charts(tensors: Sequence[SeenTensor]) -> Iterator[Chart]:
    if found := _outlying(tensors)[:WORST]:
        data = [
            {
                "type": "bar",
                "orientation": "h",
                "y": [escape(one.name) for one in found],
                "x": [one.outliers[0][1] for one in found],
                "text": [f"channel {one.outliers[0][0]}" for one in found],
            }
        ]
        layout = {
            "yaxis": {"autorange": "reversed", "tickfont": {"size": 10}},
            "xaxis": {"title": {"text": "times the median channel"}},
        }
        note = "The largest channel of each tensor, beside the median channel's largest magnitude."
        yield {"title": "Outlier channels", "note": note, "data": data, "layout": layout, "wide": True}
