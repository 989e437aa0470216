"""Attention as exporters write it: a softmax between two products, of values that are split into heads.

What stands between is read by what it means: a factor may lie on the scores, on the queries or on the keys,
before or behind what moves axes; samples and heads may be one axis for the products and two for the mask; a
mask may be added or may choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxq.analysis.scores import (
    Mask,
    Size,
    keeps_matrices,
    scores_of,
    surely_equal,
    unscaled,
    weighing_of,
)
from onnxq.ir.module import attribute, constant_of, is_standard, rank_of, sole_reader

Shape = tuple[Size, ...]

HEADS_FIRST, TOKENS_LAST = [0, 2, 1, 3], [0, 2, 3, 1]
TURNED = {3: [0, 2, 1], 4: [0, 1, 3, 2]}
"""The order of axes that makes rows of columns, by the number of axes."""


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
class Operand:
    """Queries, keys or values of axes (batch, heads, tokens, size).

    Args:
        value: What they are, or, if ``by_token``, what has the axes of heads and of tokens exchanged.
        by_token: Which of both.

    """

    value: ir.Value
    by_token: bool = False

    @property
    def shape(self) -> Shape:
        """Their shape."""
        shape = tuple(self.value.shape or ())
        return tuple(shape[axis] for axis in HEADS_FIRST) if self.by_token else shape

    @property
    def heads(self) -> Size:
        """How many heads they have: known where they are split off a value of three axes."""
        split = self.split
        return self.shape[1] if split is None else split.heads

    @property
    def tokens(self) -> tuple[ir.Value, int]:
        """A value that is there before they are split, if they are, and its axis that counts tokens."""
        split = self.split
        return (self.value, 1 if self.by_token else 2) if split is None else (split.value, 1)

    @property
    def split(self) -> Heads | None:
        """The value of three axes that they are split off."""
        node = self.value.producer()
        if node is not None and not self.by_token and is_standard(node, "Transpose"):
            moved = list(attribute(node, "perm", ())) == HEADS_FIRST
            return _split_heads(node.inputs[0]) if moved else None
        return _split_heads(self.value) if self.by_token else None


@dataclass(frozen=True)
class Core:
    """One attention core.

    Args:
        query: The queries.
        key: The keys.
        value: The values.
        masks: What is added to the scores, in order.
        scale: What scores are multiplied by before.
        weighed: The product of weights and values; samples and heads may be one axis of it.
        guarded: Whether a row of weights that are no numbers becomes 0.

    """

    query: Operand
    key: Operand
    value: Operand
    masks: tuple[Mask, ...]
    scale: float
    weighed: ir.Value
    guarded: bool

    @property
    def merged(self) -> tuple[Heads, Heads, Heads, ir.Value, ir.Node] | None:
        """The values of three axes, the context by tokens, and the Reshape that merges its heads again."""
        splits = [one.split for one in (self.query, self.key, self.value)]
        query, key, value = splits
        if query is None or key is None or value is None or rank_of(self.weighed) != 4:
            return None
        found = _merge_of(self.weighed)
        wanted = (query.batch, query.tokens, query.heads * value.size)
        if found is None or not _is_shaped(found[1].outputs[0], wanted):
            return None
        return query, key, value, *found


def core_of(softmax: ir.Node) -> Core | str:
    """Return the attention core around ``softmax``, or why there is none."""
    if attribute(softmax, "axis", -1) not in (-1, (rank_of(softmax.outputs[0]) or 0) - 1):
        return "it is not taken over the last axis"
    scores = scores_of(softmax.inputs[0])
    if scores is None:
        return "its input is no product of queries and keys"
    weighing = weighing_of(softmax)
    if weighing is None:
        return "its output does not weigh values alone"
    (left, left_scale), (right, right_scale) = (unfolded(value) for value in scores.product.inputs)
    query, value = _of_four_axes(left), _of_four_axes(_apart(weighing[0].inputs[1]))
    key, key_scale = key_of(right)
    if query is None or key is None or value is None:
        return "its queries, keys or values do not have four axes"
    scale = scores.factor * left_scale * right_scale * key_scale
    core = Core(query, key, value, scores.masks, scale, weighing[0].outputs[0], weighing[1])
    return _mismatch(core) or core


def unfolded(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Return what ``value`` is without constant factors, of four axes where it has joined two; the factor."""
    bare, factor = unscaled(value)
    apart = _apart(bare)
    if bare is value and apart is value:
        return value, 1.0
    inner, more = unfolded(apart)
    return inner, factor * more


def _apart(value: ir.Value | None) -> ir.Value | None:
    """Return the value of four axes of which ``value`` has joined samples and heads; else itself."""
    node = None if value is None or rank_of(value) != 3 else value.producer()
    joined = node is not None and keeps_matrices(node) and rank_of(node.inputs[0]) == 4
    return node.inputs[0] if joined and node is not None else value


def key_of(value: ir.Value | None) -> tuple[Operand | None, float]:
    """Return the keys whose rows are the columns of ``value``, and the constant factor on them."""
    node = None if value is None else value.producer()
    if node is not None and keeps_matrices(node) and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or not is_standard(node, "Transpose"):
        return None, 1.0
    order = list(attribute(node, "perm", ()))
    if order == TOKENS_LAST and node.inputs[0] is not None:
        return Operand(node.inputs[0], by_token=True), 1.0
    if order != TURNED.get(len(order)):
        return None, 1.0
    inner, factor = unfolded(node.inputs[0])
    return _of_four_axes(inner), factor


def _of_four_axes(value: ir.Value | None) -> Operand | None:
    return Operand(value) if value is not None and rank_of(value) == 4 else None


def _mismatch(core: Core) -> str | None:
    """Return what the Attention operator would take otherwise than the chain, or None."""
    query, key, value = core.query, core.key, core.value
    if not core.scale > 0:
        return "its factor is not positive"
    serves = key.heads == 1 or surely_equal(key.heads, query.heads)
    if not serves or not surely_equal(key.heads, value.heads):
        return "its queries, keys and values may differ in their heads"
    batches = [one.shape[0] for one in (query, key, value)]
    if len({size if isinstance(size, int) else None for size in batches}) > 1:
        return "its queries, keys and values may differ in their batch"
    scores = (query.shape[0], query.heads, query.shape[2], key.shape[2])
    if any((rank_of(mask.value) or 0) < 2 for mask in core.masks):
        return "its mask has fewer than two axes, or nobody knows how many"
    if not all(_spreads(mask, scores) for mask in core.masks):
        return "its mask does not lie over the scores"
    if core.masks and all(_has_one_key(mask, scores) for mask in core.masks):
        return "its mask has one number for all keys"
    return None


def _is_shaped(value: ir.Value, wanted: Shape) -> bool:
    """Tell whether a value that has as many elements as ``wanted`` is known to have that shape."""
    shape = () if value.shape is None else tuple(value.shape)
    same = [surely_equal(size, want) for size, want in zip(shape, wanted, strict=False)]
    return len(shape) == len(wanted) and sum(same) >= len(wanted) - 1


def _spreads(mask: Mask, scores: Shape) -> bool:
    """Tell whether ``mask`` lies over the scores and widens no axis of theirs."""
    shape = () if mask.value.shape is None else tuple(mask.value.shape)
    if mask.folded and len(shape) == 3:
        shape = shape[1:]
    pairs = list(zip(reversed(shape), reversed(scores), strict=False))
    fits = all(size in (1, want) or (want != 1 and not _are_numbers(size, want)) for size, want in pairs)
    return len(shape) <= len(scores) and fits


def _has_one_key(mask: Mask, scores: Shape) -> bool:
    return mask.value.shape is not None and mask.value.shape[-1] == 1 != scores[-1]


def _are_numbers(*sizes: Size) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _split_heads(value: ir.Value | None) -> Heads | None:
    """Return the projection that a Reshape to (batch, tokens, heads, size) splits."""
    split = None if value is None else value.producer()
    if split is None or not is_standard(split, "Reshape"):
        return None
    source, shape = split.inputs[0], split.outputs[0].shape
    if source is None or rank_of(source) != 3 or shape is None or len(shape) != 4:
        return None
    width, heads = source.shape[2] if source.shape else None, shape[2]
    if not isinstance(heads, int) and isinstance(shape[3], int) and isinstance(width, int):
        heads = width // shape[3]
    if not isinstance(heads, int) or not isinstance(width, int) or width % heads:
        return None
    found = Heads(source, heads, width // heads)
    return found if _is_shaped(split.outputs[0], (found.batch, found.tokens, heads, found.size)) else None


def _merge_of(weighed: ir.Value) -> tuple[ir.Value, ir.Node] | None:
    """Return the value whose heads a Reshape merges, and the Reshape."""
    transpose = sole_reader(weighed)
    if transpose is None or not is_standard(transpose, "Transpose"):
        return None
    context = transpose.outputs[0]
    others = [node for node in context.consumers() if not is_standard(node, "Reshape")]
    merges = [node for node in context.consumers() if is_standard(node, "Reshape")]
    if list(attribute(transpose, "perm", ())) != HEADS_FIRST or len(merges) != 1 or context.is_graph_output():
        return None
    if rank_of(merges[0].outputs[0]) != 3 or not all(asks_for_leading_axes(node) for node in others):
        return None
    return context, merges[0]


def asks_for_leading_axes(node: ir.Node) -> bool:
    """Tell whether ``node`` takes the shape, of which only the first two entries are read."""
    if not is_standard(node, "Shape"):
        return False
    readers = node.outputs[0].consumers()
    indices = [constant_of(reader.inputs[1]) if is_standard(reader, "Gather") else None for reader in readers]
    return all(
        index is not None and index.size == 1 and int(index.reshape(())) in (0, 1) for index in indices
    )
