"""The tables of ``onnxq inspect`` and ``onnxq doctor``: what is in one model, and what can run here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnxq.analysis.overview import Overview, QuantizedValue
from onnxq.analysis.sites import Site
from onnxq.inspection import Inspection
from onnxq.ir.module import name_of
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
from onnxq.runtime.available import Available, RegisteredKernel

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


def model_tables(
    found: Overview, size_bytes: int | None = None, bits_per_weight: float | None = None
) -> list[Table]:
    """Return what is in one model; size and bits are there if known."""
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    size = [] if size_bytes is None else [("size on disk", file_size(size_bytes))]
    bits = [("bits for each weight of a layer", f"{bits_per_weight:.2f}")] if bits_per_weight else []
    facts = [
        *size,
        ("parameters", f"{found.parameters:,}"),
        *bits,
        ("IR version, operator sets", f"{found.ir_version}, {opsets}"),
        ("written by", found.producer or NOTHING),
        *((f"input {name}", type_) for name, type_ in found.inputs.items()),
        *((f"output {name}", type_) for name, type_ in found.outputs.items()),
    ]
    total = sum(found.bytes_by_dtype.values()) or 1
    weights = [(name, file_size(size), percent(size / total)) for name, size in found.bytes_by_dtype.items()]
    operators = [(name, str(count)) for name, count in found.operators.items()]
    tables = [
        Table("Model", ("", ""), tuple(facts), 2),
        Table("Weights", ("type", "bytes", "share"), tuple(weights)),
        Table("Operators", ("operator", "count"), tuple(operators)),
        Table(
            "Quantized values",
            ("value", "kind", "type", "scale", "zero point"),
            tuple(map(_value_row, found.quantized)),
            3,
        ),
    ]
    return [table for table in tables if table.rows]


def inspection_tables(found: Inspection, limit: int | None = None) -> list[Table]:
    """Return what is in a model; if asked for, its fold sites, what passes would do and which kernels ran."""
    tables = model_tables(found.overview, found.size_bytes, found.bits_per_weight)
    if found.passes:
        why = replace(reasons_table(found.passes), title="What exact passes would do")
        tables += [why, skipped_table(found.passes)]
    if found.kernels:
        tables += [kernels_table(found.kernels), layers_table(found.kernels.provenance, limit)]
    tables = [table for table in tables if table.rows]
    return tables if found.sites is None else [*tables, sites_table(found.sites)]


def sites_table(sites: Sequence[Site]) -> Table:
    """Return one row for each fold site."""
    rows = tuple(
        (
            site.kind,
            name_of(site.source.value),
            _first_of([consumer.layer.node.name or "" for consumer in site.consumers]),
            str(site.count),
            "yes" if site.shift else NOTHING,
            "a Mul" if site.paid else NOTHING,
        )
        for site in sites
    )
    columns = ("fold site", "channels of", "read by layers", "channels", "shift", "costs")
    return Table("Fold sites", columns, rows, text_columns=3)


def available_tables(found: Available) -> list[Table]:
    """Return what the installed ONNX Runtime and this processor run."""
    facts = [
        ("highest opset, IR version", f"{found.opset}, {found.ir_version}"),
        ("DequantizeLinear reads", ", ".join(_types(found.kernels, "DequantizeLinear", "T1"))),
        ("products of 8-bit integers", found.products),
        ("kernels as listed by", found.source.partition(",")[0]),
    ]
    rows = [
        row for name, operands in _OPERANDS.items() for row in _available_rows(found.kernels, name, operands)
    ]
    rows += [
        (name, "com.microsoft", "CPU", f"blocks of {', '.join(map(str, bits))} bits")
        for name, bits in found.bits.items()
    ]
    return [
        Table("Can run", ("what", ""), tuple(facts), 2),
        Table("Integer kernels", ("operator", "domain", "on", "takes"), tuple(rows), 4),
    ]


def _available_rows(
    registered: Sequence[RegisteredKernel], op_type: str, operands: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield one row for each domain and provider that has the operator."""
    groups: dict[tuple[str, str], list[RegisteredKernel]] = defaultdict(list)
    for kernel in registered:
        if kernel.op_type == op_type:
            groups[kernel.domain, kernel.provider].append(kernel)
    for (domain, provider), kernels in groups.items():
        since = min(kernel.since for kernel in kernels)
        newest = [kernel.types for kernel in kernels if kernel.until is None]
        takes = dict.fromkeys(" x ".join("/".join(types[name]) for name in operands) for types in newest)
        place = domain or f"standard, {since}+"
        yield op_type, place, provider.removesuffix("ExecutionProvider"), ", ".join(takes)


def _types(kernels: Sequence[RegisteredKernel], op_type: str, operand: str) -> list[str]:
    mine = [one for one in kernels if one.op_type == op_type and not one.domain and not one.until]
    return sorted({name for kernel in mine for name in kernel.types[operand]})


def _value_row(value: QuantizedValue) -> tuple[str, ...]:
    per = "" if value.axis is None else f", axis {value.axis}"
    scales, zeros = ([f"{end:.4g}" for end in ends] for ends in (value.scales, value.zero_points))
    spans = (low if low == high else f"{low}-{high}" for low, high in (scales, zeros))
    return value.name, value.kind, f"{value.dtype}{per}", *spans


def _first_of(names: Sequence[str]) -> str:
    """Return the first name, and how many there are besides."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}" if names else NOTHING
