"""A block as a graph that can be trained: rounded weights and scales are its inputs, their gradients outputs.

What is quantized is computed as ``round(clip(x / scale)) * scale``: the gradient goes straight through the
rounding, and that of the scale follows. A switch for each activation turns its quantization off.

Sources:
    Esser et al., 2020, arXiv:1902.08153 (learned scales); Li et al., 2021, arXiv:2102.05426 (blocks).

"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.blocks import Block
from onnxq.autodiff import Term, gradient, prepared
from onnxq.autodiff.model import with_outputs
from onnxq.ir.knowledge import encoding_at
from onnxq.ir.module import LINEAR, GraphModule, array_of, constant_of, is_standard, name_of
from onnxq.quant.encodings import Encoding
from onnxq.rewrite.edit import Editor

__all__ = ["ERROR", "TARGET", "Trainee", "Weight", "prepared", "trainee_of"]

WHY = "training"
TARGET, ERROR = "target", "squared_error"


@dataclass(frozen=True)
class Weight:
    """An encoded constant of a block.

    Args:
        node: The name of the node that reads it.
        index: At which input.
        array: Its values.
        encoding: Its grid.

    """

    node: str
    index: int
    array: NDArray[np.float32]
    encoding: Encoding


@dataclass(frozen=True)
class Trainee:
    """What can be trained of a block.

    Args:
        module: Its inputs are those below, and ``target``, of the shape of the output or of one that is
            repeated to it. Its outputs are that of the block, ``squared_error``, the mean, and for each
            weight and scale its name with ``_slope`` behind: the gradient of half the summed squared error.
        inputs: The names of inputs that stand for values around the block, by the names of these.
        output: The name of the block's output.
        weights: By the names of their inputs.
        scales: The encodings whose scales are fed, by the names of their inputs.
        switches: The names of inputs, 1 where an activation is quantized, and 0 where not.

    """

    module: GraphModule
    inputs: Mapping[str, str]
    output: str
    weights: Mapping[str, Weight]
    scales: Mapping[str, Encoding]
    switches: tuple[str, ...]

    @property
    def rank(self) -> int:
        """How many axes the output has."""
        return len(self.module.by_name()[self.output].shape or ())


def trainee_of(block: Block, base: GraphModule) -> Trainee:
    """Return a block as a graph of its own.

    Args:
        block: Its nodes know what is decided of what they read.
        base: A copy of the graph that ``prepared`` made, with the names of the block; it stays as it is.

    """
    return _Making(block, base.clone()).trainee()


@dataclass
class _Making:
    block: Block
    copy: GraphModule
    weights: dict[str, Weight] = field(default_factory=dict)
    scales: dict[str, Encoding] = field(default_factory=dict)
    _quantized: dict[tuple[ir.Value, Encoding], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.edit = Editor(self.copy)
        self.nodes = {node.name: node for node in self.copy.graph}
        self.added: dict[str, ir.Value] = {}

    def trainee(self) -> Trainee:
        """Build it."""
        output = self.copy.by_name()[name_of(self.block.output)]
        inputs = {name_of(value): self._fed(name_of(value)) for value in self.block.reads}
        decided = [
            (self.nodes[node.name], index, encoding)
            for node in self.block.nodes
            for index in range(len(node.inputs))
            if node.name in self.nodes and (encoding := _decided(node, index)) is not None
        ]
        for node, index, encoding in decided:
            self._quantize(node, index, encoding)
        switches = [name for name in self.added if name.endswith("_switch")]
        learned = [self.added[name] for name in (*self.weights, *self.scales)]
        module = self._with_slopes(output, learned)
        return Trainee(module, inputs, name_of(output), self.weights, self.scales, tuple(switches))

    def _fed(self, name: str) -> str:
        """Let whoever reads a value read an input instead; return its name."""
        value = self.copy.by_name()[name]
        fed = self._input(f"{name}_fed", value.dtype or ir.DataType.FLOAT, value.shape)
        for node, index in tuple(value.uses()):
            self.edit.rewire(node, index, fed, why=WHY)
        return name_of(fed)

    def _input(self, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        value = self.edit.add_input(name, dtype, shape or ir.Shape([]), why=WHY)
        self.added[name_of(value)] = value
        return value

    def _quantize(self, node: ir.Node, index: int, encoding: Encoding) -> None:
        value = node.inputs[index]
        assert value is not None
        if constant_of(value) is not None:
            array = array_of(value)
            fed = self._input(f"{value.name}_weight", ir.DataType.FLOAT, ir.Shape(array.shape))
            self.weights[name_of(fed)] = Weight(node.name or "", index, array, encoding)
            self.edit.rewire(node, index, fed, why=WHY)
            return
        key = value, encoding
        if key not in self._quantized:
            self._quantized[key] = self._fake(value, encoding)
        self.edit.rewire(node, index, self._quantized[key], why=WHY)

    def _fake(self, value: ir.Value, encoding: Encoding) -> ir.Value:
        """Return what is quantized as far as a switch says."""
        scale = self._input(f"{value.name}_scale", ir.DataType.FLOAT, ir.Shape(encoding.scale.shape))
        switch = self._input(f"{value.name}_switch", ir.DataType.FLOAT, ir.Shape([]))
        self.scales[name_of(scale)] = encoding
        op = self.edit.behind(value, why=WHY)
        x, s = Term(op, value), Term(op, scale)
        bounds = [np.float32(limit - encoding.zero_point) for limit in encoding.limits]
        steps = (x / s).Clip(*(x.constant(np.asarray(one)) for one in bounds)).Round()
        return (x + (steps * s - x) * Term(op, switch)).value

    def _with_slopes(self, output: ir.Value, learned: list[ir.Value]) -> GraphModule:
        """Add error and gradients, and leave nothing else."""
        rank = len(output.shape or ())
        target = self._input(TARGET, ir.DataType.FLOAT, ir.Shape([None] * rank))
        op = self.edit.behind(self.copy.graph[-1].outputs[0], why=WHY)
        off = Term(op, output) - Term(op, target)
        error = op.ReduceMean((off * off).value, keepdims=0, name=ERROR)
        off.value.shape = output.shape
        slopes = gradient(self.copy, of=output, wrt=learned, seed=off.value)
        op = self.edit.behind(self.copy.graph[-1].outputs[0], why=WHY)
        named = [
            op.Identity(slope, name=f"{name_of(value)}_slope")
            for value, slope in zip(learned, slopes, strict=True)
        ]
        self.edit.set_inputs(list(self.added.values()), why=WHY)
        return with_outputs([output, error, *named], self.edit)


def _decided(node: ir.Node, index: int) -> Encoding | None:
    """Return the encoding of an input: integers, of a layer's weight or of an activation as a whole."""
    encoding = encoding_at(node, index)
    if encoding is None or not encoding.integers:
        return None
    if constant_of(node.inputs[index]) is not None:
        return encoding if is_standard(node, *LINEAR) else None
    return encoding if encoding.scale.ndim == 0 else None
