"""How much of a model's weights is in a narrow type, and who reads the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.module import GraphModule, attribute

WIDE = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
INDICES = frozenset({ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING})
"""Types of shapes, axes and flags, which are no weights."""

GRIDS = ("QuantizeLinear", "DequantizeLinear")
"""What floats that these read say of a grid is no weight either."""


@dataclass(frozen=True)
class WeightShare:
    """What became of the weights.

    Args:
        quantized: How many numbers are in integers or in float8.
        wide: How many are in wider floats.
        readers: Of the latter by the operator that reads them: how many, and the names of the nodes.

    """

    quantized: int
    wide: int
    readers: Mapping[str, tuple[int, tuple[str, ...]]]

    @property
    def share(self) -> float:
        """The part that is quantized, 0 to 1; 1 where there are no weights."""
        total = self.quantized + self.wide
        return self.quantized / total if total else 1.0


def weight_share(module: GraphModule) -> WeightShare:
    """Count the numbers in the constants of all graphs; packed ones are counted one by one."""
    quantized = wide = 0
    counts: dict[str, int] = defaultdict(int)
    names: dict[str, list[str]] = defaultdict(list)
    for value in _constants(module):
        reader = next(iter(value.consumers()), None)
        if value.dtype in WIDE and reader is not None and reader.op_type in GRIDS:
            continue
        size = _numbers(value, reader)
        if value.dtype not in WIDE:
            quantized += size
            continue
        wide += size
        if reader is not None:
            counts[reader.op_type] += size
            names[reader.op_type].append(reader.name or "")
    readers = {kind: (counts[kind], tuple(dict.fromkeys(names[kind]))) for kind in sorted(counts)}
    return WeightShare(quantized, wide, readers)


def _constants(module: GraphModule) -> Iterator[ir.Value]:
    for graph in module.model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and value.dtype not in INDICES:
                yield value


def _numbers(value: ir.Value, reader: ir.Node | None) -> int:
    size = int(value.const_value.size) if value.const_value is not None else 0
    packed = reader is not None and value.dtype == ir.DataType.UINT8 and "bits" in reader.attributes
    return size * (8 // int(attribute(reader, "bits", 8))) if packed and reader is not None else size
