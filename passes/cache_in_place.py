"""Write attention over a cache as ONNX Runtime's operator that keeps the cache where it is.

Before, ``past_key`` and ``past_value`` being inputs of the model, and the present ones outputs::

    present_key = Concat(past_key, k); present_value = Concat(past_value, v)
    y = Reshape(Transpose(Softmax(q @ present_key.T * scale + mask) @ present_value))

After: ``y, present_key, present_value = com.microsoft.GroupQueryAttention(q, k, v, past_key, past_value,
lengths - 1, total)``. Where past and present are bound to one buffer, a step writes what is new into it and
copies nothing; heads that serve several queries' heads are not repeated. Rotations of queries and keys stay
before it.

A mask may rule out keys of later tokens, and what flags that the model takes, as ``attention_mask``, call
padding. The operator knows padding by its length. That flags are ones and then zeros is not in the graph:
somebody has to say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.analysis.attention import HEADS_FIRST
from onnxq.analysis.caching import LENGTH_AXIS, CachedCore, cached_core_of
from onnxq.ir.module import GraphModule, attribute, is_standard, name_of
from onnxq.ir.schema import CONTRIB
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.fusing import raise_for
from onnxq.rewrite.builder import Builder
from onnxq.rewrite.counting import count_flags

OPERATOR, FIRST_OPSET = "GroupQueryAttention", 15
WHY = "attention that keeps its cache in place"
UNTOLD = "flags say which keys count, and nobody said that they are ones, then zeros: padding=behind"
HEAD_UNIT = 8
"""The operator takes heads whose size is a multiple of it."""
INT32 = ir.DataType.INT32
_Lengths = tuple[ir.Value, ir.Value]
"""The place of each sample's last token, int32 (batch,), and how many tokens there are at most, (1,)."""


@dataclass(frozen=True)
class CacheInPlace(Pass):
    """Write each softmax over keys and values of a cache as GroupQueryAttention.

    Options:
        padding: What is known of flags that the model takes: nothing (``any``), or that they are ones and
            then zeros in each row (``behind``). The last token of a step is then that of the last one, and
            behind a cache several samples take one token at a time.

    Source:
        onnxruntime's page docs/ContribOperators.md, com.microsoft.GroupQueryAttention.

    """

    name: ClassVar[str] = "cache-in-place"
    effect: ClassVar[Effect] = Effect.EXACT
    optional: ClassVar[bool] = True
    padding: Literal["any", "behind"] = "any"

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave attention alone that sees other keys, or whose padding nobody knows."""
        cores = [node for node in _softmaxes(module) if isinstance(cached_core_of(node), CachedCore)]
        if not raise_for(cores, FIRST_OPSET, module, ctx, why="brings Shape of a part"):
            return
        asked = [node for node in module.graph if is_standard(node, "Shape")]
        lengths: dict[ir.Value, _Lengths] = {}
        for node in _softmaxes(module):
            core = cached_core_of(node)
            reason = self._reason(core) if isinstance(core, CachedCore) else core
            if reason is not None:
                ctx.skip(node, reason)
            elif isinstance(core, CachedCore):
                _write(core, lengths, ctx)
        for reader in _wanted(asked, module):
            ctx.skip(reader, "it reads the length of a cache, which must grow with each step then")

    def _reason(self, core: CachedCore) -> str | None:
        if core.flags is not None and self.padding == "any":
            return UNTOLD
        if core.flags is None and not core.steps_alone:
            return (
                "it may be fed several tokens of several samples behind a cache, which the operator refuses"
            )
        size = core.key.size
        return f"its heads of {size} numbers are no multiple of {HEAD_UNIT}" if size % HEAD_UNIT else None


def _softmaxes(module: GraphModule) -> list[ir.Node]:
    return [node for node in module.graph if is_standard(node, "Softmax")]


def _write(core: CachedCore, lengths: dict[ir.Value, _Lengths], ctx: PassContext) -> None:
    """Put the operator where the heads were merged; ``lengths`` are those that stand before it already."""
    op, merged, key, value = ctx.edit.at(core.context, why=WHY), core.merged.outputs[0], core.key, core.value
    read = [_of_three_axes(one, op) for one in (core.query, key.new, value.new)]
    source = core.flags or key.past
    if source not in lengths:
        lengths[source] = (
            _lengths_of_flags(source, op) if core.flags else _lengths_of_all(source, read[0], op)
        )
    names = [f"{name_of(merged)}_attention", *(f"{name_of(one.present)}_kept" for one in (key, value))]
    attended, *present = op.several(
        OPERATOR,
        *read,
        key.past,
        value.past,
        *lengths[source],
        names=names,
        like=[core.context, key.present, value.present],
        domain=CONTRIB,
        num_heads=core.heads,
        kv_num_heads=key.heads,
        scale=core.scale,
    )
    attended.shape = ir.Shape([*(core.context.shape or ())[:2], core.heads * value.size])
    for reader in list(core.context.consumers()):
        why = "the same numbers in the same order" if reader is core.merged else "the same leading axes"
        ctx.edit.rewire(reader, 0, attended, why=why)
    for cache, kept in zip((key, value), present, strict=True):
        if cache.present.is_graph_output():
            ctx.edit.reroute(cache.present, kept, readers=[None], why=WHY)


def _of_three_axes(value: ir.Value, op: Builder) -> ir.Value:
    """Return (batch, heads, tokens, size) as (batch, tokens, heads * size)."""
    node, name = value.producer(), name_of(value)
    split = node.inputs[0] if node is not None and is_standard(node, "Transpose") else None
    if split is None or node is None or list(attribute(node, "perm", ())) != HEADS_FIRST:
        split = op.Transpose(value, perm=HEADS_FIRST, name=f"{name}_by_token")
    return op.Reshape(split, np.array([0, 0, -1], np.int64), name=f"{name}_3d")


def _lengths_of_flags(flags: ir.Value, op: Builder) -> _Lengths:
    """Count the flags of each sample: the last that is set is that of the last token of this step."""
    name, counts = name_of(flags), count_flags(flags, op)
    tokens = op.Shape(flags, start=1, end=2, name=f"{name}_tokens")
    return op.Sub(counts, 1, name=f"{name}_last"), op.Cast(tokens, to=INT32, name=f"{name}_total")


def _lengths_of_all(past: ir.Value, new: ir.Value, op: Builder) -> _Lengths:
    """Add the tokens of this step, of ``new`` (batch, tokens, width), to those of a cache that grows."""
    name, axis = name_of(past), LENGTH_AXIS
    before = op.Shape(past, start=axis, end=axis + 1, name=f"{name}_before")
    now = op.Shape(new, start=1, end=2, name=f"{name}_new")
    batch = op.Shape(past, start=0, end=1, name=f"{name}_batch")
    total = op.Cast(op.Add(before, now, name=f"{name}_tokens"), to=INT32, name=f"{name}_total")
    return op.Expand(op.Sub(total, 1, name=f"{name}_last_of_all"), batch, name=f"{name}_last"), total


def _wanted(asked: Sequence[ir.Node], module: GraphModule) -> Iterator[ir.Node]:
    """Yield which of ``asked`` read the length of a cache that is kept, and are of use for a result."""
    kept = {value for node in module.graph if node.op_type == OPERATOR for value in node.inputs[3:5]}
    ahead, used = [value.producer() for value in module.graph.outputs], set[ir.Node]()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in used:
            used.add(node)
            ahead.extend(value.producer() for value in node.inputs if value is not None)
    yield from (node for node in asked if node in used and node.inputs[0] in kept)
