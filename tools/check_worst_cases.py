"""Whether the integer layers of compiled models are exact on processors that add two products up in 16 bits.

For each int8 weight that meets 8-bit activations, each column gets the inputs that push the sums of its pairs
furthest, up and down: 255 where the weight has one sign, 0 where it has the other. VPMADDUBSW is computed as
Intel defines it, two neighbours in 16 bits with saturation, and held against the exact sums: over all orders
in which kernels may read a weight, by channels and by places, from its first row or its second. Needs no such
processor. Exits with 1 if a layer is not exact.

    ONNXQ_PROCESSOR=avx2 onnxq compile MODEL -o OUT.onnx --data DATA
    python tools/check_worst_cases.py OUT.onnx ...
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from measuring import parser, show
from numpy.typing import NDArray

from onnxq.analysis.products import integer_weight
from onnxq.ir.module import attribute
from onnxq.ir.store import load_model

Matrix = NDArray[np.int64]
LOWEST, HIGHEST = -(2**15), 2**15 - 1


def saturating_sums(x: Matrix, weight: Matrix) -> Matrix:
    """Return for each column what VPMADDUBSW and sums of 32 bits make of it."""
    products = x * weight
    if len(products) % 2:
        products = np.append(products, np.zeros_like(products[:1]), axis=0)
    return np.clip(products[::2] + products[1::2], LOWEST, HIGHEST).sum(axis=0)


def as_kernels_read(node: ir.Node, weight: NDArray[np.int8]) -> Iterator[Matrix]:
    """Yield a weight with a column for each output, in every order that a kernel may read its rows in."""
    wide = weight.astype(np.int64)
    if "Conv" in node.op_type:
        orders = [wide.reshape(len(wide), -1).T, np.moveaxis(wide, 1, -1).reshape(len(wide), -1).T]
    elif attribute(node, "transB", 0):
        orders = [wide.T]
    else:
        orders = [wide.reshape(-1, wide.shape[-1])]
    for matrix in orders:
        yield from (matrix, matrix[1:])


def is_exact(node: ir.Node, weight: NDArray[np.int8]) -> bool:
    """Tell whether no input of a layer makes one of its sums another one."""
    return all(
        bool((saturating_sums(x, matrix) == (x * matrix).sum(axis=0)).all())
        for matrix in as_kernels_read(node, weight)
        for x in (255 * (matrix > 0), 255 * (matrix < 0))
    )


def row_of(path: Path) -> dict[str, Any]:
    """Return how many layers a model has in integers, and which of them are not exact."""
    weights = [(node, integer_weight(node)) for node in load_model(path).graph]
    layers = [(node, weight.numpy()) for node, weight in weights if weight is not None]
    wrong = [node.name or node.op_type for node, weight in layers if not is_exact(node, weight)]
    largest = max((int(np.abs(weight.astype(int)).max()) for _, weight in layers), default=0)
    return {
        "model": path.stem,
        "integer layers": len(layers),
        "largest weight": largest,
        "not exact": len(wrong),
        "first of those": wrong[0] if wrong else "-",
    }


def main() -> int:
    options = parser(__doc__)
    options.add_argument("models", nargs="+", type=Path, help="compiled models")
    args = options.parse_args()
    rows = [row_of(path) for path in args.models]
    note = "each column's worst inputs, in every order of its rows; computed, on no particular processor"
    show("Worst cases of integer layers", rows, [note], as_json=args.json)
    return int(any(row["not exact"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
