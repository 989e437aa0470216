"""Self-attention whose queries, keys and values are linear layers of one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.padding import KeyLengths, key_lengths_of
from onnxq.ir.module import attribute, constant_of, input_of, is_standard, rank_of, sole_reader

PLAIN = {"is_causal": 0, "softcap": 0.0, "qk_matmul_output_mode": 0}
"""What com.microsoft.Attention does not do, or in another way, with the values that ask for nothing."""


@dataclass(frozen=True)
class Projection:
    """A linear layer: ``value @ weight + bias``, with the bias of a layer that has none being zeros."""

    value: ir.Value
    weight: NDArray[Any]
    bias: NDArray[Any]


@dataclass(frozen=True)
class Packing:
    """What the packed operator takes: which keys count by their lengths, or else by what is added."""

    projections: tuple[Projection, ...]
    heads: int
    mask: ir.Value | None = None
    lengths: KeyLengths | None = None

    @property
    def value(self) -> ir.Value:
        """What attends to itself, of shape (batch, tokens, width)."""
        return self.projections[0].value


def packing_of(node: ir.Node, *, padded_behind: bool = False) -> Packing | str:
    """Return what ``node`` is packed of, or why it cannot be.

    Args:
        node: A standard Attention.
        padded_behind: Whether flags of keys that count, where the model takes such, are ones and then zeros.

    """
    found = [_projection_of(value, node) for value in node.inputs[:3]]
    projections = tuple(one for one in found if one is not None)
    if len(projections) < 3 or len({one.value for one in projections}) > 1:
        return "queries, keys and values are not linear layers of one value, read by nothing else"
    heads = attribute(node, "q_num_heads", 0)
    if len({one.weight.shape for one in projections}) > 1 or attribute(node, "kv_num_heads", 0) != heads:
        return "its keys or values have other heads than its queries"
    options = any(attribute(node, name, plain) != plain for name, plain in PLAIN.items())
    if options or any(node.inputs[4:]) or len(node.outputs) > 1:
        return "it keeps a cache, is causal or shows its scores"
    mask = input_of(node, 3)
    lengths = None if mask is None else key_lengths_of(mask)
    if lengths is not None and (padded_behind or not lengths.flags):
        return Packing(projections, heads, lengths=lengths)
    packing = Packing(projections, heads, mask)
    return _mismatch(packing) or packing


def _mismatch(packing: Packing) -> str | None:
    """Return why the mask does not fit, or None: the operator wants a row for each query, and all keys.

    Over batch and heads both operators let it spread alike.
    """
    mask, shape = packing.mask, packing.value.shape
    if mask is None:
        return None
    if mask.dtype is not packing.value.dtype:
        return "its mask is not added"
    if mask.shape is None or shape is None or not 2 <= len(mask.shape) <= 4:
        return "nobody knows how many axes its mask has"
    queries, keys, tokens = mask.shape[-2], mask.shape[-1], shape[1]
    if queries != tokens or tokens == ir.SymbolicDim(None):
        return "its mask may not have a row for each query"
    if isinstance(keys, int) and keys != tokens:
        return "its mask does not have each key"
    return None


def _projection_of(value: ir.Value | None, reader: ir.Node) -> Projection | None:
    """Return the linear layer of constants that ``reader`` reads; its Add may come in either order."""
    node = None if value is None or not _is_read_by(value, reader) else value.producer()
    bias: NDArray[Any] | None = None
    if node is not None and is_standard(node, "Add"):
        for product, constant in (node.inputs, node.inputs[::-1]):
            found = constant_of(constant)
            if found is not None and found.ndim == 1 and product is not None and sole_reader(product):
                bias, node = found, product.producer()
                break
    weight = constant_of(node.inputs[1]) if node is not None and is_standard(node, "MatMul") else None
    source = None if node is None else node.inputs[0]
    if source is None or weight is None or weight.ndim != 2 or rank_of(source) != 3:
        return None
    bias = np.zeros(weight.shape[1], weight.dtype) if bias is None else bias
    return Projection(source, weight, bias) if bias.size == weight.shape[1] else None


def _is_read_by(value: ir.Value, reader: ir.Node) -> bool:
    """Tell whether nothing but ``reader`` wants the numbers; others may want their leading lengths."""
    others = [node for node in value.consumers() if node is not reader]
    once = len(value.uses()) == 1 + len(others) and not value.is_graph_output()
    return once and all(_asks_for_leading_lengths(node) for node in others)


def _asks_for_leading_lengths(node: ir.Node) -> bool:
    return is_standard(node, "Shape") and attribute(node, "end", None) in (1, 2)
