"""The tables of ``onnxq diff``, from what ``ModelDiff.to_dict()`` gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxq.report.tables import NOTHING, Table, file_size, short_name

LIMIT = 12
SMALL = 1000
"""Constants of fewer bytes are only counted where tables are cut."""

_MICRO = 1e3


def diff_tables(content: Mapping[str, Any], limit: int | None = LIMIT) -> list[Table]:
    """Return what a reader wants to know first; long tables are cut after ``limit`` rows."""
    tables = [models_table(content), patterns_table(content, limit), encodings_table(content, limit)]
    tables += [constants_table(content, side, limit) for side in ("removed", "added")]
    if content["measured"]:
        tables += [entering_table(content, limit), growth_table(content, limit)]
    return [table for table in tables if table.rows]


def diff_facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what to see at a glance: a word and a value each."""
    before, after = content["before"], content["after"]
    products = content["counterparts"]
    counts = ", ".join(f"{count} {kind}" for kind, count in content["counts"].items() if count)
    facts = [
        ("size", f"{file_size(before['size_bytes'])} → {file_size(after['size_bytes'])}"),
        ("nodes", f"{before['nodes']} → {after['nodes']}"),
        ("parts", counts),
        ("products found again", f"{sum(bool(one['after']) for one in products)} of {len(products)}"),
    ]
    if content["measured"] and content["measured"]["errors"]:
        last = content["measured"]["errors"][-1]
        facts.append(
            (f"SQNR of {last['value']}", "equal" if last["sqnr_db"] is None else f"{last['sqnr_db']:.1f} dB")
        )
        facts.append(
            ("kernel time", " → ".join(_milliseconds(content, side) for side in ("before", "after")))
        )
    return facts


def models_table(content: Mapping[str, Any]) -> Table:
    """Return both models side by side."""
    before, after = content["before"], content["after"]
    products = content["counterparts"]
    aligned = sum(bool(one["after"]) for one in products)
    rows: list[tuple[str, ...]] = [
        ("size", file_size(before["size_bytes"]), file_size(after["size_bytes"])),
        ("nodes", str(before["nodes"]), str(after["nodes"])),
        ("operator sets", _opsets(before), _opsets(after)),
        *_bytes_rows(before["bytes_by_dtype"], after["bytes_by_dtype"]),
        ("matrix products, convolutions", str(len(products)), f"{aligned} found again"),
    ]
    if content["measured"]:
        rows.append(("kernel time", *(_milliseconds(content, side) for side in ("before", "after"))))
    return Table("Models", ("", before["name"], after["name"]), tuple(rows), 1)


def patterns_table(content: Mapping[str, Any], limit: int | None = None) -> Table:
    """Return one row for each way in which nodes changed."""
    timed = bool(content["measured"])
    rows = [_pattern_row(row, timed=timed) for row in content["patterns"]]
    if same := content["counts"]["same"]:
        rows.append((f"{same} x", "same", "", *([""] if timed else []), ""))
    columns = ("times", "change", "operators", *(["kernel ms"] if timed else []), "weights")
    return Table("Changes", columns, _cut(rows, limit), 3)


def encodings_table(content: Mapping[str, Any], limit: int | None = None) -> Table:
    """Return tensors that differ by the way in which they do, with one example each."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for pair in content["tensors"]:
        key = pair["kind"], stored_as(pair["before"]), stored_as(pair["after"]), ", ".join(pair["differs"])
        groups.setdefault(key, []).append(pair)
    rows = [
        (
            str(len(pairs)),
            kind,
            f"{before} -> {after}" if before != after else f"{before}: {differs}",
            short_name(pairs[0]["before"]["name"], limit),
        )
        for (kind, before, after, differs), pairs in groups.items()
    ]
    if content["equal_tensors"]:
        rows.append((str(content["equal_tensors"]), "", "equal", ""))
    return Table("Tensors", ("", "kind", "stored and read as", "such as"), _cut(rows, limit), 4)


def tensors_table(content: Mapping[str, Any], limit: int | None = None) -> Table:
    """Return one row for each tensor that differs, with its encodings."""
    rows = [
        (
            pair["before"]["name"],
            pair["kind"],
            ", ".join(pair["differs"]),
            _full(pair["before"]),
            _full(pair["after"]),
            NOTHING if pair["likeness"] is None else f"{pair['likeness']:.5f}",
            str(pair["before"]["bytes"]),
            str(pair["after"]["bytes"]),
        )
        for pair in content["tensors"]
    ]
    columns = ("tensor", "kind", "differs in", "before", "after", "cosine", "bytes before", "bytes after")
    return Table("Tensors that differ", columns, _cut(rows, limit), 5)


def constants_table(content: Mapping[str, Any], side: str, limit: int | None = None) -> Table:
    """Return the constants that only one model has; ``side`` is ``removed`` or ``added``."""
    constants = content[f"{side}_constants"]
    rows = [
        (short_name(one["name"], limit), f"{one['dtype']}{list(one['shape'])}", file_size(one["bytes"]))
        for one in constants
        if limit is None or one["bytes"] >= SMALL
    ]
    shown = list(_cut(rows, limit and limit // 2))
    if small := len(constants) - len(rows):
        shown.append((f"{small} of less than {file_size(SMALL)}", "", ""))
    which = content["before" if side == "removed" else "after"]["name"]
    return Table(f"Constants of {which} alone", ("constant", "type", "bytes"), tuple(shown), 2)


def entering_table(content: Mapping[str, Any], limit: int | None = None) -> Table:
    """Return where error enters: the changes whose noise is most above that of their inputs."""
    changes = content["changes"]
    errors = [error for error in content["measured"]["errors"] if error["sqnr_db"] is not None]
    exact = [error for error in errors if error["entered_db"] is None]
    grown = sorted((e for e in errors if e["entered_db"] is not None), key=lambda e: -e["entered_db"])
    rows = [_error_row(error, changes[error["change"]], limit) for error in (*exact, *grown)]
    columns = ("value", "computed by", "inputs dB", "SQNR dB", "lost dB")
    return Table("Where error enters", columns, _cut(rows, limit), 2)


def growth_table(content: Mapping[str, Any], limit: int | None = None) -> Table:
    """Return the error of aligned values in the order of the graph; with a limit, evenly chosen ones."""
    errors: Sequence[Mapping[str, Any]] = content["measured"]["errors"]
    if limit and len(errors) > limit:
        step = (len(errors) - 1) / (limit - 1)
        errors = [errors[round(place * step)] for place in range(limit)]
    rows = tuple(
        (
            short_name(error["value"], limit),
            _digits(error["cosine"], ".5f"),
            "exact" if error["max_abs"] == 0 else _digits(error["sqnr_db"], ".1f"),
            _digits(error["max_abs"], ".3g"),
            _digits(error["scale"], ".3g"),
        )
        for error in errors
    )
    return Table("How error grows", ("value", "cosine", "SQNR dB", "largest diff.", "of"), rows)


def changes_table(content: Mapping[str, Any]) -> Table:
    """Return one row for each change, unchanged parts left out."""
    rows = tuple(
        (
            str(change["id"]),
            change["kind"],
            change["pattern"],
            change["value"] or "",
            change["how"],
            str(change["bytes_before"]),
            str(change["bytes_after"]),
            *(_digits(change[f"microseconds_{side}"], ".1f") for side in ("before", "after")),
        )
        for change in content["changes"]
        if change["kind"] != "same"
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


def stored_as(tensor: Mapping[str, Any]) -> str:
    """Return type and granularity of a tensor, such as ``int8 per channel``."""
    grid = tensor["grid"]
    if grid is None:
        return str(tensor["dtype"])
    per = "" if grid["granularity"] == "tensor" else f" per {grid['granularity']}"
    dynamic = "" if grid["scale"] else ", scale at run time"
    own = "" if tensor["dtype"] == grid["dtype"] else f"{tensor['dtype']} as "
    return f"{own}{grid['dtype']}{per}{dynamic}"


def _full(tensor: Mapping[str, Any]) -> str:
    shape = "" if tensor["shape"] is None else f"[{', '.join(map(str, tensor['shape']))}] "
    grid = tensor["grid"]
    if grid is None or grid["scale"] is None:
        return f"{shape}{stored_as(tensor)}"
    low, high = grid["scale"]
    scale = f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"
    zeros = grid["zero_point"] or (0, 0)
    zero = f"{zeros[0]}" if zeros[0] == zeros[1] else f"{zeros[0]}-{zeros[1]}"
    return f"{shape}{stored_as(tensor)}, scale {scale}, zero point {zero}"


def _opsets(side: Mapping[str, Any]) -> str:
    return ", ".join(f"{domain} {version}" for domain, version in side["opsets"].items())


def _bytes_rows(before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    for dtype in dict.fromkeys((*before, *after)):
        if max(before.get(dtype, 0), after.get(dtype, 0)) >= 1000:
            yield (
                f"{dtype} weights",
                *(file_size(one[dtype]) if dtype in one else NOTHING for one in (before, after)),
            )


def _milliseconds(content: Mapping[str, Any], side: str) -> str:
    total = sum(change[f"microseconds_{side}"] or 0 for change in content["changes"])
    share = content["measured"][f"untraced_{side}"]
    return f"{total / _MICRO / max(1 - share, 1e-9):.2f} ms"


def _pattern_row(row: Mapping[str, Any], *, timed: bool) -> tuple[str, ...]:
    times = [row[f"microseconds_{side}"] for side in ("before", "after")]
    time = [" -> ".join("-" if one is None else f"{one / _MICRO:.2f}" for one in times)] if timed else []
    sizes = [row["bytes_before"], row["bytes_after"]]
    size = " -> ".join(map(file_size, sizes)) if sizes[0] != sizes[1] else ""
    return f"{row['count']} x", row["kind"], row["pattern"], *time, size


def _error_row(error: Mapping[str, Any], change: Mapping[str, Any], limit: int | None) -> tuple[str, ...]:
    inputs = "exact" if error["input_sqnr_db"] is None else f"{error['input_sqnr_db']:.1f}"
    lost = "all" if error["entered_db"] is None else f"{error['entered_db']:.1f}"
    pattern = change["pattern"].rpartition(" -> ")[2] if limit else change["pattern"]
    return short_name(error["value"], limit), pattern, inputs, f"{error['sqnr_db']:.1f}", lost


def _cut(rows: Sequence[tuple[str, ...]], limit: int | None) -> tuple[tuple[str, ...], ...]:
    if limit is None or len(rows) <= limit:
        return tuple(rows)
    blank = [""] * (len(rows[0]) - 1)
    return (*rows[: limit - 1], (f"{len(rows) - limit + 1} more", *blank))


def _digits(number: float | None, form: str) -> str:
    return NOTHING if number is None else format(number, form)
