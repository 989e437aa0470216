"""Laws that hold every pass to its promise, on any model, by running it in ONNX Runtime.

``HoldToPromise`` is an instrument: put it among a PassManager's instruments, with feeds to run, and each
pass that changes numbers more than its effect allows fails with an AssertionError as its cause.

**EXACT.** The outputs before and after differ by rounding only: at most ``SAFETY * eps * terms *
magnitude``, with the eps of the narrowest float type, the number of roundings that can add up on the way
(``terms``: the longest sum in each node, over all nodes) and the largest magnitude of any value inside, since
a sum that cancels loses digits of its summands. This is a first-order bound for graphs that
do not amplify: a model that divides by a difference of near-equal numbers needs feeds that avoid it.

**QUANTIZING.** Bounds that hold for a whole network would be far too wide to find a mistake, so each
quantization and each linear layer is held to its own, at the values that really reach it:
``|x' - x|`` is at most half a step and what the grid cuts off; and for a layer that is
linear in each of its inputs, ``|f(x', w', b') - f(x, w, b)|`` is at most ``f(|x| + dx, |w| + dw, |b| + db) -
f(|x|, |w|, |b|)``, which for a product is ``|x| dw + dx |w| + dx dw``.

**ROUNDING.** Each node is held to one rounding of its constants and of its result: see
``onnxq.testing.rounding``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.analysis.layers import Layer, layer_of
from onnxq.analysis.quantized import Quantized, dequantized, read_dequantize
from onnxq.ir.digest import graph_digest
from onnxq.ir.module import LINEAR, GraphModule, array_of, constant_of, input_of, is_standard, name_of
from onnxq.ir.text import parse, render
from onnxq.passmanager.base import Effect, Pass, PassRecord
from onnxq.passmanager.instruments import Instrument
from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Facts, Need
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.testing.rounding import assert_rounded
from onnxq.testing.running import Array, Feeds, arrays_in, assert_near, evaluate, is_floats, run_model

Seen = Mapping[str, Array]
"""Values by name: what was fed, and what a run computed."""

SAFETY = 4.0
"""Both sides round, and a runtime's sums may be in any order."""


def random_feeds(module: GraphModule, seed: int, *, integers_below: int = 3) -> dict[str, Array]:
    """Return one batch for the model: normal floats, small integers; open axes get small sizes."""
    rng = np.random.default_rng(seed)
    sizes: dict[str, int] = {}
    feeds: dict[str, Array] = {}
    for value in module.graph.inputs:
        if value.is_initializer() or value.dtype is None or value.shape is None:
            continue
        shape = [d if isinstance(d, int) else sizes.setdefault(str(d), 3 + len(sizes)) for d in value.shape]
        numbers = (
            rng.normal(size=shape)
            if value.dtype.is_floating_point()
            else rng.integers(0, integers_below, shape)
        )
        feeds[name_of(value)] = np.asarray(numbers, value.dtype.numpy())
    return feeds


@dataclass(frozen=True)
class FeedsData:
    """Feeds as calibration data, and as a PassManager's ``measure``."""

    feeds: Sequence[Feeds]

    def batches(self) -> Iterator[FeedsBatch]:
        """Yield each of the feeds as a batch."""
        yield from map(FeedsBatch, self.feeds)

    def measure(self, module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        """Measure ``needs`` on these feeds."""
        from onnxq.calibration.collect import collect

        return collect(module.model, needs, self, Run(threads=1)).facts


@dataclass(frozen=True)
class FeedsRuntime:
    """Feeds, and graphs that ONNX Runtime runs in one thread, as a PassManager's ``runtime``."""

    feeds: Sequence[Feeds]

    def batches(self) -> Iterator[Feeds]:
        """Yield each of the feeds."""
        yield from self.feeds

    def open(self, module: GraphModule) -> Callable[[Feeds], Mapping[str, Any]]:
        """Open a graph."""
        return open_session(ir.to_proto(module.model), Run(threads=1)).run


@dataclass(frozen=True)
class FeedsBatch:
    """One batch without labels."""

    feeds: Feeds
    labels: None = None

    @property
    def rows(self) -> int:
        """The number of samples."""
        return next((len(array) for array in self.feeds.values() if array.ndim), 1)


@dataclass
class HoldToPromise(Instrument):
    """After each pass, asserts the laws of its effect, and what every pass must keep.

    Args:
        feeds: What to run the model on.
        texts: Whether to read back the module's text after each pass.

    """

    feeds: Sequence[Feeds]
    texts: bool = True
    _before: GraphModule = field(init=False)
    _digest: str = field(default="", init=False)
    _seen: list[Seen] = field(default_factory=list, init=False)
    """What the graph with this digest computes: after one pass is before the next."""

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Keep a copy."""
        self._before = module.clone()
        digest = graph_digest(module)
        if digest != self._digest:
            self._digest, self._seen = digest, [run_inside(module, feeds) for feeds in self.feeds]

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Assert the laws; a pass that changed nothing has kept them."""
        digest = graph_digest(module)
        if digest == self._digest:
            return
        if self.texts:
            assert_text_round_trip(module)
        assert_same_interface(self._before, module)
        old, self._digest = self._seen, digest
        self._seen = [run_inside(module, feeds) for feeds in self.feeds]
        for number, feeds in enumerate(self.feeds):
            if pass_.effect is Effect.EXACT:
                assert_same_outputs(self._before, module, old[number], self._seen[number])
            elif pass_.effect is Effect.ROUNDING:
                assert_rounded(self._before, module, feeds)
            else:
                assert_within_steps(self._before, module, self._seen[number])


def run_inside(module: GraphModule, feeds: Feeds) -> Seen:
    """Return the feeds, and all values that the graph computes from them, unoptimised."""
    return {**feeds, **run_model(module, feeds, inner=True)}


def assert_text_round_trip(module: GraphModule) -> None:
    """Assert that the module's text reads back as the same module."""
    text = render(module)
    assert graph_digest(parse(text)) == graph_digest(module), "the text form reads back as another graph"


def assert_same_interface(before: GraphModule, after: GraphModule) -> None:
    """Assert that what must be fed, and what comes out, kept names, order and types."""
    assert _interface(after) == _interface(before), f"{_interface(before)} became {_interface(after)}"


def assert_exact(before: GraphModule, after: GraphModule, feeds: Feeds) -> None:
    """Assert that the outputs differ by rounding only."""
    assert_same_outputs(before, after, run_inside(before, feeds), run_inside(after, feeds))


def assert_same_outputs(before: GraphModule, after: GraphModule, old: Seen, new: Seen) -> None:
    """Assert that the outputs differ by rounding only, given all values that both computed."""
    bound = rounding_bound([(before, old), (after, new)])
    for output in before.graph.outputs:
        name = name_of(output)
        assert_near(new[name], old[name], bound, f"output {name!r}")


def rounding_bound(runs: Sequence[tuple[GraphModule, Seen]]) -> float:
    """Return how far outputs may differ by rounding: see EXACT above.

    Args:
        runs: Modules, and the values seen in a run of each.

    """
    values = [array for _, seen in runs for value in seen.values() for array in arrays_in(value)]
    floats = [array for array in values if is_floats(array) and array.size]
    narrowest = {value.dtype for module, _ in runs for value in module.values()}
    eps = float(np.finfo(np.float16 if ir.DataType.FLOAT16 in narrowest else np.float32).eps)
    terms = max(sum(_terms(node, seen) for node in module.graph) for module, seen in runs)
    return SAFETY * eps * terms * max((float(np.abs(v).max()) for v in floats), default=0.0)


def assert_within_steps(before: GraphModule, after: GraphModule, computed: Seen) -> None:
    """Assert of each quantization and each linear layer that it keeps its own bound."""
    seen = {**computed}
    seen |= {name: v.const_value.numpy() for name, v in after.graph.initializers.items() if v.const_value}
    rounding = rounding_bound([(after, seen)])
    old_nodes = {node.name or "": node for node in before.graph}
    limits = {one.value: one.encoding.limit for one in before.named_decisions()}
    for node in before.graph:
        if is_standard(node, "Gather") and constant_of(node.inputs[0]) is not None:
            _assert_rows_within_steps(node, after, seen, rounding)
    for node in after.graph:
        if is_standard(node, "DequantizeLinear"):
            found = _restored(node.outputs[0], None, seen)
            result = seen[name_of(node.outputs[0])]
            assert_near(result, found.real, found.error + rounding, f"node {node.name!r}")
        elif is_standard(node, *LINEAR) and node.name in old_nodes:
            _assert_layer_within_steps(old_nodes[node.name or ""], node, seen, rounding, limits)


@dataclass(frozen=True)
class _Restored:
    """A value before it was quantized, and how far it may have moved; equal shapes."""

    real: Array
    error: Array


def _restored(
    value: ir.Value, original: Array | None, seen: Mapping[str, Array], limit: int | None = None
) -> _Restored:
    """Look through a DequantizeLinear at what was quantized; ``original`` stands for a constant.

    No node says where the integers of a constant had to end: ``limit`` does. A Sum of one value is looked
    through as well.
    """
    node, found = value.producer(), dequantized(value)
    if node is not None and is_standard(node, "Sum") and len(node.inputs) == 1 and node.inputs[0] is not None:
        return _restored(node.inputs[0], original, seen, limit)
    if found is None:
        array = seen[name_of(value)].astype(np.float64)
        return _Restored(array, np.zeros_like(array))
    source = _quantized_from(found)
    real = original if source is None else seen[name_of(source)]
    if real is None:
        real = seen[name_of(value)]
    encoding = replace(_encoding_of(found, seen), limit=limit if source is None else None)
    return _Restored(real.astype(np.float64), encoding.error_bound(real).astype(np.float64))


def _assert_rows_within_steps(
    gather: ir.Node, after: GraphModule, seen: Mapping[str, Array], rounding: float
) -> None:
    """Compare gathered rows of a float table with those of its integers; a row's step is scale by factor."""
    name = name_of(gather.outputs[0])
    value = after.value(name)
    last = None if value is None else value.producer()
    if last is not None and last.op_type == "GatherBlockQuantized":
        _assert_blocks_within_steps(gather, last, seen, rounding)
    if last is None or not is_standard(last, "Mul", "DequantizeLinear"):
        return
    found = read_dequantize(last) or dequantized(last.inputs[0])
    if found is None or _quantized_from(found) is not None:
        return  # where the rows are quantized once more, they are as any other value
    step = seen[name_of(found.scale)]
    if last is not found.node:
        step = step * seen[name_of(last.inputs[1])]
    axis = gather.attributes.get_int("axis", 0)
    rows = np.take(array_of(gather.inputs[0]), seen[name_of(gather.inputs[1])], axis=axis)
    assert_near(seen[name], rows, step / 2 + rounding, f"node {gather.name!r}")


def _assert_blocks_within_steps(
    gather: ir.Node, fused: ir.Node, seen: Mapping[str, Array], rounding: float
) -> None:
    """Compare gathered rows with those of the float table: half a step, and as much for the zero point."""
    table, ids = array_of(gather.inputs[0]), seen[name_of(gather.inputs[1])]
    blocks = seen[name_of(fused.inputs[2])]
    step = np.repeat(blocks, fused.attributes.get_int("block_size", 128), axis=1)[:, : table.shape[1]]
    result = seen[name_of(fused.outputs[0])]
    assert_near(result, table[ids], step[ids] + rounding, f"node {gather.name!r}")


def _quantized_from(found: Quantized) -> ir.Value | None:
    """Return what a QuantizeLinear before a DequantizeLinear reads; None for stored integers."""
    producer = found.stored.producer()
    if producer is None or not is_standard(producer, "QuantizeLinear", "DynamicQuantizeLinear"):
        return None
    return producer.inputs[0]


def _encoding_of(found: Quantized, seen: Mapping[str, Array]) -> Encoding:
    """Return the encoding that a DequantizeLinear undoes, as seen at run time."""
    zero_point = None if found.zero_point is None else seen[name_of(found.zero_point)]
    return found.encoding_with(seen[name_of(found.scale)], zero_point)


def _assert_layer_within_steps(
    old: ir.Node,
    new: ir.Node,
    seen: Mapping[str, Array],
    rounding: float,
    limits: Mapping[str, int | None],
) -> None:
    parts = [
        _restored(value, constant_of(source), seen, limits.get(name_of(source)) if source else None)
        for index, value in enumerate(new.inputs)
        if value is not None
        for source in (input_of(old, index),)
    ]
    exact = evaluate(new, [part.real for part in parts])
    sizes = [np.abs(part.real) for part in parts]
    widest = evaluate(
        new, [size + part.error for size, part in zip(sizes, parts, strict=True)], absolute=True
    )
    bound = widest - evaluate(new, sizes, absolute=True) + rounding
    assert_near(seen[name_of(new.outputs[0])], exact, bound, f"layer {new.name!r}")


def _interface(module: GraphModule) -> list[tuple[str, ir.DataType | None]]:
    fed = [value for value in module.graph.inputs if not value.is_initializer()]
    return [(name_of(value), value.dtype) for value in (*fed, *module.graph.outputs)]


def _terms(node: ir.Node, seen: Mapping[str, Array]) -> int:
    """Bound how many terms a node adds up: a layer those of one channel, others one sample's elements."""
    layer = layer_of(node) if is_standard(node, *LINEAR) else None
    if isinstance(layer, Layer):
        weight = array_of(layer.weight)
        return int(weight.size // weight.shape[layer.channel_axis])
    arrays = [array for value in node.inputs for array in arrays_in(seen.get(name_of(value)))]
    return max((int(np.prod(array.shape[1:])) for array in arrays), default=1)
