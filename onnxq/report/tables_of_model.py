"""The tables of ``onnxq inspect`` and ``onnxq doctor``: what is in one model, and what can run here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onnxq.report.tables import (
    NOTHING,
    Table,
    file_size,
    kernels_table,
    layers_table,
    percent,
    reasons_table,
    skipped_table,
)

_OPERANDS = {
    "MatMulIntegerToFloat": ("T1", "T2"),
    "QLinearMatMul": ("T1", "T2"),
    "MatMulInteger": ("T1", "T2"),
    "DynamicQuantizeMatMul": ("T1", "T2"),
    "QGemm": ("TA", "TB"),
    "QLinearConv": ("T1", "T2"),
    "ConvInteger": ("T1", "T2"),
    "QAttention": ("T1", "T2"),
    "Attention": ("T1",),
}
"""Operators worth knowing of, with the type parameters of input and weight."""


def model_tables(content: Mapping[str, Any]) -> list[Table]:
    """Return what is in one model; see ``onnxq.analysis.overview``. Size and bits are there if known."""
    opsets = ", ".join(f"{domain} {version}" for domain, version in content["opsets"].items())
    size = [("size on disk", file_size(content["size_bytes"]))] if "size_bytes" in content else []
    bits = content.get("bits_per_weight")
    facts = [
        *size,
        ("parameters", f"{content['parameters']:,}"),
        *([("bits for each weight of a layer", f"{bits:.2f}")] if bits else []),
        ("IR version, operator sets", f"{content['ir_version']}, {opsets}"),
        ("written by", content["producer"] or NOTHING),
        *((f"input {name}", type_) for name, type_ in content["inputs"].items()),
        *((f"output {name}", type_) for name, type_ in content["outputs"].items()),
    ]
    total = sum(content["bytes_by_dtype"].values()) or 1
    weights = [
        (name, file_size(size), percent(size / total)) for name, size in content["bytes_by_dtype"].items()
    ]
    operators = [(name, str(count)) for name, count in content["operators"].items()]
    values = [_value_row(value) for value in content["quantized"]]
    tables = [
        Table("Model", ("", ""), tuple(facts), 2),
        Table("Weights", ("type", "bytes", "share"), tuple(weights)),
        Table("Operators", ("operator", "count"), tuple(operators)),
        Table("Quantized values", ("value", "kind", "type", "scale", "zero point"), tuple(values), 3),
    ]
    return [table for table in tables if table.rows]


def inspection_tables(content: Mapping[str, Any], limit: int | None = None) -> list[Table]:
    """Return what is in a model; if asked for, its fold sites, what passes would do and which kernels ran."""
    kernels, passes = content.get("kernels"), content.get("passes")
    tables = model_tables(content)
    if passes:
        tables += [replace(reasons_table(passes), title="What exact passes would do"), skipped_table(passes)]
    if kernels:
        tables += [kernels_table(kernels), layers_table(kernels, limit or len(kernels["layers"]))]
    tables = [table for table in tables if table.rows]
    return [*tables, sites_table(content["sites"])] if "sites" in content else tables


def sites_table(sites: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row for each fold site."""
    rows = tuple(
        (
            site["kind"],
            site["value"],
            _first_of(site["layers"]),
            str(site["channels"]),
            "yes" if site["shift"] else NOTHING,
            "a Mul" if site["paid"] else NOTHING,
        )
        for site in sites
    )
    columns = ("fold site", "channels of", "read by layers", "channels", "shift", "costs")
    return Table("Fold sites", columns, rows, text_columns=3)


def available_tables(content: Mapping[str, Any]) -> list[Table]:
    """Return what the installed ONNX Runtime and this processor run; see ``onnxq.runtime.available``."""
    facts = [
        ("highest opset, IR version", f"{content['opset']}, {content['ir_version']}"),
        ("DequantizeLinear reads", ", ".join(_types(content["kernels"], "DequantizeLinear", "T1"))),
        ("products of 8-bit integers", content["products"]),
        ("kernels as listed by", content["source"].partition(",")[0]),
    ]
    rows = [row for name, operands in _OPERANDS.items() for row in _available_rows(content, name, operands)]
    rows += [
        (name, "com.microsoft", "CPU", f"blocks of {', '.join(map(str, bits))} bits")
        for name, bits in content["bits"].items()
    ]
    return [
        Table("Can run", ("what", ""), tuple(facts), 2),
        Table("Integer kernels", ("operator", "domain", "on", "takes"), tuple(rows), 4),
    ]


def _available_rows(
    content: Mapping[str, Any], op_type: str, operands: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield one row for each domain and provider that has the operator."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for kernel in content["kernels"]:
        if kernel["op_type"] == op_type:
            groups[kernel["domain"], kernel["provider"]].append(kernel)
    for (domain, provider), kernels in groups.items():
        since = min(kernel["since"] for kernel in kernels)
        newest = [kernel["types"] for kernel in kernels if kernel["until"] is None]
        takes = dict.fromkeys(" x ".join("/".join(types[name]) for name in operands) for types in newest)
        place = domain or f"standard, {since}+"
        yield op_type, place, provider.removesuffix("ExecutionProvider"), ", ".join(takes)


def _types(kernels: Sequence[Mapping[str, Any]], op_type: str, operand: str) -> list[str]:
    mine = [one for one in kernels if one["op_type"] == op_type and not one["domain"] and not one["until"]]
    return sorted({name for kernel in mine for name in kernel["types"][operand]})


def _value_row(value: Mapping[str, Any]) -> tuple[str, ...]:
    per = "" if value["axis"] is None else f", axis {value['axis']}"
    scales, zeros = ([f"{end:.4g}" for end in value[key]] for key in ("scales", "zero_points"))
    spans = (low if low == high else f"{low}-{high}" for low, high in (scales, zeros))
    return value["name"], value["kind"], f"{value['dtype']}{per}", *spans


def _first_of(names: Sequence[str]) -> str:
    """Return the first name, and how many there are besides."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else NOTHING
