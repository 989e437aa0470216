"""Store numbers once that stand in two constants, or in one and its transpose.

Before: ``e = Gather(table, ids); y = MatMul(x, head)`` with ``head`` the transpose of ``table``, as the
weights of a language model's first and last layer are. After: ``y = MatMul(x, Transpose(table))``. ONNX
Runtime computes the Transpose, or the Reshape of what has the same bytes in another shape, when it opens the
file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule, array_of, constant_tensor, tensor_of
from onnxq.ir.stored import StoredTensor
from onnxq.passmanager.base import Effect, Pass, PassContext

SAMPLED = 64
"""So many numbers are compared before all are."""
WHY = "its numbers are stored already"

Kind = tuple[ir.DataType, int]
"""Element type and number of elements."""


@dataclass(frozen=True)
class ShareConstants(Pass):
    """Let constants read what another stores; run it when all are in the form that the file holds.

    Options:
        minimum: Constants of fewer bytes stay: a node takes what they save.

    """

    name: ClassVar[str] = "share-constants"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 4096

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Look only at constants of one type and size; most have no equal."""
        groups: dict[Kind, list[ir.Value]] = defaultdict(list)
        for value in module.graph.initializers.values():
            tensor = constant_tensor(value)
            if tensor is not None and tensor.nbytes >= self.minimum and not value.is_graph_output():
                groups[tensor.dtype, tensor.size].append(value)
        for group in groups.values():
            _share(_at_hand(group), ctx)


def _at_hand(group: list[ir.Value]) -> list[ir.Value]:
    """Leave out what is computed when it is asked for, unless something in memory may be the same."""
    if all(isinstance(tensor_of(value), StoredTensor) for value in group):
        return []
    return group


def _share(group: list[ir.Value], ctx: PassContext) -> None:
    kept: dict[bytes, ir.Value] = {}
    for value in group if len(group) > 1 else []:
        array = array_of(value)
        found = next(_equals(array, kept), None)
        if found is None:
            kept.setdefault(_sample(array), value)
        else:
            ctx.edit.reroute(value, _read(value, *found, ctx), why=WHY)


def _equals(array: NDArray[Any], kept: dict[bytes, ir.Value]) -> Iterator[tuple[ir.Value, bool]]:
    """Yield a constant with the same numbers, and whether in the order of the transpose."""
    same, turned = kept.get(_sample(array)), kept.get(_sample(array.T)) if array.ndim == 2 else None
    if same is not None and np.array_equal(array_of(same).ravel(), array.ravel()):
        yield same, False
    if turned is not None and turned.shape == array.shape[::-1] and np.array_equal(array_of(turned).T, array):
        yield turned, True


def _sample(array: NDArray[Any]) -> bytes:
    """Return the first numbers in the order of the axes."""
    sample: bytes = array.flat[:SAMPLED].tobytes()
    return sample


def _read(value: ir.Value, stored: ir.Value, turned: bool, ctx: PassContext) -> ir.Value:
    """Return what gives ``value``'s numbers of those that are stored."""
    if not turned and stored.shape == value.shape:
        return stored
    op = ctx.edit.behind(stored, why=WHY)
    if turned:
        return op.Transpose(stored, perm=[1, 0], name=f"{value.name}_turned", like=value)
    shape = np.array(array_of(value).shape, np.int64)
    return op.Reshape(stored, shape, name=f"{value.name}_shaped", like=value)
