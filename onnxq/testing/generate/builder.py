"""A graph under construction, whose values have known shapes: what the blocks of a random model use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxq.testing.generate.draws import Draws, once_in, pick

Array = NDArray[Any]
Shape = tuple[int, ...]

CLASHING = ("x", "w", "b", "x_q", "x_dq", "x_scale", "x_zero_point", "w_q", "w_dq", "x_0", "x_1", "y", "x_b")
"""Names that passes like to give to new values."""
DISTRIBUTIONS = ("normal", "tiny", "dead", "wide", "constant", "zero", "large", "outlier")
"""How the numbers of weights are distributed; the usual way is the first."""


@dataclass(frozen=True)
class Tensor:
    """A value of the graph, with the shape that it has for the feeds.

    Args:
        name: Its name.
        shape: The sizes of its axes.
        dtype: Its type, by ONNX's number.

    """

    name: str
    shape: Shape
    dtype: int = TensorProto.FLOAT

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)


@dataclass
class Builder:
    """Collects nodes, weights and inputs of one graph.

    Args:
        draws: Where choices come from.
        opset: The version of the standard operators.
        dtype: The float type of the whole model.
        prefix: What all names begin with, so that a subgraph's differ from those around it.

    """

    draws: Draws
    opset: int
    dtype: int = TensorProto.FLOAT
    prefix: str = ""
    clashing: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, Array] = field(default_factory=dict)
    inputs: list[Tensor] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    numbers: np.random.Generator = field(init=False)
    _names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Draw the seed of all numbers."""
        self.numbers = np.random.default_rng(self.draws.below(1 << 16))

    @property
    def float_type(self) -> np.dtype[Any]:
        """The NumPy type of the model's floats."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.dtype))

    def name(self, hint: str) -> str:
        """Return a new name."""
        wanted = pick(self.draws, CLASHING) if self.clashing else hint
        number, found = 0, self.prefix + wanted
        while found in self._names:
            number += 1
            found = f"{self.prefix}{wanted}_{number}"
        self._names.add(found)
        return found

    def node(
        self, op_type: str, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor], **attributes: Any
    ) -> None:
        """Append a node; its name may be missing, or that of a value."""
        names = [value.name if value is not None else "" for value in inputs]
        called = pick(self.draws, (self.name("node"), "", outputs[0].name)) if self.clashing else ""
        domain = attributes.pop("domain", "")
        made = helper.make_node(
            op_type, names, [value.name for value in outputs], called, domain=domain, **attributes
        )
        self.nodes.append(made)

    def add(
        self,
        op_type: str,
        *inputs: Tensor | None,
        shape: Shape | None = None,
        dtype: int | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Append a node with one output, which has shape and type of the first input if nothing is said."""
        first = next(value for value in inputs if value is not None)
        result = Tensor(
            self.name("h"),
            first.shape if shape is None else shape,
            first.dtype if dtype is None else dtype,
        )
        self.node(op_type, inputs, [result], **attributes)
        return result

    def value(self, array: Array, hint: str = "c") -> Tensor:
        """Return a constant, as an initializer or as a node."""
        found = Tensor(self.name(hint), array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
        if once_in(self.draws, 5):
            self.node("Constant", [], [found], value=numpy_helper.from_array(array))
        else:
            self.initializers[found.name] = array
        return found

    def floats(self, numbers: object, hint: str = "c") -> Tensor:
        """Return a constant of the model's float type."""
        return self.value(np.asarray(numbers, self.float_type), hint)

    def ints(self, *numbers: int) -> Tensor:
        """Return a constant of one axis of int64."""
        return self.value(np.array(numbers, np.int64), "shape")

    def weight(self, *shape: int, fan_in: int = 1, channel: int | None = None) -> Tensor:
        """Return a weight: a new one, or one of this shape that the graph has already.

        Args:
            shape: Its shape.
            fan_in: How many products are added up in a result.
            channel: The axis of the output channels, some of which may be dead.

        """
        same = [tensor for tensor in self.weights if tensor.shape == shape]
        if same and once_in(self.draws, 3):
            return same[0]
        array = self._weight_numbers(shape, fan_in, channel).astype(self.float_type)
        if once_in(self.draws, 25) and not self.prefix:
            found = self.input(array, "w")
        else:
            found = self.value(array, "w")
        self.weights.append(found)
        return found

    def bias(self, channels: int) -> Tensor:
        """Return a bias, now and then a large one, or one beside dead channels."""
        array = self.numbers.normal(size=channels) * pick(self.draws, (0.1, 0.1, 1.0, 30.0, 0.0))
        return self.value(array.astype(self.float_type), "b")

    def _weight_numbers(self, shape: Shape, fan_in: int, channel: int | None) -> Array:
        array: Array = np.asarray(self.numbers.normal(size=shape) / np.sqrt(max(fan_in, 1)))
        kind = pick(self.draws, DISTRIBUTIONS) if once_in(self.draws, 3) else "normal"
        if kind == "dead" and channel is not None and array.size:
            rows = np.moveaxis(array, channel, 0)
            rows[: max(1, len(rows) // 2)] *= 1e-12
        elif kind == "outlier" and array.size:
            array.reshape(-1)[0] *= 100
        elif kind == "constant":
            array[...] = 0.25
        else:
            array *= {"tiny": 1e-6, "wide": 20.0, "zero": 0.0, "large": 1e3}.get(kind, 1.0)
        return array

    def input(self, array: Array, hint: str = "x") -> Tensor:
        """Return an input of the model, which is fed ``array``."""
        found = Tensor(self.name(hint), array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
        self.inputs.append(found)
        self.feeds[found.name] = array
        return found

    def data(self, *shape: int) -> Tensor:
        """Return an input of floats: usually normal, now and then of extreme size, constant or zero."""
        array = self.numbers.normal(size=shape)
        array = array * pick(self.draws, (1.0, 1.0, 1.0, 1.0, 1.0, 1e-3, 50.0, 0.0))
        if once_in(self.draws, 12):
            array = np.full(shape, 0.75)
        return self.input(np.asarray(array, self.float_type))

    def ids(self, shape: Shape, below: int) -> Tensor:
        """Return an input of indices."""
        dtype = pick(self.draws, (np.int64, np.int32))
        return self.input(self.numbers.integers(0, max(below, 1), shape).astype(dtype), "ids")

    def condition(self, shape: Shape = ()) -> Tensor:
        """Return an input of truths."""
        return self.input(np.asarray(self.numbers.integers(0, 2, shape), np.bool_), "cond")

    def inside(self, prefix: str) -> Builder:
        """Return a builder for a graph inside this one: it may read this one's values."""
        return Builder(self.draws, self.opset, self.dtype, self.name(prefix))

    def subgraph(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor] = ()) -> onnx.GraphProto:
        """Return what was built as a graph for an attribute; the sizes of their axes stay open."""
        return helper.make_graph(
            self.nodes,
            self.prefix,
            [helper.make_tensor_value_info(value.name, value.dtype, [None] * value.rank) for value in inputs],
            [
                helper.make_tensor_value_info(value.name, value.dtype, [None] * value.rank)
                for value in outputs
            ],
            [numpy_helper.from_array(array, name) for name, array in self.initializers.items()],
        )

    def renamed(self, tensor: Tensor, name: str) -> Tensor:
        """Return ``tensor`` under another name."""
        return replace(tensor, name=name)


@dataclass(frozen=True)
class Sample:
    """A model and what to run it on.

    Args:
        model: The model.
        feeds: One batch of inputs.

    """

    model: onnx.ModelProto
    feeds: Mapping[str, Array]
