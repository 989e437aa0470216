"""The tables of ``onnxq diff``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from onnxq.diff.result import ChangeRow, Measured, ModelDiff, Pattern, Side, TensorError
from onnxq.diff.tensors import Initializer, Tensor, TensorPair
from onnxq.report.tables import NOTHING, Table, file_size, number, short_name

LIMIT = 12
SMALL = 1000
"""Constants of fewer bytes are only counted where tables are cut."""

_MICRO = 1e3


def diff_tables(diff: ModelDiff, limit: int | None = LIMIT) -> list[Table]:
    """Return what a reader wants to know first; long tables are cut after ``limit`` rows."""
    tables = [models_table(diff), patterns_table(diff, limit), encodings_table(diff, limit)]
    tables += [
        constants_table(diff.before, diff.removed_constants, limit),
        constants_table(diff.after, diff.added_constants, limit),
    ]
    if diff.measured:
        tables += [
            entering_table(diff.measured.errors, diff.changes, limit),
            growth_table(diff.measured.errors, limit),
        ]
    return [table for table in tables if table.rows]


def diff_facts(diff: ModelDiff) -> list[tuple[str, str]]:
    """Return what to see at a glance: a word and a value each."""
    before, after = diff.before, diff.after
    counts = ", ".join(f"{count} {kind}" for kind, count in diff.counts.items() if count)
    facts = [
        ("size", f"{file_size(before.size_bytes)} → {file_size(after.size_bytes)}"),
        ("nodes", f"{before.nodes} → {after.nodes}"),
        ("parts", counts),
        ("products found again", f"{_found_again(diff)} of {len(diff.counterparts)}"),
    ]
    if diff.measured and diff.measured.errors:
        last = diff.measured.errors[-1]
        noise = number(last.sqnr_db, ".1f", "equal")
        facts.append((f"SQNR of {last.value}", noise if noise == "equal" else f"{noise} dB"))
        facts.append(("kernel time", " → ".join(_kernel_times(diff, diff.measured))))
    return facts


def models_table(diff: ModelDiff) -> Table:
    """Return both models side by side."""
    before, after = diff.before, diff.after
    rows: list[tuple[str, ...]] = [
        ("size", file_size(before.size_bytes), file_size(after.size_bytes)),
        ("nodes", str(before.nodes), str(after.nodes)),
        ("operator sets", _opsets(before), _opsets(after)),
        *_bytes_rows(before.bytes_by_dtype, after.bytes_by_dtype),
        ("matrix products, convolutions", str(len(diff.counterparts)), f"{_found_again(diff)} found again"),
    ]
    if diff.measured:
        rows.append(("kernel time", *_kernel_times(diff, diff.measured)))
    return Table("Models", ("", before.name, after.name), tuple(rows), 1)


def patterns_table(diff: ModelDiff, limit: int | None = None) -> Table:
    """Return one row for each way in which nodes changed."""
    timed = diff.measured is not None
    rows = [_pattern_row(row, timed=timed) for row in diff.patterns]
    if same := diff.counts["same"]:
        rows.append((f"{same} x", "same", "", *([""] if timed else []), ""))
    columns = ("times", "change", "operators", *(["kernel ms"] if timed else []), "weights")
    return Table("Changes", columns, _cut(rows, limit), 3)


def encodings_table(diff: ModelDiff, limit: int | None = None) -> Table:
    """Return tensors that differ by the way in which they do, with one example each."""
    groups: dict[tuple[str, ...], list[TensorPair]] = {}
    for pair in diff.tensors:
        key = pair.kind, stored_as(pair.before), stored_as(pair.after), ", ".join(pair.differs)
        groups.setdefault(key, []).append(pair)
    rows = [
        (
            str(len(pairs)),
            kind,
            f"{before} -> {after}" if before != after else f"{before}: {differs}",
            short_name(pairs[0].before.name, limit),
        )
        for (kind, before, after, differs), pairs in groups.items()
    ]
    if diff.equal_tensors:
        rows.append((str(diff.equal_tensors), "", "equal", ""))
    return Table("Tensors", ("", "kind", "stored and read as", "such as"), _cut(rows, limit), 4)


def tensors_table(diff: ModelDiff, limit: int | None = None) -> Table:
    """Return one row for each tensor that differs, with its encodings."""
    rows = [
        (
            pair.before.name,
            pair.kind,
            ", ".join(pair.differs),
            _full(pair.before),
            _full(pair.after),
            number(pair.likeness, ".5f"),
            str(pair.before.bytes),
            str(pair.after.bytes),
        )
        for pair in diff.tensors
    ]
    columns = ("tensor", "kind", "differs in", "before", "after", "cosine", "bytes before", "bytes after")
    return Table("Tensors that differ", columns, _cut(rows, limit), 5)


def constants_table(model: Side, constants: Sequence[Initializer], limit: int | None = None) -> Table:
    """Return the constants that only this model has."""
    rows = [
        (short_name(one.name, limit), f"{one.dtype}{list(one.shape)}", file_size(one.bytes))
        for one in constants
        if limit is None or one.bytes >= SMALL
    ]
    shown = list(_cut(rows, limit and limit // 2))
    if small := len(constants) - len(rows):
        shown.append((f"{small} of less than {file_size(SMALL)}", "", ""))
    return Table(f"Constants of {model.name} alone", ("constant", "type", "bytes"), tuple(shown), 2)


def entering_table(
    errors: Sequence[TensorError], changes: Sequence[ChangeRow], limit: int | None = None
) -> Table:
    """Return where error enters: the changes whose noise is most above that of their inputs."""
    noisy = [error for error in errors if _is_finite(error.sqnr_db)]
    exact = [error for error in noisy if error.entered_db is None]
    grown = sorted((error for error in noisy if error.entered_db is not None), key=_least_entered)
    rows = [_error_row(error, changes[error.change], limit) for error in (*exact, *grown)]
    columns = ("value", "computed by", "inputs dB", "SQNR dB", "lost dB")
    return Table("Where error enters", columns, _cut(rows, limit), 2)


def growth_table(errors: Sequence[TensorError], limit: int | None = None) -> Table:
    """Return the error of aligned values in the order of the graph; with a limit, evenly chosen ones."""
    if limit and len(errors) > limit:
        step = (len(errors) - 1) / (limit - 1)
        errors = [errors[round(place * step)] for place in range(limit)]
    rows = tuple(
        (
            short_name(error.value, limit),
            number(error.cosine, ".5f"),
            "exact" if error.max_abs == 0 else number(error.sqnr_db, ".1f"),
            number(error.max_abs, ".3g"),
            number(error.scale, ".3g"),
        )
        for error in errors
    )
    return Table("How error grows", ("value", "cosine", "SQNR dB", "largest diff.", "of"), rows)


def changes_table(diff: ModelDiff) -> Table:
    """Return one row for each change, unchanged parts left out."""
    rows = tuple(
        (
            str(change.id),
            change.kind,
            change.pattern,
            change.value or "",
            change.how,
            str(change.bytes_before),
            str(change.bytes_after),
            number(change.microseconds_before, ".1f"),
            number(change.microseconds_after, ".1f"),
        )
        for change in diff.changes
        if change.kind != "same"
    )
    columns = (
        "id",
        "change",
        "operators",
        "value",
        "aligned by",
        "bytes before",
        "after",
        "us before",
        "after",
    )
    return Table("All changes", columns, rows, 5)


def stored_as(tensor: Tensor) -> str:
    """Return type and granularity of a tensor, such as ``int8 per channel``."""
    grid = tensor.grid
    if grid is None:
        return tensor.dtype
    per = "" if grid.granularity == "tensor" else f" per {grid.granularity}"
    dynamic = "" if grid.scale else ", scale at run time"
    own = "" if tensor.dtype == grid.dtype else f"{tensor.dtype} as "
    return f"{own}{grid.dtype}{per}{dynamic}"


def _full(tensor: Tensor) -> str:
    shape = "" if tensor.shape is None else f"[{', '.join(map(str, tensor.shape))}] "
    grid = tensor.grid
    if grid is None or grid.scale is None:
        return f"{shape}{stored_as(tensor)}"
    low, high = grid.scale
    scale = f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"
    zeros = grid.zero_point or (0, 0)
    zero = f"{zeros[0]}" if zeros[0] == zeros[1] else f"{zeros[0]}-{zeros[1]}"
    return f"{shape}{stored_as(tensor)}, scale {scale}, zero point {zero}"


def _opsets(side: Side) -> str:
    return ", ".join(f"{domain} {version}" for domain, version in side.opsets.items())


def _bytes_rows(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    for dtype in dict.fromkeys((*before, *after)):
        if max(before.get(dtype, 0), after.get(dtype, 0)) >= 1000:
            yield (
                f"{dtype} weights",
                *(file_size(one[dtype]) if dtype in one else NOTHING for one in (before, after)),
            )


def _found_again(diff: ModelDiff) -> int:
    return len(diff.counterparts) - len(diff.unaligned)


def _kernel_times(diff: ModelDiff, measured: Measured) -> tuple[str, str]:
    """Return the time of all kernels of both models, that of those which could not be traced included."""
    before = sum(change.microseconds_before or 0 for change in diff.changes)
    after = sum(change.microseconds_after or 0 for change in diff.changes)
    return _whole(before, measured.untraced_before), _whole(after, measured.untraced_after)


def _whole(microseconds: float, untraced: float) -> str:
    return f"{microseconds / _MICRO / max(1 - untraced, 1e-9):.2f} ms"


def _pattern_row(row: Pattern, *, timed: bool) -> tuple[str, ...]:
    times = (row.microseconds_before, row.microseconds_after)
    time = [" -> ".join("-" if one is None else f"{one / _MICRO:.2f}" for one in times)] if timed else []
    sizes = (row.bytes_before, row.bytes_after)
    size = " -> ".join(map(file_size, sizes)) if sizes[0] != sizes[1] else ""
    return f"{row.count} x", row.kind, row.pattern, *time, size


def _error_row(error: TensorError, change: ChangeRow, limit: int | None) -> tuple[str, ...]:
    inputs = number(error.input_sqnr_db, ".1f", "exact")
    lost = number(error.entered_db, ".1f", "all")
    pattern = change.pattern.rpartition(" -> ")[2] if limit else change.pattern
    return short_name(error.value, limit), pattern, inputs, number(error.sqnr_db, ".1f"), lost


def _least_entered(error: TensorError) -> float:
    return -(error.entered_db or 0.0)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _cut(rows: Sequence[tuple[str, ...]], limit: int | None) -> tuple[tuple[str, ...], ...]:
    if limit is None or len(rows) <= limit:
        return tuple(rows)
    blank = [""] * (len(rows[0]) - 1)
    return (*rows[: limit - 1], (f"{len(rows) - limit + 1} more", *blank))
