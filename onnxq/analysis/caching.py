"""Attention over a cache, as exporters write it: keys and values of a step are put behind those of before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxq.analysis.attention import HEADS_FIRST, asks_for_leading_axes, key_of, unfolded
from onnxq.analysis.cases import AtMostZero, Condition, IsSet
from onnxq.analysis.masks import BATCH, KEY, QUERY, length_of, ruling_of
from onnxq.analysis.padding import ABSORBING
from onnxq.analysis.scores import Mask, scores_of, weighing_of
from onnxq.ir.module import attribute, constant_of, is_standard, rank_of

LENGTH_AXIS = 2
"""The axis of a cache of shape (batch, heads, tokens, size) that grows with each step."""


@dataclass(frozen=True)
class Cache:
    """Keys or values of all tokens.

    Args:
        past: An input of the model, of shape (batch, heads, tokens before, size).
        new: Those of the tokens of this step.
        present: Both, the new ones behind.
        repeats: So many heads of queries in a row read each head.

    """

    past: ir.Value
    new: ir.Value
    present: ir.Value
    repeats: int = 1

    @property
    def heads(self) -> int:
        """How many heads it has."""
        return _sizes(self.past)[0]

    @property
    def size(self) -> int:
        """How many numbers a head has for each token."""
        return _sizes(self.past)[1]


@dataclass(frozen=True)
class CachedCore:
    """One attention core over a cache, in which no query sees a key of a later token.

    Args:
        query: The queries, of shape (batch, heads, tokens, size).
        key: The keys.
        value: The values.
        heads: How many heads the queries have.
        scale: What scores are multiplied by.
        flags: An input of the model of shape (batch, all tokens), which is 1 where a key counts; None where
            all do.
        context: The result, of shape (batch, tokens, heads, size).
        merged: The Reshape that makes three axes of it, or two.

    """

    query: ir.Value
    key: Cache
    value: Cache
    heads: int
    scale: float
    flags: ir.Value | None
    context: ir.Value
    merged: ir.Node

    @property
    def steps_alone(self) -> bool:
        """Whether it is known to take one token, or one sample, at a time."""
        return 1 in (length_of(self.query, LENGTH_AXIS), length_of(self.query, 0))


def cached_core_of(softmax: ir.Node) -> CachedCore | str | None:
    """Return the core around ``softmax``, why it is taken for none, or None where there is no cache."""
    found, scores = weighing_of(softmax), scores_of(softmax.inputs[0])
    value = None if found is None else _cache_of(found[0].inputs[1])
    if found is None or value is None:
        return None
    if attribute(softmax, "axis", -1) not in (-1, 3):
        return "it is not taken over the last axis"
    if scores is None:
        return "its input is no product of queries and keys"
    (query, query_scale), (right, right_scale) = (unfolded(one) for one in scores.product.inputs)
    keys, key_scale = key_of(right)
    key = None if keys is None or keys.by_token else _cache_of(keys.value)
    if query is None or key is None or rank_of(query) != 4:
        return "its keys are not those of a cache"
    factor = scores.factor * query_scale * right_scale * key_scale
    if not factor > 0:
        return "its factor is not positive"
    heads = _heads_of(query, key, value)
    context = _sole_transpose(found[0].outputs[0])
    merged = None if context is None else _merge_of(context)
    if heads is None or context is None or merged is None:
        return "nobody knows how many heads it has, or they are not merged right behind it"
    core = CachedCore(query, key, value, heads, factor, None, context, merged)
    return _with_masks(core, scores.masks)


def _with_masks(core: CachedCore, masks: tuple[Mask, ...]) -> CachedCore | str:
    """Return the core with the flags that its masks read, or why they rule out other keys than they may."""
    rulings = [ruling_of(mask.value) if mask.low is None or mask.keeps else None for mask in masks]
    if any(one is None or one.entry > ABSORBING for one in rulings):
        return "its mask cannot be read, or does not swallow the scores of what it rules out"
    conditions: frozenset[Condition] = frozenset().union(*(one.conditions for one in rulings if one))
    flags = [one for one in conditions if isinstance(one, IsSet) and one.index == (BATCH, KEY)]
    past = length_of(core.key.past, LENGTH_AXIS)
    causal = [one for one in conditions if past is not None and one == AtMostZero(KEY - QUERY - past)]
    if len(flags) > 1 or len(flags) + len(causal) < len(conditions):
        return "its mask rules out other keys than padding and those of later tokens"
    if not causal and length_of(core.query, LENGTH_AXIS) != 1:
        return "its queries may see keys of later tokens"
    return replace(core, flags=flags[0].value if flags else None)


def _sizes(past: ir.Value) -> tuple[int, int]:
    """Return the number of heads and their size."""
    assert past.shape is not None
    heads, size = past.shape[1], past.shape[3]
    assert isinstance(heads, int)
    assert isinstance(size, int)
    return heads, size


def _cache_of(value: ir.Value | None) -> Cache | None:
    """Return the cache that ``value`` is, each of its heads perhaps for several in a row."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return None
    if is_standard(node, "Reshape"):
        return _repeated(value, node)
    if not is_standard(node, "Concat") or attribute(node, "axis", 0) not in (LENGTH_AXIS, -2):
        return None
    past, new = node.inputs if len(node.inputs) == 2 else (None, None)
    if past is None or new is None or not past.is_graph_input() or past.shape is None or rank_of(past) != 4:
        return None
    whole = isinstance(past.shape[1], int) and isinstance(past.shape[3], int)
    return Cache(past, new, value) if whole else None


def _repeated(value: ir.Value, reshape: ir.Node) -> Cache | None:
    """Return the cache behind Unsqueeze, Expand and Reshape, which repeat each head."""
    expand = None if reshape.inputs[0] is None else reshape.inputs[0].producer()
    if expand is None or not is_standard(expand, "Expand") or expand.inputs[0] is None:
        return None
    unsqueeze = expand.inputs[0].producer()
    axes = constant_of(unsqueeze.inputs[1]) if unsqueeze and is_standard(unsqueeze, "Unsqueeze") else None
    found = _cache_of(unsqueeze.inputs[0]) if unsqueeze and axes is not None else None
    heads = value.shape[1] if value.shape is not None and rank_of(value) == 4 else None
    if found is None or axes is None or axes.tolist() != [2] or not isinstance(heads, int):
        return None
    sizes = () if value.shape is None else tuple(value.shape)
    fits = found.repeats == 1 and heads % found.heads == 0 and sizes[-1] == found.size
    return replace(found, repeats=heads // found.heads) if fits else None


def _heads_of(query: ir.Value, key: Cache, value: Cache) -> int | None:
    """Return how many heads the queries have, which those of keys and values are repeated to."""
    heads = key.heads * key.repeats
    own = query.shape[1] if query.shape is not None else None
    if (key.heads, key.repeats, key.size) != (value.heads, value.repeats, value.size):
        return None
    if isinstance(own, int):
        return own if own == heads else None
    return heads if heads > 1 else None  # a single head would serve any number of queries'


def _sole_transpose(value: ir.Value) -> ir.Value | None:
    """Return what the only reader makes of it: the heads' axis moved behind the tokens'."""
    readers = list(value.consumers())
    if len(readers) != 1 or value.is_graph_output() or not is_standard(readers[0], "Transpose"):
        return None
    return readers[0].outputs[0] if list(attribute(readers[0], "perm", ())) == HEADS_FIRST else None


def _merge_of(context: ir.Value) -> ir.Node | None:
    """Return the Reshape to three axes, or to rows of tokens; others may ask for the leading two lengths."""
    merges = [node for node in context.consumers() if is_standard(node, "Reshape")]
    others = [node for node in context.consumers() if node not in merges]
    if len(merges) != 1 or context.is_graph_output() or rank_of(merges[0].outputs[0]) not in (2, 3):
        return None
    return merges[0] if all(map(asks_for_leading_axes, others)) else None
