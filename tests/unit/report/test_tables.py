"""The cells of the tables, and how they are drawn on a terminal and in Markdown."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onnxq.diff.result import TensorError
from onnxq.manifest import DataUsed, Manifest, ModelFile
from onnxq.passmanager.summary import Edits, PassSummary, Skipped
from onnxq.recipe import load_recipe
from onnxq.report.markdown import render_report, table_text
from onnxq.report.tables import (
    Table,
    accuracy_table,
    conditions,
    file_size,
    footprint_table,
    kernels_table,
    latency_table,
    passes_table,
    reasons_table,
    result_table,
    skipped_table,
    tuning_table,
)
from onnxq.report.tables_of_diff import growth_table
from onnxq.report.text import compilation, draw
from onnxq.runtime.bench import LatencyReport, ModelLatency, Spread
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.footprint import Footprint
from onnxq.runtime.kernels import KernelNode, KernelReport, Kind
from onnxq.runtime.validate import AccuracyReport, MetricResult
from onnxq.search.tune import Verdict

PROVIDER = "CPUExecutionProvider"


def kernels() -> KernelReport:
    nodes = [("QLinearConv", Kind.INTEGER, 60.0), ("Softmax", Kind.OTHER, 30.0), ("Add", Kind.OTHER, 10.0)]
    return KernelReport(
        "cpu", 5, tuple(KernelNode(op, op, "", PROVIDER, kind, 1, us, us / 100) for op, kind, us in nodes)
    )


def latency() -> LatencyReport:
    def model(name: str, ms: float, ratio: Spread, memory: Footprint | None) -> ModelLatency:
        spread = Spread(ms, ms * 0.9, ms * 1.1)
        return ModelLatency(name, Path(name), spread, 99.0, ratio, (ms,), int(ms * 1e6), memory, kernels())

    models = (
        model("source", 10.0, Spread(1, 1, 1), Footprint(12.3, 90_000_000, 40_000_000)),
        model("compiled", 4.0, Spread(2.5, 2.4, 2.6), None),
    )
    return LatencyReport("cpu", 1, 30, {}, ((("x", (1, 128)),),), (1,), (128,), models)


def accuracy(metric: MetricResult | None = None) -> AccuracyReport:
    outputs = (
        OutputAccuracy("logits", 20, 0, 0.9991, 0.999, 0.99, 31.26, 0.1234, 5.0, 1.0, agreement=0.975),
        OutputAccuracy("same", 20, 0, 1.0, 1.0, 1.0, float("inf"), 0.0, 2.0, 1.0),
        OutputAccuracy("ids", 20, 0, equal=0.5),
    )
    return AccuracyReport("a.onnx", "b.onnx", 10, 2, outputs, metric, ("a note",))


def manifest(**changes: Any) -> Manifest:
    skipped = tuple(
        Skipped(node=f"n{i}", op_type=op, reason="too | small")
        for i, op in enumerate(["Conv", "Gemm", "Conv"])
    )
    edits = (
        Edits(action="encode", why="weight of Conv", count=2),
        Edits(action="encode", why="bias", count=1),
    )
    content: dict[str, Any] = {
        "recipe": load_recipe("cpu"),
        "source": ModelFile(name="a.onnx", digest="d1", size_bytes=10_000_000),
        "output": ModelFile(name="b.onnx", digest="d2", size_bytes=4_000_000),
        "opsets": {"ai.onnx": 21, "com.microsoft": 1},
        "ir_version": 10,
        "data": DataUsed(name="d.npz", digest="d3", samples=8),
        "table": None,
        "versions": {"onnxq": "0.1.0", "numpy": "2.0"},
        "cpu_flags": ("avx2", "avx512_vnni"),
        "passes": (PassSummary(text="encode-weights{x=1}", seconds=0.5, edits=edits, skipped=skipped),),
        "accuracy": accuracy(MetricResult("top1", 0.98, 0.975)),
        "latency": latency(),
        "kernels": kernels(),
        "warnings": ("a warning",),
    }
    return Manifest(**{**content, **changes})


def drawn(*parts: Any) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    for part in parts:
        console.print(part)
    return stream.getvalue()


def test_the_result_shows_metric_time_and_size_before_and_after() -> None:
    rows = result_table(manifest()).rows
    assert rows == (
        ("top1", "98.00 %", "97.50 %", "-0.50 points"),
        ("cosine of the outputs", "", "0.99910", ""),
        ("same top-1 class", "", "97.50 %", ""),
        ("equal values", "", "50.00 %", ""),
        ("latency", "10.0 ms", "4.00 ms", "2.50x (2.40-2.60)"),
        ("size", "10.0 MB", "4.00 MB", "2.50x smaller"),
    )


def test_each_change_has_its_reason() -> None:
    rows = reasons_table(manifest().passes).rows
    assert rows == (
        ("encode-weights", "encode", "weight of Conv", "2"),
        ("encode-weights", "encode", "bias", "1"),
    )


def test_the_result_of_a_larger_model_says_so() -> None:
    grown = ModelFile(name="b.onnx", digest="d", size_bytes=15_000_000)
    assert result_table(manifest(output=grown, accuracy=None, latency=None)).rows == (
        ("size", "10.0 MB", "15.0 MB", "1.50x larger"),
    )


def test_a_metric_that_rose_or_has_no_value_is_shown_as_such() -> None:
    for metric, change in (
        (MetricResult("m", 0.5, 0.5), "+0.00 points"),
        (MetricResult("m", 0.5, 0.51), "+1.00 points"),
    ):
        assert result_table(manifest(accuracy=accuracy(metric))).rows[0][3] == change
    nothing = accuracy(MetricResult("m", float("nan"), 0.5))
    assert result_table(manifest(accuracy=nothing)).rows[0] == (
        "m",
        "-",
        "50.00 %",
        "-",
    )


def test_accuracy_has_a_row_for_each_output() -> None:
    assert accuracy_table(accuracy()).rows == (
        ("logits", "0.99910", "0.99000", "31.3", "0.123", "5", "97.50 %"),
        ("same", "1.00000", "1.00000", "exact", "0", "2", "-"),
        ("ids", "-", "-", "-", "-", "-", "50.00 %"),
    )


def test_latency_shows_the_paired_ratio_with_its_spread() -> None:
    assert latency_table(latency()).rows == (
        ("source", "10.0", "9.00-11.0", "1.00x", "1.00-1.00"),
        ("compiled", "4.00", "3.60-4.40", "2.50x", "2.40-2.60"),
    )
    assert conditions(latency()) == (
        "Timed in one process, interleaved, 30 rounds; provider cpu, threads: 1, batch 1, 128 tokens."
    )


def test_a_footprint_that_was_not_measured_is_a_dash() -> None:
    assert footprint_table(latency()).rows == (
        ("source", "10.0 MB", "12", "40", "90"),
        ("compiled", "4.00 MB", "-", "-", "-"),
    )


def test_memory_of_a_device_has_a_column_where_it_was_measured() -> None:
    first, second = latency().models
    assert first.footprint is not None
    first = replace(first, footprint=replace(first.footprint, device_bytes=512_000_000))
    table = footprint_table(replace(latency(), models=(first, second)))
    assert table.columns[-1] == "device MB"
    assert [row[-1] for row in table.rows] == ["512", "-"]


def test_kernels_beyond_the_limit_share_a_row() -> None:
    assert kernels_table(kernels(), limit=1).rows == (
        ("QLinearConv", "integer", "CPU", "1", "60.00 %"),
        ("2 more", "", "", "2", "40.00 %"),
    )


def test_skipped_nodes_are_grouped_by_pass_and_reason() -> None:
    passes = manifest().passes
    assert skipped_table(passes).rows == (("encode-weights", "too | small", "Conv, Gemm", "3"),)
    assert passes_table(passes).rows == (("encode-weights{x=1}", "3 x encode", "3", "500"),)


@pytest.mark.parametrize(
    ("size", "text"),
    [(436, "0.44 kB"), (23_000, "23.0 kB"), (999_999, "1000 kB"), (1_087_000, "1.09 MB"), (2.5e9, "2500 MB")],
)
def test_sizes_have_three_digits(size: float, text: str) -> None:
    assert file_size(size) == text


def test_markdown_escapes_what_would_break_a_table() -> None:
    assert (
        table_text(Table("T", ("a", "b"), (("x|y\nz", "1"),)))
        == "## T\n\n| a | b |\n| --- | ---: |\n| x\\|y\\\\nz | 1 |"
    )


def test_the_report_tells_what_was_done_and_where_it_comes_from() -> None:
    report = render_report(manifest())
    assert report.startswith("# b.onnx\n\nCompiled from a.onnx by onnxq 0.1.0 with the recipe cpu")
    for text in (
        "> **Warning:** a warning",
        "| latency | 10.0 ms | 4.00 ms | 2.50x (2.40-2.60) |",
        "Compared on 10 samples.\na note",
        "Below `ORT_ENABLE_EXTENDED`",
        "| encode-weights | too \\| small | Conv, Gemm | 3 |",
        "encode-activations{scope=chains",
        "| data | d.npz | 8 samples | d3 |",
        "CPU features that matter here: avx2, avx512_vnni.",
    ):
        assert text in report


def test_a_report_without_results_has_the_rest() -> None:
    report = render_report(manifest(accuracy=None, latency=None, kernels=None, data=None, cpu_flags=()))
    assert "## Accuracy" not in report
    assert "## Passes" in report
    assert "matter here: unknown." in report


def test_the_terminal_shows_no_line_beyond_80_columns() -> None:
    long = Table("T", ("text", "n"), ((" ".join(["many words"] * 30), "1"), ("x" * 100, "2")))
    text = drawn(draw(long), *compilation(manifest()))
    assert max(map(len, text.splitlines())) <= 80
    assert "Nodes that ran: 1 integer, 2 other." in text
    assert "x" * 60 in text  # folded, not cut


def test_a_table_without_a_header_has_no_empty_line_for_it() -> None:
    shown = drawn(draw(Table("Model", ("", ""), (("size", "1 MB"),))))
    assert [line.split() for line in shown.splitlines()] == [["Model"], ["size", "1", "MB"], []]


def test_what_was_tuned_is_told_form_by_form() -> None:
    verdicts = [
        Verdict("int8 for MatMul 8x8", 1.25, (1.2, 1.3), dropped=True),
        Verdict("pass sum-residuals", None, None, dropped=False),
        Verdict("pass normalize-frames", 1.1, (1.0, 1.2), dropped=False, needed=True),
    ]
    assert tuning_table(verdicts).rows == (
        ("int8 for MatMul 8x8", "1.250x", "1.20-1.30", "left out"),
        ("pass sum-residuals", "-", "-", "kept"),
        ("pass normalize-frames", "1.100x", "1.00-1.20", "kept, for accuracy"),
    )


def test_only_what_is_equal_is_called_exact() -> None:
    equal = TensorError(0, "a", "a", 1.0, None, 0.0, 2.0, None, None)
    zero_before = TensorError(1, "b", "b", 0.0, None, 0.5, 0.0, None, None)
    table = growth_table([equal, zero_before])
    assert [row[2] for row in table.rows] == ["exact", "-"]


def test_reasons_that_differ_in_names_and_numbers_share_a_line() -> None:
    skipped = (
        Skipped(node="a", op_type="MatMul", reason="'a_in' keeps its range: 1.25 times is too little"),
        Skipped(node="b", op_type="MatMul", reason="'b_in' keeps its range: 2e-05 times is too little"),
        Skipped(node="c", op_type="Conv", reason="int8 'w' has 3 axes"),
    )
    table = skipped_table(
        [PassSummary(text="correct-clipping{channels=4}", seconds=0, edits=(), skipped=skipped)]
    )
    assert table.rows == (
        ("correct-clipping", "… keeps its range: … times is too little", "MatMul", "2"),
        ("correct-clipping", "int8 'w' has 3 axes", "Conv", "1"),
    )
