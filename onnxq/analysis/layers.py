"""Linear layers: MatMul, Gemm, Conv and ConvTranspose, seen alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import PreconditionError
from onnxq.ir.check import FINITE
from onnxq.ir.module import (
    LINEAR,
    GraphModule,
    array_of,
    attribute,
    constant_of,
    constant_tensor,
    input_of,
    is_float,
    is_standard,
    rank_of,
    sole_reader,
)

SELECTING = frozenset({"Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Their output holds no value that their input does not hold."""


LAYING_OUT = ("Flatten", "Reshape", "Shape", "Transpose")
"""What reads patches before they are tokens."""


@dataclass(frozen=True)
class Layer:
    """One linear layer with a constant weight, as it is now: each part is looked up when it is asked for.

    Args:
        node: The operator.

    """

    node: ir.Node

    @property
    def activation(self) -> ir.Value:
        """Its input."""
        return _given(self.node, 0)

    @property
    def weight(self) -> ir.Value:
        """Its weight, a float32 initializer."""
        return _given(self.node, 1)

    @property
    def bias(self) -> ir.Value | None:
        """Its bias input, if it has one."""
        return input_of(self.node, 2)

    @property
    def channel_axis(self) -> int:
        """The axis of ``weight`` that counts output channels."""
        return _channel_axis(self.node, self.weight)

    @property
    def output(self) -> ir.Value:
        """What the operator itself computes."""
        return self.node.outputs[0]

    @property
    def clamped_output(self) -> ir.Value:
        """The output after a Relu or Clip that nobody else shares; else the plain output."""
        return clamped(self.output)

    @property
    def input_axis(self) -> int:
        """The axis of ``activation`` that counts input channels, counted from the end.

        A convolution reads and gives as many axes as its weight has.
        """
        return 1 - (rank_of(self.weight) or 0) if self.node.op_type in ("Conv", "ConvTranspose") else -1

    @property
    def output_axis(self) -> int:
        """The axis of ``output`` that counts output channels, counted from the end."""
        return self.input_axis


def is_depthwise(node: ir.Node, weight: NDArray[Any] | ir.TensorProtocol) -> bool:
    """Tell whether each channel of a Conv or QLinearConv reads one channel of its own."""
    if not is_standard(node, "Conv", "QLinearConv"):
        return False
    return bool(weight.shape[1] == 1 and attribute(node, "group", 1) == weight.shape[0])


def clamped(value: ir.Value) -> ir.Value:
    """Return what a Relu or Clip makes of ``value`` if nobody else reads it; else ``value`` itself."""
    reader = sole_reader(value)
    if reader is not None and (is_standard(reader, "Relu") or clips_below_at_zero(reader)):
        return reader.outputs[0]
    return value


def keeps_grid(node: ir.Node) -> bool:
    """Tell whether the node's outputs hold only values that its first input holds, and zeros."""
    if is_standard(node, "Resize"):
        return bool(attribute(node, "mode", "nearest") == "nearest")
    return is_standard(node, *SELECTING, "Split") or (is_standard(node, "Pad") and not _fills(node))


def clips_below_at_zero(node: ir.Node) -> bool:
    """Tell whether the node is a Clip whose lower end is the constant 0."""
    if not is_standard(node, "Clip"):
        return False
    low = constant_of(input_of(node, 1))
    return low is not None and float(low) == 0.0


def pads_input(layer: Layer) -> bool:
    """Tell whether the layer may see less of its input at the border than elsewhere."""
    if not is_standard(layer.node, "Conv"):
        return is_standard(layer.node, "ConvTranspose")
    automatic = attribute(layer.node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    return automatic or any(attribute(layer.node, "pads", ()))


def makes_tokens(layer: Layer) -> bool:
    """Tell whether the layer is the convolution that cuts an image into patches, and each into a token.

    It reads an input of the model, each pixel once, and what it gives is laid out anew and read by no
    convolution: its values begin the residual stream of a transformer.
    """
    node, readers = layer.node, list(layer.output.consumers())
    kernel = array_of(layer.weight).shape[2:]
    patches = max(kernel, default=1) > 1 and tuple(attribute(node, "strides", ())) == kernel
    laid_out = bool(readers) and all(is_standard(one, *LAYING_OUT) for one in readers)
    return is_standard(node, "Conv") and patches and layer.activation.is_graph_input() and laid_out


def linear_layers(module: GraphModule) -> Iterator[Layer]:
    """Yield the layers of the main graph in its order."""
    for node in module.graph:
        if is_standard(node, *LINEAR):
            found = layer_of(node)
            if isinstance(found, Layer):
                yield found


SMALL = "its weight is small: integers would save little, and cost much"
"""Why a layer is one of those that ``smallest_layers`` returns."""


def smallest_layers(module: GraphModule, part: float) -> set[ir.Node]:
    """Return the layers with the smallest weights, which are together no more than ``part`` of all weights.

    Most of the error for their size is theirs, and hardly any of the bytes.
    """
    sizes = [(array_of(layer.weight).size, layer.node) for layer in linear_layers(module)] if part else []
    left = part * sum(size for size, _ in sizes)
    found = set()
    for size, node in sorted(sizes, key=lambda one: one[0]):
        left -= size
        if left < 0:
            break
        found.add(node)
    return found


def layer_of(node: ir.Node) -> Layer | str:
    """Return the layer of a node of a ``LINEAR`` type, or the reason why it is none."""
    activation, weight = node.inputs[0], node.inputs[1]
    return _not_a_layer(node, activation, weight) or Layer(node)


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise PreconditionError(f"its input {index} is missing", where=f"node {node.name!r}")
    return value


def _not_a_layer(node: ir.Node, activation: ir.Value | None, weight: ir.Value | None) -> str | None:
    if constant_of(activation) is not None:
        return "its first input is a constant"
    constant = constant_tensor(weight)
    if constant is None or activation is None:
        return "both of its inputs are computed at run time"
    if constant.size == 0:
        return "its weight is empty"
    if not (has_numbers(weight) and has_numbers(input_of(node, 2))):
        return "its weight or bias holds NaN or infinity"
    if activation.dtype is None:
        return "the type of its input is not known"
    if not (is_float(activation) and is_float(weight)):
        return "it does not compute in float32"
    if (rank_of(weight) or 0) < 2:
        return "its weight has fewer than two axes"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "it reads its input transposed"
    return None


def _channel_axis(node: ir.Node, weight: ir.Value) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return (rank_of(weight) or 2) - 1


def has_numbers(value: ir.Value | None) -> bool:
    """Tell whether all elements of a constant are finite; so does what is no constant, and what is absent.

    It is looked at once: what a tensor holds never changes.
    """
    tensor = constant_tensor(value)
    if tensor is None:
        return True
    if FINITE not in tensor.meta:
        tensor.meta[FINITE] = bool(np.isfinite(tensor.numpy().astype(np.float32, copy=False)).all())
    return bool(tensor.meta[FINITE])


def _fills(pad: ir.Node) -> bool:
    """Tell whether what a Pad puts around its input may be anything but zeros and the input's own values."""
    filling, old = input_of(pad, 2), attribute(pad, "value", 0.0)  # an attribute before operator set 11
    if (filling is None and old == 0) or attribute(pad, "mode", "constant") != "constant":
        return False
    known = np.array(old) if filling is None else constant_of(filling)
    return known is None or bool(known.any())
