"""Decide encodings for the weights of matrix products, with a scale for each block of a column.

ONNX Runtime's CPU provider runs ``MatMul(x, DequantizeLinear(w))`` as MatMulNBits, which keeps the integers
in memory: any number of rows and columns, of 4 or 8 bits. Two of them cannot share what is stored
(onnxruntime 1.31.1). Where a target's fast kernel takes only some shapes, the others stay in float. In blocks
of float8 the weights are for ``fuse-float8-matmul``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import SMALL, Layer, layer_of, smallest_layers
from onnxq.errors import PreconditionError
from onnxq.ir.module import GraphModule, array_of, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding
from onnxq.quant.ranges import encode_blocks, range_method

OPSET = 21
"""The operator set that brought blocks and integers of 4 bits."""
FLOAT_BITS = 32
WIDTHS: dict[str, Literal[4, 8]] = {"w4": 4, "w8": 8}
"""What a recipe calls the widths that it assigns to layers."""


@dataclass(frozen=True)
class EncodeWeightBlocks(Pass):
    """Encode each constant matrix that a MatMul reads as its second input.

    Options:
        bits: The width of the stored integers, or of float8.
        float8: Store numbers of type float8e4m3fn; then ``bits`` has to be 8, and ``symmetric`` set.
        block: How many values of one column share a scale: shorter blocks err less and take more room.
        symmetric: Whether zero is the integer 0; otherwise each block has a zero point of its own.
        spared: The smallest weights stay in float, as long as they are together no more than this part of
            all weights of layers.
        exclude: Layers to leave in float: names of nodes, in which * stands for anything.
        method: How ranges are set: ``min-max``, or ``mse``, which clips where that errs less.

    Source:
        Dettmers and Zettlemoyer, 2023, arXiv:2212.09720: small blocks are what makes 4 bits precise.

    """

    name: ClassVar[str] = "encode-weight-blocks"
    effect: ClassVar[Effect] = Effect.EXACT
    encodes_weights: ClassVar[bool] = True
    bits: Literal[4, 8] = 4
    float8: bool = False
    block: Literal[32, 64, 128] = 32
    symmetric: bool = False
    spared: float = 0.0
    exclude: tuple[str, ...] = ()
    method: Literal["min-max", "mse"] = "min-max"

    @property
    def variants(self) -> tuple[str, ...]:
        """Other lengths of blocks, of which a kernel may like one best; float8's kernel has one."""
        blocks = (size for size in (32, 64, 128) if size != self.block)
        return () if self.float8 else tuple(f"block={size}" for size in blocks)

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """Both widths, whichever the option says; float8 has one."""
        return ("float8e4m3fn",) if self.float8 else tuple(WIDTHS)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a MatMul alone whose weight is no constant matrix, and all of an old operator set."""
        if self.float8 and not (self.bits == 8 and self.symmetric):
            raise PreconditionError(
                "float8 has 8 bits and is symmetric around zero",
                hint="write encode-weight-blocks{float8=true, bits=8, symmetric=true}",
            )
        spared = smallest_layers(module, self.spared)
        for node in module.graph:
            if not is_standard(node, "MatMul"):
                continue
            chosen = self._assigned(node, ctx)
            layer = (
                SMALL if node in spared and not ctx.is_assigned(node) else chosen._layer(node, module, ctx)
            )
            if isinstance(layer, str):
                ctx.skip(node, layer)
                continue
            encoding = chosen._encoding(array_of(layer.weight))
            ctx.edit.encode(layer.weight, encoding, readers=[node], why=f"blocks of {self.block}")

    @property
    def _dtype(self) -> str:
        if self.float8:
            return "float8e4m3fn"
        return f"int{self.bits}" if self.symmetric else f"uint{self.bits}"

    def _encoding(self, weight: NDArray[Any]) -> Encoding:
        dtype = self._dtype
        method = range_method(self.method, dtype)
        return encode_blocks(method, weight, dtype, self.block, symmetric=self.symmetric)

    def _assigned(self, node: ir.Node, ctx: PassContext) -> EncodeWeightBlocks:
        """Return the pass with the width that is assigned to the layer."""
        wanted = ctx.precision.of_layer(node)
        return replace(self, bits=WIDTHS[wanted]) if wanted in WIDTHS and not self.float8 else self

    def _layer(self, node: ir.Node, module: GraphModule, ctx: PassContext) -> Layer | str:
        """Return the layer to encode, or the reason why the node is left alone."""
        reason, target = ctx.reason_to_leave(node, self.exclude, self.layer_precisions), ctx.target
        if reason is not None:
            return reason
        if module.opset < OPSET:
            return f"operator set {module.opset} has no blocks; convert-opset{{minimum={OPSET}}} brings them"
        layer = layer_of(node)
        if isinstance(layer, Layer):
            weight = array_of(layer.weight)
            if weight.ndim != 2:
                return "its weight is not a matrix"
            rows = target.float8_rows if self.float8 else 1
            if weight.shape[0] % rows:
                return f"the fast kernel wants rows in multiples of {rows}"
            multiple = None if self.float8 else target.block_columns.get(self.bits)
            if multiple and (weight.shape[1] % multiple or weight.shape[0] % self.block):
                return f"the fast kernel wants whole blocks, and columns in multiples of {multiple}"
            copies = len(layer.weight.consumers())
            if copies * self._stored_bits() > FLOAT_BITS:
                return f"{copies} nodes read its weight, and a copy for each would take more room than float"
        return layer

    def _stored_bits(self) -> float:
        """Return what one value takes in the file, with its part of scale and zero point."""
        return self.bits + (FLOAT_BITS + self.bits) / self.block
