"""Write an Einsum that is a product with a constant as MatMul, which has kernels on integers.

Before: ``y = Einsum<"btd,dhk->bthk">(x, w)``, as Keras and Flax write projections. After: ``y =
Reshape(MatMul(x, w'), [0, 0, h, k])`` with ``w'`` the same numbers as a matrix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule, array_of, attribute, constant_tensor, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext

EQUATION = re.compile(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)")
WHY = "a product with a matrix"


@dataclass(frozen=True)
class Product:
    """An Einsum of a value and a constant, which sums over the last axes of the value.

    Args:
        value: What is multiplied.
        matrix: The constant, of shape (summed, given).
        summed: How many of the last axes of ``value`` are summed over.
        kept: How many of its first axes the result has.
        given: The lengths of the axes behind those.

    """

    value: ir.Value
    matrix: NDArray[np.float32]
    summed: int
    kept: int
    given: tuple[int, ...]


@dataclass(frozen=True)
class UnfuseEinsum(Pass):
    """Write out each Einsum whose sums run over the last axes of one input and any axes of a constant."""

    name: ClassVar[str] = "unfuse-einsum"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave alone what multiplies two values, or orders its axes in another way."""
        for node in list(module.graph):
            if not is_standard(node, "Einsum"):
                continue
            product = _product_of(node)
            if isinstance(product, str):
                ctx.skip(node, product)
            else:
                _write_out(node, product, ctx)


def _product_of(node: ir.Node) -> Product | str:
    found = EQUATION.fullmatch(str(attribute(node, "equation", "")).replace(" ", ""))
    if found is None or len(node.inputs) != 2:
        return "it is no sum of products of two"
    constants = [index for index, value in enumerate(node.inputs) if constant_tensor(value) is not None]
    if len(constants) != 1:
        return "neither of its inputs is a constant, or both are"
    constant = constants[0]
    value, weight, result = node.inputs[1 - constant], found[constant + 1], found[3]
    read = found[2 - constant]
    summed = [letter for letter in read if letter not in result]
    given = result.removeprefix(read[: len(read) - len(summed)])
    is_product = (
        value is not None
        and len(set(read)) == len(read)
        and sorted(weight) == sorted([*summed, *given])
        and read.endswith("".join(summed))
        and len(given) == len(result) - len(read) + len(summed)
    )
    if not (is_product and summed and given and value is not None):
        return "its axes are not those of a product with a matrix"
    order = [weight.index(letter) for letter in (*summed, *given)]
    array = array_of(node.inputs[constant]).transpose(order)
    lengths = array.shape[len(summed) :]
    matrix = array.reshape(prod(array.shape[: len(summed)]), prod(lengths))
    return Product(value, matrix, len(summed), len(read) - len(summed), lengths)


def _write_out(node: ir.Node, product: Product, ctx: PassContext) -> None:
    op, value = ctx.edit.at(node, why=WHY), product.value
    same = [0] * product.kept
    if product.summed > 1:
        value = op.Reshape(value, np.array([*same, len(product.matrix)], np.int64))
    name = f"{name_of(node.outputs[0])}_matrix"
    result = op.MatMul(value, op.constant(name, product.matrix))
    if len(product.given) > 1:
        result = op.Reshape(result, np.array([*same, *product.given], np.int64))
    ctx.edit.replace(node.outputs[0], result, why=WHY)
    ctx.edit.remove(node, why=WHY)
