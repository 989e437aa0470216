"""Divide each frame of a signal by its peak before a long convolution, and multiply what comes out by it.

Before: ``y = Conv<strides = [s]>(x, w, b)``, ``x`` of shape (N, 1, L), ``w`` of shape (O, 1, K). After, with
the T frames of K samples as rows: ``y = p * Transpose(MatMul(frames / p, w')) + b``, ``p`` the largest
magnitude in each frame.

A sound is a thousand times louder here than there, and what follows such a layer is often a logarithm: with
one step for all samples, the quiet frames are nothing but rounding. A normalized frame has 8 bits of its own,
and one range that holds for every signal. The product alone runs in integers, whose kernels gain most where
the kernel is long; what cuts the frames and scales them costs a few passes over N * T * K numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, attribute, constant_of, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.rewrite.builder import Builder

WHY = "each frame has its own loudness"

SHORTEST = 64
"""Shorter kernels leave no time to be saved in their product."""

MOST_PIECES = 8
"""Frames are put together from so many pieces at most: each costs a node."""

SMALLEST = 1e-30
"""The peak of a frame in which nothing is louder, as of silence."""

END = np.iinfo(np.int64).max
"""The end of an axis, for a Slice."""


@dataclass(frozen=True)
class NormalizeFrames(Pass):
    """Normalize what convolutions over one signal read, where their weights are encoded already."""

    name: ClassVar[str] = "normalize-frames"
    effect: ClassVar[Effect] = Effect.EXACT
    optional: ClassVar[bool] = True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave convolutions alone that see no plain frames."""
        for layer in list(linear_layers(module)):
            if not (_reads_signal(layer) and module.reads_encoded(layer.node, layer.weight)):
                continue
            reason = _reason(layer, module)
            if reason is None:
                _normalize(layer, module, ctx)
            else:
                ctx.skip(layer.node, reason)


def _reads_signal(layer: Layer) -> bool:
    """Tell whether it is a convolution with a long kernel over one channel and one axis."""
    shape = array_of(layer.weight).shape
    return layer.node.op_type == "Conv" and len(shape) == 3 and shape[1] == 1 and shape[2] >= SHORTEST


def _reason(layer: Layer, module: GraphModule) -> str | None:
    plain = {"auto_pad": "NOTSET", "dilations": [1], "group": 1, "pads": [0, 0]}
    if any(_listed(attribute(layer.node, name, value)) != value for name, value in plain.items()):
        return "its frames are dilated, padded, or several"
    if module.encoding_at(layer.node, 0) is not None:
        return "its input is encoded already"
    if layer.bias is not None and constant_of(layer.bias) is None:
        return "its bias is computed at run time"
    if _length(layer) // _piece(layer) > MOST_PIECES:
        return f"its frames overlap so that they have more than {MOST_PIECES} pieces"
    return None


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _length(layer: Layer) -> int:
    return int(array_of(layer.weight).shape[-1])


def _stride(layer: Layer) -> int:
    return int(attribute(layer.node, "strides", [1])[0])


def _piece(layer: Layer) -> int:
    """Return the length of the pieces that frames begin and end with."""
    return gcd(_length(layer), _stride(layer))


def _normalize(layer: Layer, module: GraphModule, ctx: PassContext) -> None:
    node, name, encoding = layer.node, name_of(layer.output), module.encoding_at(layer.node, 1)
    op, old, bias = ctx.edit.at(node, why=WHY), layer.weight, layer.bias
    peaks = _peaks(layer, op)
    rows = op.Reshape(peaks, [0, -1, 1], name=f"{name}_peak_of_row")
    normalized = op.Div(_frames(layer, op), rows, name=f"{name}_normalized")
    matrix = op.constant(f"{old.name}_transposed", array_of(old)[:, 0].T)
    product = op.MatMul(normalized, matrix, name=f"{name}_product")
    turned = op.Transpose(product, perm=[0, 2, 1], name=f"{name}_turned")
    output = op.Mul(turned, peaks, name=f"{name}_scaled")
    if bias is not None:
        output = op.Add(output, array_of(bias).reshape(-1, 1), name=f"{name}_biased")
    ctx.edit.forget(old, readers=[node], why=WHY)
    ctx.edit.replace(layer.output, output, why=WHY)
    ctx.edit.remove(node, why="the product stands in its place")
    if encoding is not None:
        encoding = replace(encoding, axis=None if encoding.axis is None else 1)
        ctx.edit.encode(matrix, encoding, readers=matrix.consumers(), why="transposed")


def _peaks(layer: Layer, op: Builder) -> ir.Value:
    """Return the largest magnitude in each frame, of shape (N, 1, T)."""
    name, piece = name_of(layer.output), _piece(layer)
    loudness = op.Abs(layer.activation, name=f"{name}_loudness")
    of_pieces = op.MaxPool(loudness, kernel_shape=[piece], strides=[piece], name=f"{name}_peak_of_piece")
    kernel, stride = _length(layer) // piece, _stride(layer) // piece
    largest = op.MaxPool(of_pieces, kernel_shape=[kernel], strides=[stride], name=f"{name}_largest")
    return op.Max(largest, SMALLEST, name=f"{name}_peak")


def _frames(layer: Layer, op: Builder) -> ir.Value:
    """Return the frames, of shape (N, T, K)."""
    name, piece = name_of(layer.output), _piece(layer)
    pieces = op.Reshape(_whole_pieces(layer, op), [0, -1, piece], name=f"{name}_pieces")
    count, step = _length(layer) // piece, _stride(layer) // piece
    ends = [place - count + 1 or END for place in range(count)]
    parts = [
        op.Slice(pieces, [place], [end], [1], [step], name=f"{name}_piece_{place}")
        for place, end in enumerate(ends)
    ]
    return op.Concat(*parts, axis=2, name=f"{name}_frames")


def _whole_pieces(layer: Layer, op: Builder) -> ir.Value:
    """Return the signal without the end that makes no piece."""
    signal, piece, name = layer.activation, _piece(layer), name_of(layer.output)
    samples = signal.shape[-1] if signal.shape is not None else None
    if isinstance(samples, int) and samples % piece == 0:
        return signal
    shape = op.Shape(signal, name=f"{name}_shape")
    length = op.Gather(shape, [2], axis=0, name=f"{name}_length")
    rest = op.Mod(length, [piece], name=f"{name}_rest")
    return op.Slice(signal, [0], op.Sub(length, rest, name=f"{name}_whole"), [2], name=f"{name}_cut")
