"""Attention as exporters write it: heads split off three projections, a softmax between two products."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.module import attribute, constant_of, is_standard, rank_of, sole_reader

Size = int | ir.SymbolicDim
"""The length of an axis, or the name that it has."""

Shape = tuple[Size, ...]

HEADS_FIRST, TOKENS_LAST = [0, 2, 1, 3], [0, 2, 3, 1]


@dataclass(frozen=True)
class Heads:
    """A projection of shape (batch, tokens, heads * size) that is split into heads."""

    value: ir.Value
    heads: int
    size: int

    @property
    def batch(self) -> Size:
        """The length of its first axis."""
        return self._shape[0]

    @property
    def tokens(self) -> Size:
        """The length of its second axis."""
        return self._shape[1]

    @property
    def _shape(self) -> Shape:
        return tuple(self.value.shape or ())


@dataclass(frozen=True)
class Core:
    """One attention core, from its three projections to its output."""

    query: Heads
    key: Heads
    value: Heads
    mask: ir.Value | None
    scale: float
    merged: ir.Node
    context: ir.Value


def core_of(softmax: ir.Node) -> Core | str:
    """Return the attention core around ``softmax``, or why there is none."""
    if attribute(softmax, "axis", -1) not in (-1, 3):
        return "it is not taken over the last axis"
    scores, mask = without_mask(softmax.inputs[0])
    product, scale = without_factor(scores)
    if product is None or not is_standard(product, "MatMul"):
        return "its input is no product of queries and keys"
    (left, left_scale), (right, right_scale) = (unscaled(value) for value in product.inputs)
    query, key = _split_heads(left, HEADS_FIRST), _split_heads(right, TOKENS_LAST)
    weighing = sole_reader(softmax.outputs[0])
    if (
        weighing is None
        or not is_standard(weighing, "MatMul")
        or weighing.inputs[0] is not softmax.outputs[0]
    ):
        return "its output does not weigh values alone"
    value = _split_heads(weighing.inputs[1], HEADS_FIRST)
    if mask is not None and (rank_of(mask) or 0) < 2:
        return "its mask has fewer than two axes, or nobody knows how many"
    if query is None or key is None or value is None:
        return "its heads are not split off values of three axes"
    merged = _merge_of(weighing)
    if merged is None:
        return "its heads are not merged again right behind it"
    core = Core(query, key, value, mask, scale * left_scale * right_scale, *merged)
    return _mismatch(core) or core


def _mismatch(core: Core) -> str | None:
    """Return what the Attention operator would take otherwise than the chain, or None."""
    query, key, value = core.query, core.key, core.value
    if not core.scale > 0:
        return "its factor is not positive"
    if key.heads != value.heads or key.heads not in (1, query.heads):
        return "its projections differ in their heads"
    if len({size if isinstance(size, int) else None for size in (query.batch, key.batch, value.batch)}) > 1:
        return "its projections may differ in their batch"
    if not _is_shaped(core.merged.outputs[0], (query.batch, query.tokens, query.heads * value.size)):
        return "its heads are merged with other axes, or nobody knows with which"
    if core.mask is not None and not _spreads(
        core.mask, (query.batch, query.heads, query.tokens, key.tokens)
    ):
        return "its mask does not lie over the scores"
    return None


def _is_shaped(value: ir.Value, wanted: Shape) -> bool:
    """Tell whether a value that has as many elements as ``wanted`` is known to have that shape."""
    shape = () if value.shape is None else tuple(value.shape)
    same = [surely_equal(size, want) for size, want in zip(shape, wanted, strict=False)]
    return len(shape) == len(wanted) and sum(same) >= len(wanted) - 1


def surely_equal(size: Size, other: Size) -> bool:
    """Tell whether two lengths are one; two without a name may differ."""
    return size == other and size != ir.SymbolicDim(None)


def _spreads(mask: ir.Value, scores: Shape) -> bool:
    """Tell whether ``mask`` lies over the scores, widens no axis of theirs and has each key."""
    shape = () if mask.shape is None else tuple(mask.shape)
    pairs = list(zip(reversed(shape), reversed(scores), strict=False))
    fits = all(size in (1, want) or (want != 1 and not _are_numbers(size, want)) for size, want in pairs)
    return len(shape) <= len(scores) and fits and (shape[-1] != 1 or scores[-1] == 1)


def _are_numbers(*sizes: Size) -> bool:
    return all(isinstance(size, int) for size in sizes)


def without_mask(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """Return the scores and what is added to them."""
    node = None if value is None else value.producer()
    if node is None or not is_standard(node, "Add"):
        return value, None
    for scores, mask in ((0, 1), (1, 0)):
        inner, _ = without_factor(node.inputs[scores])
        if inner is not None and is_standard(inner, "MatMul"):
            return node.inputs[scores], node.inputs[mask]
    return value, None


def without_factor(value: ir.Value | None) -> tuple[ir.Node | None, float]:
    """Return what computes ``value`` before a constant factor, and the factor."""
    bare, factor = unscaled(value)
    return (None if bare is None else bare.producer()), factor


def unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Return what is multiplied by a constant number, and the number; 1 where it is by none."""
    node = None if value is None else value.producer()
    if node is None or not is_standard(node, "Mul", "Div"):
        return value, 1.0
    constant = constant_of(node.inputs[1])
    if constant is None or constant.size != 1:
        return value, 1.0
    factor = float(constant.reshape(()))
    return node.inputs[0], factor if node.op_type == "Mul" else 1 / factor


def _split_heads(value: ir.Value | None, order: list[int]) -> Heads | None:
    """Return the projection behind ``Transpose<order>(Reshape(projection))``."""
    transpose = None if value is None else value.producer()
    if transpose is None or not is_standard(transpose, "Transpose") or transpose.inputs[0] is None:
        return None
    split = transpose.inputs[0].producer()
    if list(attribute(transpose, "perm", ())) != order or split is None or not is_standard(split, "Reshape"):
        return None
    source, shape = split.inputs[0], split.outputs[0].shape
    if source is None or rank_of(source) != 3 or shape is None or len(shape) != 4:
        return None
    width, heads = source.shape[2] if source.shape else None, shape[2]
    if not isinstance(heads, int) or not isinstance(width, int) or width % heads:
        return None
    found = Heads(source, heads, width // heads)
    return found if _is_shaped(split.outputs[0], (found.batch, found.tokens, heads, found.size)) else None


def _merge_of(weighing: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Return the Reshape that merges the heads, and the value that it merges."""
    transpose = sole_reader(weighing.outputs[0])
    if transpose is None or not is_standard(transpose, "Transpose"):
        return None
    context = transpose.outputs[0]
    others = [node for node in context.consumers() if not is_standard(node, "Reshape")]
    merges = [node for node in context.consumers() if is_standard(node, "Reshape")]
    if list(attribute(transpose, "perm", ())) != HEADS_FIRST or len(merges) != 1 or context.is_graph_output():
        return None
    if rank_of(merges[0].outputs[0]) != 3 or not all(asks_for_leading_axes(node) for node in others):
        return None
    return merges[0], context


def asks_for_leading_axes(node: ir.Node) -> bool:
    """Tell whether ``node`` takes the shape, of which only the first two entries are read."""
    if not is_standard(node, "Shape"):
        return False
    readers = node.outputs[0].consumers()
    indices = [constant_of(reader.inputs[1]) if is_standard(reader, "Gather") else None for reader in readers]
    return all(
        index is not None and index.size == 1 and int(index.reshape(())) in (0, 1) for index in indices
    )
