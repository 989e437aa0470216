"""Channels that several values have in common, through Relu, pooling and Concat, numbered over a graph.

A fold site is the channels of one layer and those who read them. Where a Concat joins what several layers
make, and layers read it as a whole, each of them meets channels of several sites. Here every channel that a
layer makes has a number, each value tells the numbers of its channels, and one scale for each number says
all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.channels import Channels, Operand, step
from onnxq.analysis.endpoints import Consumer, Source, consumer_at, source_of
from onnxq.ir.module import LINEAR, GraphModule, attribute, is_standard, rank_of
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.fold import rewrite

Numbers = NDArray[np.intp]


@dataclass
class Numbering:
    """The numbered channels of a graph.

    Args:
        count: How many numbers there are.
        numbers: For each value with numbered channels, the number of each of them.
        axes: For each of these values, where its channels lie.
        sources: The layers that make them.
        consumers: The layers that read them.
        pinned: Numbers of channels that others read, too: those take no scale.

    """

    count: int = 0
    numbers: dict[ir.Value, Numbers] = field(default_factory=dict)
    axes: dict[ir.Value, Channels] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, module: GraphModule) -> Numbering:
        """Number the channels of the main graph; what is encoded already is pinned."""
        found = cls()
        for node in module.graph:
            _ = found._make(node) or found._join(node) or found._pass(node)
        for value in found.numbers:
            found._find_readers(value)
        found._pin_encoded(module)
        return found

    @property
    def read(self) -> list[ir.Value]:
        """The values that layers read, in the order of the graph."""
        wanted = {consumer.layer.activation for consumer in self.consumers}
        return [value for value in self.numbers if value in wanted]

    def fold(self, scale: NDArray[np.float64], edit: Editor, *, why: str) -> None:
        """Divide every channel by the scale of its number; the model computes what it did.

        Args:
            scale: Shape (count,), finite and > 0; 1 where ``pinned``.
            edit: Changes the graph.
            why: The reason, for the record.

        """
        for source in self.sources:
            made = scale[self.numbers[source.place.value]]
            offset = [] if source.offset is None else [source.offset]
            for operand in (source.scaled, *source.more, *offset):
                _multiply(operand, 1 / made, edit, why)
        for consumer in self.consumers:
            _multiply(consumer.weight, scale[self.numbers[consumer.layer.activation]], edit, why)
        for value, numbers in self.numbers.items():
            if (scale[numbers] != 1).any():
                axis, unmoved = self.axes[value].axis, np.zeros(len(numbers))
                edit.rescale(value, scale[numbers], unmoved, axis=axis, why=why)

    def _make(self, node: ir.Node) -> bool:
        """Give new numbers to what a layer makes."""
        source = source_of(node)
        if source is None or source.kind != "linear" or source.before is not None:
            return False
        made = source.place.channels
        self._note(source.place.value, np.arange(self.count, self.count + made.count), made)
        self.count += made.count
        self.sources.append(source)
        return True

    def _join(self, node: ir.Node) -> bool:
        """Put the numbers of what a Concat joins behind each other."""
        joined = [value for value in node.inputs if value is not None and value in self.numbers]
        rank = rank_of(node.outputs[0])
        if not is_standard(node, "Concat") or len(joined) < len(node.inputs) or rank is None:
            return False
        axis = attribute(node, "axis", 0) % rank - rank
        if any(self.axes[value].axis != axis for value in joined):
            return False
        numbers = np.concatenate([self.numbers[value] for value in joined])
        self._note(node.outputs[0], numbers, Channels((axis,), (len(numbers),)))
        return True

    def _pass(self, node: ir.Node) -> bool:
        """Hand the numbers on through what lets every positive factor pass."""
        value = node.inputs[0] if node.inputs else None
        passed = None if value is None or value not in self.axes else step(node, 0, self.axes[value])
        if value is None or passed is None or passed.operand is not None:
            return False
        self._note(node.outputs[0], self.numbers[value], passed.channels)
        return True

    def _find_readers(self, value: ir.Value) -> None:
        """Remember the layers that read the channels, and pin those that others read."""
        free = not value.is_graph_output()
        for use in sorted(value.uses(), key=lambda use: (use.node.name or "", use.idx)):
            consumer = consumer_at(use.node, use.idx, self.axes[value])
            if use.node.graph is not value.producer().graph:  # type: ignore[union-attr]
                free = False
            elif consumer is not None:
                self.consumers.append(consumer)
            else:
                free &= use.node.outputs[0] in self.numbers and not is_standard(use.node, *LINEAR)
        if not free:
            self._pin(value)

    def _pin_encoded(self, module: GraphModule) -> None:
        """Pin what has an encoding already, itself or in a layer's weight."""
        for source in self.sources:
            if module.is_encoded(source.scaled.node.inputs[source.scaled.index]):
                self._pin(source.place.value)
        for consumer in self.consumers:
            if module.is_encoded(consumer.layer.weight):
                self._pin(consumer.layer.activation)
        for value in self.numbers:
            if module.is_encoded(value):
                self._pin(value)

    def _pin(self, value: ir.Value) -> None:
        self.pinned.update(self.numbers[value].tolist())

    def _note(self, value: ir.Value, numbers: Numbers, channels: Channels) -> None:
        self.numbers[value], self.axes[value] = numbers, channels


def _multiply(operand: Operand, factors: NDArray[np.float64], edit: Editor, why: str) -> None:
    """Multiply a constant along its channels; one that is not there stays so."""
    array = operand.constant
    if array is not None and (factors != 1).any():
        rewrite(operand, array.astype(np.float64) * operand.spread(factors), edit, why=why)
