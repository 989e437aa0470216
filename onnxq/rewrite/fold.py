"""Folding a scale and a shift of each channel into the constants around a fold site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.channels import Operand
from onnxq.analysis.endpoints import Consumer, Factor, Place, summand_bias
from onnxq.analysis.sites import Site
from onnxq.errors import PreconditionError
from onnxq.ir.module import input_of, name_of
from onnxq.rewrite.edit import Editor

Doubles = NDArray[np.float64]


def fold(
    site: Site, scale: NDArray[Any], edit: Editor, *, shift: NDArray[Any] | None = None, why: str
) -> None:
    """Let the channels ``x`` of a site become ``(x - shift) / scale``; the model computes what it did.

    Constants are changed on copies, so that their other readers keep them. Factors that are powers of two
    change no bit of any output, short of overflow; others change outputs by float32 rounding. The values of
    the site get new names, and their facts move with them.

    Args:
        site: One of ``find_sites``, of the module that ``edit`` changes.
        scale: Shape (site.count,), finite and > 0.
        edit: Changes the graph.
        shift: Shape (site.count,), finite, for a site that allows one.
        why: The reason, for the record.

    Raises:
        PreconditionError: The arrays do not fit the site.

    """
    _check(site, scale, shift)
    if (scale == 1).all() and (shift is None or not shift.any()):
        return
    factors = scale.astype(np.float64)
    shifts = np.zeros(site.count) if shift is None else shift.astype(np.float64)
    folder = _Folder(site, factors, shifts, edit, why)
    if site.kind == "activation":
        folder.prepend()
    else:
        folder.make()
    folder.take_in()
    if site.keys is not None:
        _Folder(site.keys, 1 / factors, np.zeros(site.count), edit, why).make()


def _check(site: Site, scale: NDArray[Any], shift: NDArray[Any] | None) -> None:
    for name, array in (("scale", scale), ("shift", shift)):
        if array is not None and (array.shape != (site.count,) or not np.isfinite(array).all()):
            raise PreconditionError(
                f"the {name} must be {site.count} finite numbers", where=name_of(site.source.value)
            )
    if not (scale > 0).all():
        raise PreconditionError("every scale must be positive", where=name_of(site.source.value))
    if shift is not None and shift.any() and not site.shift:
        raise PreconditionError("no shift can be folded here", where=name_of(site.source.value))


class _Folder:
    """One fold: a site, what to fold, and the changes that it takes."""

    def __init__(self, site: Site, scale: Doubles, shift: Doubles, edit: Editor, why: str) -> None:
        """Take all that every change needs."""
        self.site, self.scale, self.shift, self.edit, self.why = site, scale, shift, edit, why

    def make(self) -> None:
        """Divide where the channels are made, and give the old numbers to those who need them."""
        for operand in (*self.site.scaled, *self.site.addends):
            self._rewrite(operand, _array(operand) / operand.spread(self.scale))
        offset = self.site.offset
        if offset is not None and (offset.constant is not None or self.shift.any()):
            moved = _array(offset) - offset.spread(self.shift)
            self._rewrite(offset, moved / offset.spread(self.scale))
        for place in self.site.places:
            self._restore(place)
            shift = self.shift if place.shifted else np.zeros_like(self.shift)
            self.edit.rescale(place.value, self.scale, shift, axis=place.channels.axis, why=self.why)

    def prepend(self) -> None:
        """Divide in front of the layers, at run time."""
        place = self.site.source
        value = moved = place.value
        if self.shift.any():
            moved = self._elementwise("Sub", value, place, self.shift, f"{value.name}_centred")
        folded = self._elementwise("Mul", moved, place, 1 / self.scale, f"{value.name}_folded")
        for consumer in self.site.consumers:
            self.edit.rewire(consumer.layer.node, 0, folded, why=self.why)
        self.edit.rescale(value, self.scale, self.shift, axis=place.channels.axis, to=folded, why=self.why)

    def take_in(self) -> None:
        """Multiply where the channels are read."""
        for consumer in self.site.consumers:
            self._into_layer(consumer)
        for factor in self.site.factors:
            self._into_factor(factor)

    def _into_layer(self, consumer: Consumer) -> None:
        weight = _array(consumer.weight)
        if consumer.bias is not None and self.shift.any():
            added = np.tensordot(self.shift, weight, axes=(0, consumer.weight.channels.axes[0]))
            self._add(added, consumer.bias, behind=consumer.layer.output)
        self._rewrite(consumer.weight, weight * consumer.weight.spread(self.scale))

    def _into_factor(self, factor: Factor) -> None:
        array = _array(factor.factor)
        if factor.offset is not None and self.shift.any():
            added, product = array.reshape(-1) * self.shift, factor.factor.node.outputs[0]
            if product in factor.offset.node.inputs:
                self._add(added, factor.offset, behind=product)
            else:
                self._into_summand(factor.offset, added)
                self._note(product, added, factor.factor.channels.axis)
        self._rewrite(factor.factor, array * factor.factor.spread(self.scale))

    def _add(self, added: Doubles, offset: Operand, behind: ir.Value) -> None:
        """Add to a constant what ``behind``, where another node adds the constant, now lacks."""
        self._rewrite(offset, _array(offset) + offset.spread(added))
        if offset.node is not behind.producer():
            self._note(behind, added, offset.channels.axis)

    def _restore(self, place: Place) -> None:
        """Give the old numbers to those who need them; a residual gets its shift with the other summand."""
        readers = [node for other, node in self.site.others if other is place]
        summed = [node for node in readers if node is not None and self._shift_summand(place, node)]
        plain = [node for node in readers if node not in summed]
        self._hand_back(place, summed, shifted=False)
        self._hand_back(place, plain, shifted=bool(self.shift.any()))

    def _shift_summand(self, place: Place, node: ir.Node) -> bool:
        """Put the shift into the bias of what ``node`` adds to the channels, if that has one."""
        bias = summand_bias(node, place) if self.shift.any() else None
        if bias is None:
            return False
        self._into_summand(bias, self.shift)
        return True

    def _into_summand(self, bias: Operand, added: Doubles) -> None:
        """Let the value that ``bias`` is the bias of grow by ``added``."""
        self._rewrite(bias, _array(bias) + bias.spread(added))
        self._note(bias.node.outputs[0], -added, bias.channels.axis)

    def _note(self, value: ir.Value, shift: Doubles, axis: int | None, to: ir.Value | None = None) -> None:
        """Note that ``to``, or ``value`` itself, is ``value`` less a shift."""
        self.edit.rescale(value, np.ones_like(shift), shift, axis=axis, to=to, why=self.why)

    def _hand_back(self, place: Place, readers: Sequence[ir.Node | None], *, shifted: bool) -> None:
        """Let ``readers`` read the channels times the scale, with or without the shift."""
        value, restored = place.value, place.value
        if readers and (self.scale != 1).any():
            restored = self._elementwise("Mul", restored, place, self.scale, f"{value.name}_restored")
        if readers and shifted:
            restored = self._elementwise("Add", restored, place, self.shift, f"{value.name}_shifted")
        if restored is value:
            return
        left = np.zeros_like(self.shift) if shifted else self.shift
        self._note(value, left, place.channels.axis, to=restored)
        for use in [use for use in value.uses() if use.node in readers]:
            self.edit.rewire(use.node, use.idx, restored, why=self.why)
        if None in readers:
            self.edit.reroute(value, restored, readers=[None], why=self.why)

    def _elementwise(
        self, op_type: str, value: ir.Value, place: Place, array: Doubles, name: str
    ) -> ir.Value:
        constant = place.channels.spread(array).astype(np.float32)
        operand = self.edit.constant(f"{name}_by", constant, why=self.why)
        return self.edit.behind(value, why=self.why)(op_type, value, operand, name=name, like=value)

    def _rewrite(self, operand: Operand, array: NDArray[Any]) -> None:
        rewrite(operand, array, self.edit, why=self.why)


def rewrite(operand: Operand, array: NDArray[Any], edit: Editor, *, why: str) -> None:
    """Let the node of ``operand`` read ``array`` instead; other readers of the constant keep theirs."""
    old = input_of(operand.node, operand.index)
    name = name_of(old) or f"{operand.node.name}_offset"
    new = edit.constant(f"{name.removesuffix('_folded')}_folded", array.astype(np.float32), why=why)
    edit.rewire(operand.node, operand.index, new, why=why)


def _array(operand: Operand) -> Doubles:
    array = operand.constant
    if array is None:
        return np.zeros(operand.channels.count)
    return array.astype(np.float64)
