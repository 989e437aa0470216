"""What contradicts itself in a model that opens: types, shapes, and sizes that meet only when it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxq.ir.inference import contradiction, infer_types
from onnxq.ir.module import attribute, input_of, is_standard, name_of

BATCH_NORM_PARAMETERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Place:
    """An axis of an input of a node, both by number."""

    input: int
    axis: int

    def size(self, node: ir.Node) -> int | None:
        """Return how long the axis is; None if that is not known, or there is no such axis."""
        value = input_of(node, self.input)
        sizes = () if value is None or value.shape is None else tuple(value.shape)
        size = sizes[self.axis] if -len(sizes) <= self.axis < len(sizes) else None
        return size if isinstance(size, int) else None

    def text(self, node: ir.Node) -> str:
        """Return how people may call it."""
        return f"axis {self.axis} of {name_of(input_of(node, self.input))!r}"


@dataclass(frozen=True)
class Fit:
    """What an operator demands of two of its axes.

    Args:
        one: An axis.
        other: Another one.
        times: So many times as long as the other has the one to be.
        stretches: Whether the one may be of length 1 as well.

    """

    one: Place
    other: Place
    times: int = 1
    stretches: bool = False

    def misfit(self, node: ir.Node) -> str | None:
        """Return what is wrong with ``node``; None if both fit, or are not known."""
        size, other = self.one.size(node), self.other.size(node)
        if size is None or other is None or size == other * self.times or (self.stretches and size == 1):
            return None
        return (
            f"{node.op_type} {node.name!r} cannot run, as {self.one.text(node)} is of length {size}, "
            f"and {self.other.text(node)} asks for {other * self.times}"
        )


def contradicts_itself(model: ir.Model) -> str | None:
    """Return which node of a model contradicts what is known of its inputs, and why; None if none does.

    ONNX Runtime opens some of these models, and onnx's checker takes them: neither looks at how an old Gemm
    or BatchNormalization fits its weights, or whether a bias fits.

    Args:
        model: The model, in which functions are inlined, and types and shapes inferred.

    """
    with suppress(ValueError):  # what onnx_ir cannot inline is looked at from the outside
        model = InlinePass()(model).model
    return contradiction(model) or next(_misfits(infer_types(model)), None)


def _misfits(model: ir.Model) -> Iterator[str]:
    for node in model.graph.all_nodes():
        for fit in _FITS[node.op_type](node) if is_standard(node, *_FITS) else ():
            if (misfit := fit.misfit(node)) is not None:
                yield misfit


def _gemm(node: ir.Node) -> list[Fit]:
    reads, rows = (0, 1) if attribute(node, "transA", 0) else (1, 0)
    columns, read = (0, 1) if attribute(node, "transB", 0) else (1, 0)
    return [
        Fit(Place(0, reads), Place(1, read)),
        Fit(Place(2, -1), Place(1, columns), stretches=True),
        Fit(Place(2, -2), Place(0, rows), stretches=True),
    ]


def _conv(node: ir.Node) -> list[Fit]:
    groups = attribute(node, "group", 1)
    return [Fit(Place(0, 1), Place(1, 1), groups), Fit(Place(2, 0), Place(1, 0))]


def _conv_transpose(node: ir.Node) -> list[Fit]:
    groups = attribute(node, "group", 1)
    return [Fit(Place(0, 1), Place(1, 0)), Fit(Place(2, 0), Place(1, 1), groups)]


def _batch_norm(node: ir.Node) -> list[Fit]:
    """Compare with the channels, but for parameters of each element, which operator sets before 9 know."""
    by_channel = attribute(node, "spatial", 1)
    return [Fit(Place(index, 0), Place(0, 1)) for index in BATCH_NORM_PARAMETERS if by_channel]


_FITS: dict[str, Callable[[ir.Node], list[Fit]]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
}
