"""Keep ONNX Runtime from rewriting what it would get wrong.

A Sum of one value changes no number, and stops what looks for a DequantizeLinear right before a layer; an
Identity does not, since it is removed (optimised graphs of onnxruntime 1.32.0).

- A Conv, ConvTranspose or Gemm between DequantizeLinear and QuantizeLinear is for it one that shall run in
  integers (WeightBiasQuantization). A constant float weight it quantizes, also that of a Gemm which reads its
  input transposed: per tensor, to 8 bits, which saturate without VNNI. A constant float bias it rounds to
  int32 in steps of input scale times weight scale, whether int32 holds it or not: what is too large becomes
  -2**31, and what is small is lost in steps that are larger than those of the output, as beside weights that
  are all zero. Such layers read their input through a Sum. So do those whose bias is a constant only once
  ONNX Runtime has computed it: how large it is, is not known here.
- The scale of an int32 bias it does not read: the bias counts in steps of input scale times weight scale,
  whatever is written (QLinearConv, QGemm). Layers whose bias was written in other steps, as where a pass
  chose another grid for the input after encode-biases, read their input through a Sum.
- An AveragePool, LeakyRelu, Sigmoid, Softmax or Where, say, between the two becomes one that knows one scale,
  also where there is one for each channel: it does not load, and a Softmax is wrong. All that they read is
  read through a Sum.
- A weight of 2 bits that MatMul or Gemm reads becomes one of MatMulNBits, and is packed wrongly where the
  number of columns is not a multiple of the four that fill a byte. Such weights are read through a Sum.
- What the body of an If, Loop or Scan reads from outside is for it one more input of that operator when it
  moves a DequantizeLinear across the Reshape, say, that computes it (QDQPropagation), and the process ends.
  Bodies read such values through a Sum.
- A layer normalization written out right behind a Cast from float16 becomes one that reads float16 and
  multiplies by float, which does not load. Such casts are read through a Sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import SELECTING
from onnxq.analysis.quantized import dequantized
from onnxq.ir.module import (
    LINEAR,
    GraphModule,
    constant_of,
    constant_tensor,
    input_of,
    is_float,
    is_standard,
    sole_reader,
)
from onnxq.quant.accumulator import accumulator_steps, holds_bias
from onnxq.rewrite.edit import Editor

TRANSPARENT = SELECTING | {
    "Add",
    "BatchNormalization",
    "Clip",
    "Div",
    "Dropout",
    "Identity",
    "Mul",
    "Pad",
    "Relu",
    "Sub",
}
"""What ONNX Runtime may fuse with a layer, or move Q and DQ across, where the other inputs are constants."""
OF_ONE_SCALE = ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax", "Where")
"""What becomes an operator on integers of one scale, however many there are."""
TWO_BITS = (ir.DataType.INT2, ir.DataType.UINT2)
SAME_STEPS = 1e-3
"""By how much the steps of a bias may differ: within the 255 steps of an output, that is a quarter of one."""
IN_A_BYTE = 4
"""So many integers of two bits."""


def shield_layers(module: GraphModule, edit: Editor) -> None:
    """Put a Sum before each layer between Q and DQ whose weight or bias ONNX Runtime would spoil.

    It looks at Conv, ConvTranspose and Gemm; a MatMul, with the Add behind it, may become a Gemm.
    """
    for node in list(module.graph):
        why = _spoilt(node) if is_standard(node, *LINEAR) else None
        if why is not None and node.inputs[0] is not None:
            _read_through_sum(node.inputs[0], [node], "float", why, edit)


def shield_channels(module: GraphModule, edit: Editor) -> None:
    """Put a Sum before what ONNX Runtime runs with one scale, where there is one for each channel."""
    for node in list(module.graph):
        if is_standard(node, *OF_ONE_SCALE) and _has_many_scales(node):
            why = "its numbers have several scales, and ONNX Runtime's integer form of it takes one"
            for value in dict.fromkeys(node.inputs):
                if value is not None and _dequantizer(value) is not None:
                    _read_through_sum(value, [node], "float", why, edit)


def shield_narrow_weights(module: GraphModule, edit: Editor) -> None:
    """Put a Sum behind each weight of 2 bits that ONNX Runtime would pack wrongly."""
    why = "four integers fill a byte, and ONNX Runtime packs other numbers of columns wrongly"
    for node in list(module.graph):
        weight = input_of(node, 1)
        if is_standard(node, "MatMul", "Gemm") and weight is not None and _is_packed_wrongly(weight):
            _read_through_sum(weight, [node], "whole", why, edit)


def shield_bodies(module: GraphModule, edit: Editor) -> None:
    """Put a Sum behind each value that bodies read from outside and that a DequantizeLinear hands on."""
    why = "ONNX Runtime ends where it moves a DequantizeLinear to what the body of an operator reads"
    for value in list(module.values()):
        inside = [reader for reader in value.consumers() if reader.graph is not module.graph]
        if inside and _is_handed_on(value):
            _read_through_sum(value, inside, "outside", why, edit)


def shield_cast(wide: ir.Value, edit: Editor) -> None:
    """Put a Sum behind a Cast from float16 that a mean and a difference read: a layer normalization."""
    readers = list(wide.consumers())
    for reader in readers:
        if is_standard(reader, "Identity", "Dropout"):
            readers += reader.outputs[0].consumers()
    if all(any(is_standard(one, op_type) for one in readers) for op_type in ("ReduceMean", "Sub")):
        why = "ONNX Runtime would fuse a layer normalization of two float types"
        _read_through_sum(wide, list(wide.consumers()), "plain", why, edit)


def _read_through_sum(value: ir.Value, readers: list[ir.Node], suffix: str, why: str, edit: Editor) -> None:
    plain = edit.behind(value, why=why).Sum(value, name=f"{value.name}_{suffix}")
    edit.reroute(value, plain, readers=readers, why=why)


def _spoilt(node: ir.Node) -> str | None:
    """Return what ONNX Runtime would do to a layer between Q and DQ, or None."""
    activation, weight = (_dequantizer(value) for value in node.inputs[:2])
    quantize = _quantizer(node.outputs[0])
    if activation is not None and weight is not None and _has_other_steps(node, activation, weight):
        return "its bias is in other steps than input scale times weight scale, and ONNX Runtime reads none"
    if activation is None or quantize is None:
        return None
    if weight is None:
        why = "stays in float, where ONNX Runtime would quantize it between Q and DQ"
        read = node.inputs[1]
        return why if read is not None and is_float(read) and _is_fixed(read) else None
    added = _bias_of(node)
    if added is None or _dequantizer(added) is not None or not _is_fixed(added):
        return None
    around = (added, *(input_of(end, 1) for end in (activation, weight, quantize)))
    known = [array for value in around if (array := constant_of(value)) is not None]
    if len(known) == len(around) and _is_kept(*known):
        return None
    return "its bias stays in float, where ONNX Runtime would round it to an int32 that does not hold it"


def _is_kept(
    bias: NDArray[Any], activation: NDArray[Any], weight: NDArray[Any], output: NDArray[Any]
) -> bool:
    """Tell whether a bias keeps its value in int32, from the scales around its layer."""
    try:
        steps = accumulator_steps(activation, weight)
    except ValueError:  # the scales lie along different channels, so that there are no steps
        return False
    return holds_bias(bias, steps) and bool(steps.max() <= output.min())


def _has_other_steps(node: ir.Node, activation: ir.Node, weight: ir.Node) -> bool:
    """Tell whether the int32 numbers of the bias are written in steps that ONNX Runtime would not take."""
    bias = _dequantizer(_bias_of(node))
    if bias is None or bias.inputs[0] is None or bias.inputs[0].dtype != ir.DataType.INT32:
        return False
    written, one, other = (constant_of(input_of(end, 1)) for end in (bias, activation, weight))
    if written is None or one is None or other is None:
        return False
    try:
        return not np.allclose(written, accumulator_steps(one, other), rtol=SAME_STEPS, atol=0)
    except ValueError:  # the shapes do not broadcast, so that no kernel multiplies integers here
        return False


def _has_many_scales(node: ir.Node) -> bool:
    """Tell whether a pair that the node stands between has a scale for each channel."""
    ends = [*(_dequantizer(value) for value in node.inputs), _quantizer(node.outputs[0])]
    scales = [constant_of(input_of(end, 1)) for end in ends if end is not None]
    return any(scale is not None and scale.size > 1 for scale in scales)


def _is_fixed(value: ir.Value) -> bool:
    """Tell whether constants alone decide ``value``, which ONNX Runtime computes beforehand."""
    reached, waiting = {value}, [value]
    while waiting:
        one = waiting.pop()
        producer = one.producer()
        if producer is None and constant_tensor(one) is None:
            return False
        sources = {source for source in producer.inputs if source is not None} if producer else set()
        waiting += sources - reached
        reached |= sources
    return True


def _bias_of(node: ir.Node) -> ir.Value | None:
    """Return the bias of a layer, also that of a MatMul which an Add behind it adds."""
    adding = sole_reader(node.outputs[0]) if node.op_type == "MatMul" else None
    if adding is None or not is_standard(adding, "Add"):
        return input_of(node, 2)
    return adding.inputs[1 if adding.inputs[0] is node.outputs[0] else 0]


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    """Return the DequantizeLinear that ``value`` comes from, as far as ONNX Runtime may look through."""
    producer = None if value is None else value.producer()
    while producer is not None and not is_standard(producer, "DequantizeLinear"):
        before = _handed_on(producer)
        producer = None if before is None else before.producer()
    return producer


def _quantizer(value: ir.Value) -> ir.Node | None:
    """Return the QuantizeLinear that ``value`` goes to, as far as ONNX Runtime may look through."""
    readers = list(value.consumers())
    while readers:
        reader = readers.pop()
        if is_standard(reader, "QuantizeLinear"):
            return reader
        if _handed_on(reader) is not None:
            readers += reader.outputs[0].consumers()
    return None


def _is_handed_on(value: ir.Value) -> bool:
    """Tell whether what selects, whatever else it reads, makes a value of a DequantizeLinear's."""
    producer, steps = value.producer(), 0
    while producer is not None and is_standard(producer, *TRANSPARENT) and producer.inputs[0] is not None:
        producer, steps = producer.inputs[0].producer(), steps + 1
    return steps > 0 and producer is not None and is_standard(producer, "DequantizeLinear")


def _handed_on(node: ir.Node) -> ir.Value | None:
    """Return the one input that is no constant, if ONNX Runtime may look through the node."""
    computed = [value for value in node.inputs if value is not None and constant_tensor(value) is None]
    return computed[0] if is_standard(node, *TRANSPARENT) and len(computed) == 1 else None


def _is_packed_wrongly(weight: ir.Value) -> bool:
    found = dequantized(weight)
    integers = None if found is None else constant_tensor(found.stored)
    if integers is None or integers.dtype not in TWO_BITS:
        return False
    sizes = integers.shape.numpy()
    return len(sizes) == 2 and sizes[1] % IN_A_BYTE != 0
