"""What results show of themselves in a notebook."""

from __future__ import annotations

from collections import Counter
from functools import singledispatch

from onnxq.analysis.overview import Overview
from onnxq.compilation import CompileResult
from onnxq.diff.result import ModelDiff
from onnxq.ir.module import GraphModule
from onnxq.report.html import tables_html
from onnxq.report.tables import (
    Table,
    accuracy_table,
    footprint_table,
    kernels_table,
    latency_table,
    layers_table,
    metric_table,
    result_table,
    skipped_table,
)
from onnxq.report.tables_of_diff import diff_tables
from onnxq.report.tables_of_model import model_tables
from onnxq.report.tables_of_story import story_tables
from onnxq.runtime.bench import LatencyReport
from onnxq.runtime.kernels import KernelReport
from onnxq.runtime.validate import AccuracyReport
from onnxq.story import Story


def html_of(result: object) -> str:
    """Return the tables of a result as HTML."""
    return tables_html(tables_of(result))


@singledispatch
def tables_of(result: object) -> list[Table]:
    """Return what is shown of a result; each kind has a function of its own below."""
    raise TypeError(f"no table shows a {type(result).__name__}")


@tables_of.register
def _(result: CompileResult) -> list[Table]:
    return [result_table(result.manifest), skipped_table(result.manifest.passes)]


@tables_of.register
def _(result: AccuracyReport) -> list[Table]:
    return [metric_table(result), accuracy_table(result)]


@tables_of.register
def _(result: LatencyReport) -> list[Table]:
    return [latency_table(result), footprint_table(result)]


@tables_of.register
def _(result: KernelReport) -> list[Table]:
    return [kernels_table(result), layers_table(result.provenance, None)]


@tables_of.register
def _(result: Overview) -> list[Table]:
    return model_tables(result)


@tables_of.register
def _(result: ModelDiff) -> list[Table]:
    return diff_tables(result)


@tables_of.register
def _(result: Story) -> list[Table]:
    return story_tables(result)


@tables_of.register
def _(result: GraphModule) -> list[Table]:
    """``onnxq.analysis.overview`` tells more."""
    counts = Counter(node.op_type for node in result.graph)
    rows = tuple((op_type, str(count)) for op_type, count in sorted(counts.items()))
    return [Table("Operators", ("operator", "nodes"), rows)]
