"""Rounding to a grid as one operator of our own while gradients are made: FakeQuantize(x, scale, offset).

It is ``round(clip(x / scale, low - z, high - z)) * scale`` with ``z = round(offset)``, or 0 without one. The
gradients of what it is made of would add up to these, with more nodes over all of x; ``written_out`` puts
standard operators in its place afterwards.

Sources:
    Esser et al., 2020, arXiv:1902.08153 (LSQ); Bhalgat et al., 2020, arXiv:2004.09576 (LSQ+, offsets).

"""

from __future__ import annotations

import onnx_ir as ir

from onnxq.autodiff.step import Rule, Step, of_inputs
from onnxq.autodiff.term import Term
from onnxq.ir.module import GraphModule, attribute, input_of
from onnxq.rewrite.builder import Builder
from onnxq.rewrite.edit import Editor

DOMAIN, NAME, WHY = "onnxq", "FakeQuantize", "written out"


def fake_quantize(
    x: Term, scale: Term, offset: Term | None, limits: tuple[float, float], name: str = ""
) -> Term:
    """Return x on a grid.

    Args:
        x: Of any shape.
        scale: Broadcasts against it.
        offset: Likewise; None for 0.
        limits: The smallest and the largest integer.
        name: What the value is called.

    """
    zero = None if offset is None else offset.value
    bounds = {"low": float(limits[0]), "high": float(limits[1])}
    found = x.op(NAME, x.value, scale.value, zero, domain=DOMAIN, like=x.value, name=name, **bounds)
    return Term(x.op, found)


def written_out(module: GraphModule) -> None:
    """Put standard operators in the place of every one of ours."""
    edit = Editor(module)
    for node in [one for one in module.graph if one.domain == DOMAIN]:
        with edit.at(node, why=WHY) as op:
            _, held = _parts(node, op)
            found = (held.Round() * _input(node, 1, op)).value
        edit.replace(node.outputs[0], found, why=WHY)
        edit.remove(node, why=WHY)


def _parts(node: ir.Node, op: Builder) -> tuple[Term, Term]:
    """Return x in steps of the scale, and the same held within the grid."""
    steps = _input(node, 0, op) / _input(node, 1, op)
    low, high = (steps.number(attribute(node, name, 0.0)) for name in ("low", "high"))
    if input_of(node, 2) is not None:
        zero = _input(node, 2, op).Round()
        low, high = low - zero, high - zero
    is_scalar = not (_input(node, 1, op).value.shape or ())
    return steps, steps.Clip(low, high) if is_scalar else steps.Max(low).Min(high)


def _input(node: ir.Node, index: int, op: Builder) -> Term:
    value = node.inputs[index]
    assert value is not None
    return Term(op, value)


def _inside(s: Step) -> Term:
    """Return the gradient where nothing saturates."""
    steps, held = _parts(s.node, s.op)
    return s.g.masked(steps.Equal(held))


def _of_scale(s: Step) -> Term:
    """Return ``g (q - i x / scale)``, with q for the integers and i for where nothing saturates."""
    total = s.summed(s.g * s.y, 1) - s.summed(s.once(_inside) * s.x, 1)
    return total / s[1]


def _of_offset(s: Step) -> Term:
    """Return ``- scale g`` where something saturates."""
    return (s.summed(s.once(_inside), 2) - s.summed(s.g, 2)) * s[1]


RULE: Rule = of_inputs(lambda s: s.once(_inside), _of_scale, _of_offset)
