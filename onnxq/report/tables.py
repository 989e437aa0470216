"""The tables of every report, as plain text cells; the terminal and Markdown only draw them.

A cell of a number that does not exist is ``-``.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxq.manifest import Manifest
from onnxq.passmanager.left_in_float import LeftInFloat
from onnxq.passmanager.precision import Assigned
from onnxq.passmanager.summary import Edits, PassSummary, Skipped
from onnxq.runtime.bench import LatencyReport, ModelLatency
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.invariance import InvarianceReport
from onnxq.runtime.kernels import KernelReport, LayerKernel, LayerState, OpSummary, Provenance
from onnxq.runtime.validate import AccuracyReport
from onnxq.search.choose import Trial
from onnxq.search.forms import is_variant
from onnxq.search.frontier import Point
from onnxq.search.tune import GRAPH, Verdict

NOTHING = "-"
MEGABYTE = 1e6
NAME_LENGTH = 36
_BAD = (LayerState.UNFUSED, LayerState.ELSEWHERE)


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Args:
        title: What it shows.
        columns: The header.
        rows: As many cells as ``columns`` each.
        text_columns: So many columns from the left are text; the others are numbers.

    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def result_table(manifest: Manifest) -> Table:
    """Return what matters most: accuracy, time and size, before and after."""
    accuracy, latency = manifest.accuracy, manifest.latency
    rows = [] if accuracy is None else [*_metric_rows(accuracy), *_similarity_rows(accuracy)]
    if latency is not None:
        rows.append(_time_row(*latency.models))
    rows.append(_size_row(manifest.source.size_bytes, manifest.output.size_bytes))
    return Table("Result", ("", "before", "after", "change"), tuple(rows))


def metric_table(accuracy: AccuracyReport) -> Table:
    """Return the task metric of both models; no rows if there is none."""
    return Table("Metric", ("", "before", "after", "change"), tuple(_metric_rows(accuracy)))


def accuracy_table(accuracy: AccuracyReport) -> Table:
    """Return one row for each output."""
    columns = ("output", "cosine", "worst sample", "SQNR dB", "largest diff.", "of", "agree")
    return Table("Accuracy", columns, tuple(map(_output_row, accuracy.outputs)))


def invariance_table(invariance: InvarianceReport) -> Table:
    """Return how far each output moves with batch and padding."""
    rows = tuple(
        (
            output.name,
            output.verdict,
            *(number(value, ".3g") for value in (output.batch, output.padding, output.scale)),
        )
        for output in invariance.outputs
    )
    columns = ("output", "the result", "in a batch", "padded", "of")
    return Table("Alone, padded and in a batch", columns, rows, text_columns=2)


def latency_table(latency: LatencyReport) -> Table:
    """Return one row of times for each model."""
    rows = tuple(map(_latency_row, latency.models))
    return Table("Latency", ("model", "median ms", "10-90 %", "speedup", "10-90 %"), rows)


def padding_table(padding: Mapping[str, float]) -> Table:
    """Return how many times as long each model takes for a padded sample as for a full one."""
    rows = tuple((name, f"{cost:.2f}x") for name, cost in padding.items())
    return Table("Padding", ("model", "padded over full"), rows)


def footprint_table(latency: LatencyReport) -> Table:
    """Return what each model costs besides time."""
    rows: tuple[tuple[str, ...], ...] = tuple(map(_footprint_row, latency.models))
    columns: tuple[str, ...] = ("model", "on disk", "opens in ms", "memory MB", "process MB")
    on_device = [cost.device_bytes if (cost := model.footprint) else None for model in latency.models]
    if any(taken is not None for taken in on_device):
        cells = (NOTHING if taken is None else f"{taken / MEGABYTE:.0f}" for taken in on_device)
        rows = tuple((*row, cell) for row, cell in zip(rows, cells, strict=True))
        columns = (*columns, "device MB")
    return Table("Footprint", columns, rows)


def kernels_table(kernels: KernelReport, limit: int = 12) -> Table:
    """Return one row for each operator that ran, the slowest first, the rest on one row."""
    summary = kernels.summary
    rows = [_kernel_row(row) for row in summary[:limit]]
    if rest := summary[limit:]:
        count, share = sum(row.count for row in rest), sum(row.share for row in rest)
        rows.append((f"{len(rest)} more", "", "", str(count), percent(share)))
    columns = ("kernel", "computes in", "ran on", "nodes", "time")
    return Table("Kernels", columns, tuple(rows), text_columns=3)


def layers_table(provenance: Provenance, limit: int | None = 12) -> Table:
    """Return how each layer of the source ran, those that should not run so first, then the slowest."""
    layers = sorted(provenance.layers, key=lambda layer: (layer.state not in _BAD, -_whole(layer)))
    limit = len(layers) if limit is None else limit
    rows = [_layer_row(layer) for layer in layers[:limit]]
    if rest := layers[limit:]:
        own, converting = sum(layer.share for layer in rest), sum(layer.overhead for layer in rest)
        rows.append((f"{len(rest)} more", "", "", percent(own), percent(converting)))
    return Table("Layers", ("layer", "ran", "in kernel", "time", "Q and DQ"), tuple(rows), text_columns=3)


def layers_summary(provenance: Provenance) -> str:
    """Return one sentence: how many layers ran in which way."""
    counts = ", ".join(f"{count} {state}" for state, count in provenance.states.items() if count)
    untraced = provenance.untraced
    nodes = "1 node" if untraced == 1 else f"{untraced} nodes"
    rest = f" {nodes} could not be traced; each counts to what reads it." if untraced else ""
    return f"Layers of the source: {counts}.{rest}"


def passes_table(passes: Sequence[PassSummary]) -> Table:
    """Return what each pass did, in order."""
    rows = tuple(
        (one.text, _edits(one.edits), str(len(one.skipped)), f"{one.seconds * 1e3:.0f}") for one in passes
    )
    return Table("Passes", ("pass", "what it did", "left alone", "ms"), rows, text_columns=2)


def choices_table(trials: Sequence[Trial]) -> Table:
    """Return the values that were tried, the error of the outputs with each, and what was decided."""
    rows = tuple(
        (
            one.setting,
            number(one.noise, ".3g", "not finite"),
            number(one.largest, ".3g", "not finite"),
            "taken" if one.taken else "left",
        )
        for one in trials
    )
    columns = ("setting", "error power / signal power", "largest error / largest value", "decision")
    return Table("Choices", columns, rows, text_columns=1)


def precision_table(assigned: Sequence[Assigned]) -> Table:
    """Return what was assigned by name and what became of it, with the first names of each kind."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for one in assigned:
        groups.setdefault((one.kind, one.assigned, one.given), []).append(one.name)
    rows = tuple((*group, _first(names), str(len(names))) for group, names in groups.items())
    return Table("Precision by name", ("of", "assigned", "has", "names", "count"), rows, text_columns=4)


def _first(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def frontier_table(points: Sequence[Point]) -> Table:
    """Return what there is to choose from: with how many layers in float how fast, close and large it is."""
    rows = tuple(
        (
            f"{one.parts - one.in_float} of {one.parts}",
            NOTHING if one.speedup is None else f"{one.speedup:.2f}x",
            number(one.sqnr_db, ".1f", "exact"),
            file_size(one.size_bytes),
            f"{one.option}{', as here' if one.kept else ''}",
        )
        for one in points
    )
    return Table("Frontier", ("layers in int8", "speed", "SQNR dB", "size", "option"), rows, text_columns=1)


def tuning_table(verdicts: Sequence[Verdict]) -> Table:
    """Return what was tried to be left out or done otherwise, what that brought, and what was decided."""
    rows = tuple(
        (
            one.name,
            NOTHING if one.gain is None else f"{one.gain:.3f}x",
            NOTHING if one.spread is None else "-".join(f"{end:.2f}" for end in one.spread),
            _decision(one),
        )
        for one in verdicts
    )
    return Table("Tuning", ("form", "speed then", "10-90 %", "decision"), rows, text_columns=1)


def _decision(verdict: Verdict) -> str:
    if verdict.name == GRAPH:
        return "not part of a model"
    if is_variant(verdict.name):
        return "taken" if verdict.dropped else "not taken"
    if verdict.dropped:
        return "left out"
    why = ", for accuracy" if verdict.needed else ", for size" if verdict.faster else ""
    return f"kept{why}"


def reasons_table(passes: Sequence[PassSummary]) -> Table:
    """Return why each pass changed what it changed, one row for each pass, kind of change and reason."""
    rows = tuple((one.name, edit.action, edit.why, str(edit.count)) for one in passes for edit in one.edits)
    return Table("Why", ("pass", "change", "reason", "times"), rows, text_columns=3)


def skipped_table(passes: Sequence[PassSummary]) -> Table:
    """Return the nodes left alone, one row for each pass and kind of reason.

    Reasons that differ in names and numbers are of one kind; those are left out where they differ.
    """
    groups: dict[tuple[str, str], list[Skipped]] = defaultdict(list)
    for one in passes:
        for remark in one.skipped:
            groups[one.name, _kind_of(remark.reason)].append(remark)
    rows = tuple(
        (name, _common(kind, remarks), _operators(remarks), str(len(remarks)))
        for (name, kind), remarks in groups.items()
    )
    return Table("Left alone", ("pass", "reason", "operators", "nodes"), rows, text_columns=3)


def floats_table(left: Sequence[LeftInFloat]) -> Table:
    """Return the weights that are still floats, one row for each operator and reason."""
    rows = tuple((one.operator, one.reason, str(one.nodes), file_size(one.bytes)) for one in left)
    return Table("Weights in float", ("operator", "reason", "nodes", "size"), rows, text_columns=2)


def floats_summary(manifest: Manifest) -> Iterator[str]:
    """Yield one sentence on them, if there are any: how many bytes of the file, and who reads the most."""
    left = manifest.floats
    if left:
        total = sum(one.bytes for one in left)
        part = f"{file_size(total)} of {file_size(manifest.output.size_bytes)}"
        yield f"Weights in float: {part}, most of them of {left[0].operator}: {left[0].reason}."


def session_options(manifest: Manifest) -> Iterator[str]:
    """Yield one sentence if the model's fast kernels ask for session configuration entries."""
    wanted = ", ".join(f"{key}={value}" for key, value in manifest.session_options.items())
    if wanted:
        yield f"Its fast kernels ask for these session configuration entries: {wanted}."


def conditions(latency: LatencyReport) -> str:
    """Return one sentence that says how the times were taken."""
    threads = latency.threads or "as ONNX Runtime chooses"
    lengths = latency.sequence_lengths
    tokens = f", {_either(lengths)} tokens" if lengths else ""
    return (
        f"Timed in one process, interleaved, {latency.rounds} rounds; provider {latency.provider}, "
        f"threads: {threads}, batch {_either(latency.batch_sizes)}{tokens}."
    )


def file_size(size: float) -> str:
    """Return bytes as ``23.3 MB`` or ``1.8 kB``."""
    kilo = size < MEGABYTE
    value = size / (1e3 if kilo else MEGABYTE)
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {'kB' if kilo else 'MB'}"


def percent(share: float | None) -> str:
    """Return a share as ``12.50 %``."""
    return NOTHING if share is None or not math.isfinite(share) else f"{100 * share:.2f} %"


def number(value: float | None, form: str, nothing: str = NOTHING) -> str:
    """Return the number in this form; ``nothing`` for one that is not there, or not finite."""
    return nothing if value is None or not math.isfinite(value) else format(value, form)


def short_name(name: str, limit: int | None = 1) -> str:
    """Return the end of a long name, which tells more than its beginning; all of it if ``limit`` is None."""
    if limit is None:
        return name
    name = name.removesuffix("_output_0")
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"


def _metric_rows(accuracy: AccuracyReport) -> list[tuple[str, ...]]:
    metric = accuracy.metric
    if metric is None:
        return []
    drop = number(0 - metric.drop, "+.2f")
    change = drop if drop == NOTHING else f"{drop} points"
    return [(metric.name, percent(metric.reference), percent(metric.candidate), change)]


def _similarity_rows(accuracy: AccuracyReport) -> list[tuple[str, ...]]:
    cosines = [output.cosine for output in accuracy.outputs if output.cosine is not None]
    agreements = [output.agreement for output in accuracy.outputs if output.agreement is not None]
    equal = [output.equal for output in accuracy.outputs if output.equal is not None]
    rows: list[tuple[str, ...]] = []
    if cosines:
        rows.append(("cosine of the outputs", "", f"{min(cosines):.5f}", ""))
    if agreements:
        rows.append(("same top-1 class", "", percent(min(agreements)), ""))
    if equal:
        rows.append(("equal values", "", percent(min(equal)), ""))
    return rows


def _time_row(before: ModelLatency, after: ModelLatency) -> tuple[str, ...]:
    ratio = after.paired_speedup
    change = f"{ratio.median:.2f}x ({ratio.p10:.2f}-{ratio.p90:.2f})"
    return ("latency", *(f"{_digits(model.latency_ms.median)} ms" for model in (before, after)), change)


def _size_row(before: int, after: int) -> tuple[str, ...]:
    ratio = f"{before / after:.2f}x smaller" if after <= before else f"{after / before:.2f}x larger"
    return "size", file_size(before), file_size(after), ratio


def _output_row(output: OutputAccuracy) -> tuple[str, ...]:
    return (
        output.name,
        number(output.cosine, ".5f"),
        number(output.cosine_min, ".5f"),
        "exact" if output.max_abs == 0 else number(output.sqnr_db, ".1f"),
        number(output.max_abs, ".3g"),
        number(output.scale, ".3g"),
        percent(output.agreement if output.equal is None else output.equal),
    )


def _latency_row(model: ModelLatency) -> tuple[str, ...]:
    time, ratio = model.latency_ms, model.paired_speedup
    return (
        model.name,
        _digits(time.median),
        f"{_digits(time.p10)}-{_digits(time.p90)}",
        f"{ratio.median:.2f}x",
        f"{ratio.p10:.2f}-{ratio.p90:.2f}",
    )


def _footprint_row(model: ModelLatency) -> tuple[str, ...]:
    size, cost = file_size(model.size_bytes), model.footprint
    if cost is None:
        return model.name, size, NOTHING, NOTHING, NOTHING
    memory = (f"{taken / MEGABYTE:.0f}" for taken in (cost.session_bytes, cost.peak_bytes))
    return model.name, size, f"{cost.create_ms:.0f}", *memory


def _kernel_row(row: OpSummary) -> tuple[str, ...]:
    provider = row.provider.removesuffix("ExecutionProvider")
    return row.op_type, row.kind, provider, str(row.count), percent(row.share)


def _layer_row(layer: LayerKernel) -> tuple[str, ...]:
    counts = Counter(layer.kernels).items()
    kernels = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts)
    return layer.name, layer.state, kernels, percent(layer.share), percent(layer.overhead)


def _whole(layer: LayerKernel) -> float:
    return layer.share + layer.overhead


def _either(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _edits(edits: Sequence[Edits]) -> str:
    counts: Counter[str] = Counter()
    for edit in edits:
        counts[edit.action] += edit.count
    return ", ".join(f"{count} x {action}" for action, count in sorted(counts.items())) or "nothing"


def _kind_of(reason: str) -> str:
    """Return the reason without what it says of one node: names in quotes, and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|(?<![\w.])-?\d[\d.]*(e[-+]?\d+)?", "…", reason)


def _common(kind: str, remarks: Sequence[Skipped]) -> str:
    """Return the reason as it was given, if all of them are the same."""
    reasons = {remark.reason for remark in remarks}
    return reasons.pop() if len(reasons) == 1 else kind


def _operators(remarks: Sequence[Skipped]) -> str:
    return ", ".join(sorted({remark.op_type for remark in remarks}))


def _digits(value: float) -> str:
    """Return a time with three digits or more."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"
