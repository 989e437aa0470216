"""What changed its meaning or its form from one version of an operator to the next, and how to say the same.

A rule is for one operator and the version that brings the change, and rewrites one node. Where a model
relies on something that the new version cannot say, it raises ``CannotConvertError``.

Sources: the operators' changelog of ONNX; for what it leaves open (the rounding of Resize-10, for example)
onnxruntime 1.32.0, in which the tests compare each rule before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import attribute, constant_of, input_of, name_of


class CannotConvertError(Exception):
    """The new version of an operator cannot say what the node means."""


@dataclass(frozen=True)
class Step:
    """A node on its way to ``version`` of the standard operators, and how to rewrite around it."""

    node: ir.Node
    version: int

    def take(self, name: str, default: Any = None) -> Any:
        """Take an attribute away and return its value."""
        found = self.node.attributes.pop(name, None)
        return default if found is None else found.value

    def set(self, name: str, value: Any) -> None:
        """Give an attribute a value."""
        self.node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def constant(self, suffix: str, array: NDArray[Any]) -> ir.Value:
        """Add a constant beside the node."""
        graph = self._graph()
        name = base = f"{name_of(self.node.outputs[0])}_{suffix}"
        number = 0
        while name in graph.initializers:
            number += 1
            name = f"{base}_{number}"
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        graph.register_initializer(value)
        return value

    def insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        suffix: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Add a node before this one, and return its output."""
        name = f"{name_of(self.node.outputs[0])}_{suffix}"
        given = ir.convenience.convert_attributes(dict(attributes or {}))
        node = ir.Node("", op_type, inputs, given, name=name, outputs=[ir.Value(name=name)])
        self._graph().insert_before(self.node, node)
        return node.outputs[0]

    def feed(self, index: int, value: ir.Value | None) -> None:
        """Let the node read ``value`` as its input ``index``."""
        if index >= len(self.node.inputs):
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def dtype(self) -> np.dtype[Any]:
        """Return the type of the node's first input."""
        value = self.node.inputs[0]
        if value is None or value.dtype is None:
            raise CannotConvertError("the type of its input is not known")
        return np.dtype(value.dtype.numpy())

    def has_reader(self, output: int) -> bool:
        """Tell whether anybody reads the output of this number."""
        if output >= len(self.node.outputs):
            return False
        value = self.node.outputs[output]
        return bool(value.uses()) or value.is_graph_output()

    def _graph(self) -> ir.Graph:
        assert isinstance(self.node.graph, ir.Graph)
        return self.node.graph


Rule = Callable[[Step], None]


def attributes_to_inputs(first: int, *names: str) -> Rule:
    """Return the rule for attributes of integers that became inputs, the first one at index ``first``."""

    def rule(step: Step) -> None:
        for index, name in enumerate(names, first):
            value = step.take(name)
            if value is not None:
                step.feed(index, step.constant(name, np.atleast_1d(np.array(value, np.int64))))

    return rule


def drop(name: str, kept: Any) -> Rule:
    """Return the rule for an attribute that is gone, and whose only meaning left is ``kept``."""

    def rule(step: Step) -> None:
        if step.take(name, kept) != kept:
            raise CannotConvertError(f"no later version has {name}")

    return rule


def require(name: str, value: Any) -> Rule:
    """Return the rule for an attribute that is gone, together with the meaning of its default."""

    def rule(step: Step) -> None:
        if step.take(name) != value:
            raise CannotConvertError(f"it is in training, as {name} says")

    return rule


def preset(name: str, value: Any) -> Rule:
    """Return the rule for a new attribute whose default is not what the operator did before."""
    return lambda step: step.set(name, value)


def clip_11(step: Step) -> None:
    """Make the bounds inputs, of the type that is clipped."""
    bounds = {name: step.take(name) for name in ("min", "max")}
    for index, (name, bound) in enumerate(bounds.items(), 1):
        if bound is not None:
            step.feed(index, step.constant(name, np.array(bound, np.float32).astype(step.dtype())))


def pad_11(step: Step) -> None:
    """Make the widths and the filling inputs."""
    step.feed(1, step.constant("pads", np.array(step.take("pads"), np.int64)))
    value = step.take("value")
    if value:
        step.feed(2, step.constant("filling", np.array(value, np.float32).astype(step.dtype())))


def flatten_for_softmax(step: Step) -> None:
    """Take it over the last axis of two, which all before and all from ``axis`` on become.

    From operator set 13 on it is taken over ``axis`` alone, which is the same where only ones follow.
    """
    node, axis = step.node, step.take("axis", 1)
    known = None if node.inputs[0] is None else node.inputs[0].shape
    alone = axis == -1 or (known is not None and all(size == 1 for size in known[axis + 1 :]))
    step.set("axis", axis if alone else -1)
    if alone:
        return
    shape = step.insert("Shape", [node.inputs[0]], "shape")
    rows = step.insert("Flatten", [node.inputs[0]], "rows", {"axis": axis})
    weights = step.insert(node.op_type, [rows], "flat", {"axis": -1})
    node.op_type = "Reshape"
    node.attributes.clear()
    step.feed(0, weights)
    step.feed(1, shape)


def dropout_12(step: Step) -> None:
    """Drop the ratio, which means nothing outside of training, where the operator never was."""
    step.take("ratio")
    if step.has_reader(1):
        raise CannotConvertError("its mask is read, which is another in version 12")
    step.node.resize_outputs(1)


def dropout_10(step: Step) -> None:
    """Drop the mask, which had the type of the input."""
    if step.has_reader(1):
        raise CannotConvertError("its mask is read, which has another type in version 10")
    step.node.resize_outputs(1)


def batch_norm_14(step: Step) -> None:
    """Say by an attribute what five outputs said: that the statistics are those of the batch."""
    if len(step.node.outputs) == 1:
        return
    if step.has_reader(3) or step.has_reader(4):
        raise CannotConvertError("its saved statistics are read, which no later version returns")
    step.node.resize_outputs(3)
    step.set("training_mode", 1)


def upsample_9(step: Step) -> None:
    """Make the factors an input."""
    step.feed(1, step.constant("scales", np.array(step.take("scales"), np.float32)))


def rename(op_type: str) -> Rule:
    """Return the rule for an operator that goes on under another name."""

    def rule(step: Step) -> None:
        step.node.op_type = op_type

    return rule


def resize_11(step: Step) -> None:
    """Say how Resize-10 places and rounds: asymmetric; nearest down where it grows, up where it shrinks."""
    node, scales = step.node, step.node.inputs[1]
    step.set("coordinate_transformation_mode", "asymmetric")
    step.feed(2, scales)
    step.feed(1, None)
    if attribute(node, "mode", "nearest") != "nearest":
        return
    known = constant_of(scales)
    if known is not None and (known <= 1).all() and not (known == 1).all():
        step.set("nearest_mode", "ceil")
        return
    step.set("nearest_mode", "floor")
    if known is None or (known < 1).any():
        _shrink_first(step, scales)


def _shrink_first(step: Step, scales: ir.Value | None) -> None:
    """Put what shrinks into a Resize of its own, as only one of two roundings can be said for all axes."""
    one = step.constant("one", np.ones(1, np.float32))
    shrinking, growing = (step.insert(op_type, [scales, one], op_type.lower()) for op_type in ("Min", "Max"))
    attributes = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "ceil",
    }
    step.feed(0, step.insert("Resize", [step.node.inputs[0], None, shrinking], "shrunk", attributes))
    step.feed(2, growing)


def resize_13(step: Step) -> None:
    """Refuse the one mode that is gone, and leave out empty scales, which stand beside sizes up to there."""
    scales = constant_of(input_of(step.node, 2))
    if scales is not None and scales.size == 0:
        step.feed(2, None)
    if attribute(step.node, "coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        raise CannotConvertError("no later version has tf_half_pixel_for_nn")


def split_18(step: Step) -> None:
    """Say how many parts there are, where nothing says how long they are."""
    if input_of(step.node, 1) is None:
        step.node.resize_inputs(1)
        step.set("num_outputs", len(step.node.outputs))


def grid_sample_20(step: Step) -> None:
    """Give the modes their new names."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = step.take("mode", "bilinear")
    step.set("mode", names.get(mode, mode))


def dft_20(step: Step) -> None:
    """Make the axis an input; its default was another."""
    step.feed(2, step.constant("axis", np.array(step.take("axis", 1), np.int64)))


def group_norm_21(step: Step) -> None:
    """Repeat scale and bias, one for each group, for each channel."""
    x, groups = step.node.inputs[0], attribute(step.node, "num_groups", 1)
    channels = None if x is None or x.shape is None else x.shape[1]
    if not isinstance(channels, int):
        raise CannotConvertError("the number of its channels is not known")
    group_of = step.constant("group_of", np.repeat(np.arange(groups), channels // groups))
    for index, name in ((1, "scales"), (2, "biases")):
        step.feed(index, step.insert("Gather", [step.node.inputs[index], group_of], name, {"axis": 0}))


def _several(names: str, version: int, rule: Rule) -> dict[tuple[str, int], Rule]:
    return {(name, version): rule for name in names.split()}


RULES: Mapping[tuple[str, int], Rule] = {
    ("Reshape", 5): attributes_to_inputs(1, "shape"),
    ("BatchNormalization", 7): require("is_test", 1),
    ("Dropout", 7): require("is_test", 1),
    ("BatchNormalization", 9): drop("spatial", 1),
    ("Upsample", 9): upsample_9,
    ("Dropout", 10): dropout_10,
    ("Slice", 10): attributes_to_inputs(1, "starts", "ends", "axes"),
    ("TopK", 10): attributes_to_inputs(1, "k"),
    ("Upsample", 10): rename("Resize"),
    ("Clip", 11): clip_11,
    ("Pad", 11): pad_11,
    ("Resize", 11): resize_11,
    ("Scatter", 11): rename("ScatterElements"),
    ("Dropout", 12): dropout_12,
    **_several("Hardmax LogSoftmax Softmax", 13, flatten_for_softmax),
    **_several("ReduceSum Squeeze Unsqueeze", 13, attributes_to_inputs(1, "axes")),
    ("Resize", 13): resize_13,
    ("Split", 13): attributes_to_inputs(1, "split"),
    ("BatchNormalization", 14): batch_norm_14,
    ("RoiAlign", 16): preset("coordinate_transformation_mode", "output_half_pixel"),
    **_several(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
        "ReduceSumSquare",
        18,
        attributes_to_inputs(1, "axes"),
    ),
    ("Split", 18): split_18,
    ("DFT", 20): dft_20,
    ("GridSample", 20): grid_sample_20,
    ("GroupNormalization", 21): group_norm_21,
}
"""By operator and the version that changes it. Other versions differ in types and in optional parts."""

TYPED = frozenset({"Clip", "Pad", "Softmax", "Hardmax", "LogSoftmax", "GroupNormalization"})
"""Operators whose rules look at types and shapes."""
