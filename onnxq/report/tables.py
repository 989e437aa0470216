"""The tables of every report, as plain text cells; the terminal and Markdown only draw them.

They are made from what ``to_dict()`` of the runtime's reports gives, which is also what manifests
and ``--json`` hold. A cell of a number that does not exist is ``-``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "-"
MEGABYTE = 1e6
NAME_LENGTH = 36
_BAD = ("unfused", "elsewhere")


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


def result_table(content: Mapping[str, Any]) -> Table:
    """Return what matters most of a manifest: accuracy, time and size, before and after."""
    accuracy, latency = content["accuracy"], content["latency"]
    rows = [] if accuracy is None else [*_metric_rows(accuracy), *_similarity_rows(accuracy)]
    if latency is not None:
        rows.append(_time_row(*latency["models"][:2]))
    rows.append(_size_row(content["source"]["size_bytes"], content["output"]["size_bytes"]))
    return Table("Result", ("", "before", "after", "change"), tuple(rows))


def metric_table(accuracy: Mapping[str, Any]) -> Table:
    """Return the task metric of both models; no rows if there is none."""
    return Table("Metric", ("", "before", "after", "change"), tuple(_metric_rows(accuracy)))


def accuracy_table(accuracy: Mapping[str, Any]) -> Table:
    """Return one row for each output."""
    columns = ("output", "cosine", "worst sample", "SQNR dB", "largest diff.", "of", "agree")
    return Table("Accuracy", columns, tuple(_output_row(output) for output in accuracy["outputs"]))


def invariance_table(invariance: Mapping[str, Any]) -> Table:
    """Return how far each output moves with batch and padding."""
    rows = tuple(
        (
            output["name"],
            output["verdict"],
            *(_number(output[key], ".3g") for key in ("batch", "padding", "scale")),
        )
        for output in invariance["outputs"]
    )
    columns = ("output", "the result", "in a batch", "padded", "of")
    return Table("Alone, padded and in a batch", columns, rows, text_columns=2)


def latency_table(latency: Mapping[str, Any]) -> Table:
    """Return one row of times for each model."""
    rows = tuple(_latency_row(model) for model in latency["models"])
    return Table("Latency", ("model", "median ms", "10-90 %", "speedup", "10-90 %"), rows)


def footprint_table(latency: Mapping[str, Any]) -> Table:
    """Return what each model costs besides time."""
    rows: tuple[tuple[str, ...], ...] = tuple(_footprint_row(model) for model in latency["models"])
    columns: tuple[str, ...] = ("model", "on disk", "opens in ms", "memory MB", "process MB")
    on_device = [(model["footprint"] or {}).get("device_bytes") for model in latency["models"]]
    if any(taken is not None for taken in on_device):
        cells = (NOTHING if taken is None else f"{taken / MEGABYTE:.0f}" for taken in on_device)
        rows = tuple((*row, cell) for row, cell in zip(rows, cells, strict=True))
        columns = (*columns, "device MB")
    return Table("Footprint", columns, rows)


def kernels_table(kernels: Mapping[str, Any], limit: int = 12) -> Table:
    """Return one row for each operator that ran, the slowest first, the rest on one row."""
    summary = kernels["summary"]
    rows = [_kernel_row(row) for row in summary[:limit]]
    if rest := summary[limit:]:
        count, share = sum(row["count"] for row in rest), sum(row["share"] for row in rest)
        rows.append((f"{len(rest)} more", "", "", str(count), percent(share)))
    columns = ("kernel", "computes in", "ran on", "nodes", "time")
    return Table("Kernels", columns, tuple(rows), text_columns=3)


def layers_table(kernels: Mapping[str, Any], limit: int = 12) -> Table:
    """Return how each layer of the source ran, those that should not run so first, then the slowest."""
    layers = sorted(kernels["layers"], key=lambda layer: (layer["state"] not in _BAD, -_whole(layer)))
    rows = [_layer_row(layer) for layer in layers[:limit]]
    if rest := layers[limit:]:
        own, converting = (sum(layer[key] for layer in rest) for key in ("share", "overhead"))
        rows.append((f"{len(rest)} more", "", "", percent(own), percent(converting)))
    return Table("Layers", ("layer", "ran", "in kernel", "time", "Q and DQ"), tuple(rows), text_columns=3)


def layers_summary(kernels: Mapping[str, Any]) -> str:
    """Return one sentence: how many layers ran in which way."""
    counts = ", ".join(f"{count} {state}" for state, count in kernels["states"].items() if count)
    untraced = kernels["untraced"]
    nodes = "1 node" if untraced == 1 else f"{untraced} nodes"
    rest = f" {nodes} could not be traced; each counts to what reads it." if untraced else ""
    return f"Layers of the source: {counts}.{rest}"


def passes_table(passes: Sequence[Mapping[str, Any]]) -> Table:
    """Return what each pass did, in order."""
    rows = tuple(
        (one["text"], _edits(one["edits"]), str(len(one["skipped"])), f"{one['seconds'] * 1e3:.0f}")
        for one in passes
    )
    return Table("Passes", ("pass", "what it did", "left alone", "ms"), rows, text_columns=2)


def choices_table(trials: Sequence[Mapping[str, Any]]) -> Table:
    """Return the values that were tried, the error of the outputs with each, and what was decided."""
    rows = tuple(
        (
            one["setting"],
            "not finite" if one["noise"] is None else f"{one['noise']:.3g}",
            "not finite" if one["largest"] is None else f"{one['largest']:.3g}",
            "taken" if one["taken"] else "left",
        )
        for one in trials
    )
    columns = ("setting", "error power / signal power", "largest error / largest value", "decision")
    return Table("Choices", columns, rows, text_columns=1)


def tuning_table(verdicts: Sequence[Mapping[str, Any]]) -> Table:
    """Return what was tried to be left out, what that brought, and what was decided."""
    rows = tuple(
        (
            one["name"],
            NOTHING if one["gain"] is None else f"{one['gain']:.3f}x",
            NOTHING if one["spread"] is None else "-".join(f"{end:.2f}" for end in one["spread"]),
            "left out" if one["dropped"] else "kept",
        )
        for one in verdicts
    )
    return Table("Tuning", ("form", "speed without it", "10-90 %", "decision"), rows, text_columns=1)


def reasons_table(passes: Sequence[Mapping[str, Any]]) -> Table:
    """Return why each pass changed what it changed, one row for each pass, kind of change and reason."""
    rows = tuple(
        (one["text"].partition("{")[0], edit["action"], edit["why"], str(edit["count"]))
        for one in passes
        for edit in one["edits"]
    )
    return Table("Why", ("pass", "change", "reason", "times"), rows, text_columns=3)


def skipped_table(passes: Sequence[Mapping[str, Any]]) -> Table:
    """Return the nodes left alone, one row for each pass and kind of reason.

    Reasons that differ in names and numbers are of one kind; those are left out where they differ.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for one in passes:
        for remark in one["skipped"]:
            groups[one["text"].partition("{")[0], _kind_of(remark["reason"])].append(remark)
    rows = tuple(
        (name, _common(kind, remarks), _operators(remarks), str(len(remarks)))
        for (name, kind), remarks in groups.items()
    )
    return Table("Left alone", ("pass", "reason", "operators", "nodes"), rows, text_columns=3)


def session_options(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence if the model's fast kernels ask for session configuration entries."""
    wanted = ", ".join(f"{key}={value}" for key, value in content["session_options"].items())
    if wanted:
        yield f"Its fast kernels ask for these session configuration entries: {wanted}."


def conditions(latency: Mapping[str, Any]) -> str:
    """Return one sentence that says how the times were taken."""
    threads = latency["threads"] or "as ONNX Runtime chooses"
    lengths = latency["sequence_lengths"]
    tokens = f", {_either(lengths)} tokens" if lengths else ""
    return (
        f"Timed in one process, interleaved, {latency['rounds']} rounds; provider {latency['provider']}, "
        f"threads: {threads}, batch {_either(latency['batch_sizes'])}{tokens}."
    )


def file_size(size: float) -> str:
    """Return bytes as ``23.3 MB`` or ``1.8 kB``."""
    kilo = size < MEGABYTE
    value = size / (1e3 if kilo else MEGABYTE)
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {'kB' if kilo else 'MB'}"


def percent(share: float | None) -> str:
    """Return a share as ``12.50 %``."""
    return NOTHING if share is None else f"{100 * share:.2f} %"


def short_name(name: str, limit: int | None = 1) -> str:
    """Return the end of a long name, which tells more than its beginning; all of it if ``limit`` is None."""
    if limit is None:
        return name
    name = name.removesuffix("_output_0")
    return name if len(name) <= NAME_LENGTH else f"…{name[1 - NAME_LENGTH :]}"


def _metric_rows(accuracy: Mapping[str, Any]) -> list[tuple[str, ...]]:
    metric = accuracy["metric"]
    if metric is None:
        return []
    before, after = (percent(metric[model]) for model in ("reference", "candidate"))
    drop = metric["drop_points"]
    return [(metric["name"], before, after, NOTHING if drop is None else f"{0 - drop:+.2f} points")]


def _similarity_rows(accuracy: Mapping[str, Any]) -> list[tuple[str, ...]]:
    outputs = accuracy["outputs"]
    cosines = [output["cosine"] for output in outputs if output["cosine"] is not None]
    agreements = [output["agreement"] for output in outputs if output["agreement"] is not None]
    equal = [output["equal"] for output in outputs if output["equal"] is not None]
    rows: list[tuple[str, ...]] = []
    if cosines:
        rows.append(("cosine of the outputs", "", f"{min(cosines):.5f}", ""))
    if agreements:
        rows.append(("same top-1 class", "", percent(min(agreements)), ""))
    if equal:
        rows.append(("equal values", "", percent(min(equal)), ""))
    return rows


def _time_row(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    spread = after["paired_speedup"]
    ratio = f"{spread['median']:.2f}x ({spread['p10']:.2f}-{spread['p90']:.2f})"
    return ("latency", *(f"{_digits(model['latency_ms']['median'])} ms" for model in (before, after)), ratio)


def _size_row(before: int, after: int) -> tuple[str, ...]:
    ratio = f"{before / after:.2f}x smaller" if after <= before else f"{after / before:.2f}x larger"
    return "size", file_size(before), file_size(after), ratio


def _output_row(output: Mapping[str, Any]) -> tuple[str, ...]:
    agree = output["agreement"] if output["equal"] is None else output["equal"]
    sqnr = "exact" if output["max_abs"] == 0 else _number(output["sqnr_db"], ".1f")
    return (
        output["name"],
        _number(output["cosine"], ".5f"),
        _number(output["cosine_min"], ".5f"),
        sqnr,
        _number(output["max_abs"], ".3g"),
        _number(output["scale"], ".3g"),
        NOTHING if agree is None else percent(agree),
    )


def _latency_row(model: Mapping[str, Any]) -> tuple[str, ...]:
    time, ratio = model["latency_ms"], model["paired_speedup"]
    return (
        model["name"],
        _digits(time["median"]),
        f"{_digits(time['p10'])}-{_digits(time['p90'])}",
        f"{ratio['median']:.2f}x",
        f"{ratio['p10']:.2f}-{ratio['p90']:.2f}",
    )


def _footprint_row(model: Mapping[str, Any]) -> tuple[str, ...]:
    size, cost = file_size(model["size_bytes"]), model["footprint"]
    if cost is None:
        return model["name"], size, NOTHING, NOTHING, NOTHING
    memory = (f"{cost[key] / MEGABYTE:.0f}" for key in ("session_bytes", "peak_bytes"))
    return model["name"], size, f"{cost['create_ms']:.0f}", *memory


def _kernel_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    provider = row["provider"].removesuffix("ExecutionProvider")
    return row["op_type"], row["kind"], provider, str(row["count"]), percent(row["share"])


def _layer_row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    counts = Counter(layer["kernels"]).items()
    kernels = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts)
    return layer["name"], layer["state"], kernels, percent(layer["share"]), percent(layer["overhead"])


def _whole(layer: Mapping[str, Any]) -> float:
    return float(layer["share"] + layer["overhead"])


def _either(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _edits(edits: Sequence[Mapping[str, Any]]) -> str:
    counts: Counter[str] = Counter()
    for edit in edits:
        counts[edit["action"]] += edit["count"]
    return ", ".join(f"{count} x {action}" for action, count in sorted(counts.items())) or "nothing"


def _kind_of(reason: str) -> str:
    """Return the reason without what it says of one node: names in quotes, and numbers."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|(?<![\w.])-?\d[\d.]*(e[-+]?\d+)?", "…", reason)


def _common(kind: str, remarks: Sequence[Mapping[str, Any]]) -> str:
    """Return the reason as it was given, if all of them are the same."""
    reasons = {remark["reason"] for remark in remarks}
    return reasons.pop() if len(reasons) == 1 else kind


def _operators(remarks: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted(Counter(remark["op_type"] for remark in remarks)))


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _digits(value: float) -> str:
    """Return a time with three digits or more."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"
