"""The laws must catch passes that break their promise; each mutant breaks one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import PassError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, HoldToPromise, random_feeds, rounding_bound

pytest.importorskip("onnxruntime", reason="the laws run models")

Change = Callable[[GraphModule, PassContext], object]

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x, int64[N] ids) => (float[N,2] y, float[N,2] rows)
<float[4,2] w = {0.1, -20, 0.3, 40, -0.5, 60, 0.7, -80},
 float[2] b = {0.5, -1}, float[3,2] t = {1, 2, 3, 4, 5, 6}>
{
    [layer] h = Gemm(x, w, b)
    [act] y = Relu(h)
    [lookup] rows = Gather(t, ids)
}
"""


@dataclass(frozen=True)
class Exact(Pass):
    """Say that a change is exact."""

    name: ClassVar[str] = "exact"
    effect: ClassVar[Effect] = Effect.EXACT
    change: Change = field(default=lambda module, ctx: None)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        self.change(module, ctx)


@dataclass(frozen=True)
class Quantizing(Pass):
    """Realise the decisions, and then spoil the result."""

    name: ClassVar[str] = "quantizing"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    change: Change = field(default=lambda module, ctx: None)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        (insert,) = parse_pipeline("insert-qdq")
        insert.run(module, ctx)
        self.change(module, ctx)


@dataclass(frozen=True)
class Rounding(Pass):
    """Lower the precision, and then spoil the result."""

    name: ClassVar[str] = "rounding"
    effect: ClassVar[Effect] = Effect.ROUNDING
    change: Change = field(default=lambda module, ctx: None)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        (lower,) = parse_pipeline("lower-precision")
        lower.run(module, ctx)
        self.change(module, ctx)


def run_rounding(last: Pass) -> None:
    module = parse(TEXT)
    feeds = [random_feeds(module, seed) for seed in range(3)]
    passes = [*parse_pipeline("infer-shapes"), last]
    PassManager(passes, find_target("cuda"), [HoldToPromise(feeds)]).run(module)


def run(last: Pass) -> None:
    module = parse(TEXT)
    feeds = [random_feeds(module, seed) for seed in range(3)]
    prepare = "infer-shapes,encode-weights,encode-embeddings{minimum=1},encode-activations,encode-biases"
    passes = [*parse_pipeline(prepare), last]
    PassManager(passes, find_target("cpu"), [HoldToPromise(feeds)], FeedsData(feeds).measure).run(module)


def replace_constant(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return a change that gives a constant other numbers, its readers staying."""

    def spoil(module: GraphModule, ctx: PassContext) -> None:
        value = module.graph.initializers[name]
        assert value.const_value is not None
        array = value.const_value.numpy()
        new = ctx.edit.constant(f"{name}_new", change(array).astype(array.dtype), why="mutant")
        ctx.edit.reroute(value, new, why="mutant")

    return spoil


def rename_output(module: GraphModule, ctx: PassContext) -> None:
    module.graph.outputs[0].name = "other"


def swap_channels(module: GraphModule, ctx: PassContext) -> None:
    """Quantize each column of the weight with the other column's scale, without telling."""
    replace_constant("w_scale", lambda scale: scale[::-1])(module, ctx)


def skip_the_activation(module: GraphModule, ctx: PassContext) -> None:
    (act,) = (node for node in module.graph if node.op_type == "Relu")
    ctx.edit.reroute(act.outputs[0], act.inputs[0], why="mutant")  # type: ignore[arg-type]


def test_the_honest_ones_pass() -> None:
    run(Exact())
    run(Quantizing())
    run(Exact(replace_constant("w", lambda w: w * (1 + 1e-7))))


def test_rows_of_a_table_may_be_quantized_once_more() -> None:
    module = parse(TEXT)
    feeds = [random_feeds(module, 0)]
    prepare = "infer-shapes,encode-embeddings{minimum=1},encode-activations{scope=all-tensors},insert-qdq"
    passes = parse_pipeline(prepare)
    PassManager(passes, find_target("cpu"), [HoldToPromise(feeds)], FeedsData(feeds).measure).run(module)
    pairs = [
        node for node in module.graph if node.op_type == "QuantizeLinear" and "rows" in str(node.outputs)
    ]
    assert len(pairs) == 1


EXACT_MUTANTS = {
    "a weight moved by a thousandth": (replace_constant("w", lambda w: w * 1.001), "output 'y': differs by"),
    "a bias lost": (replace_constant("b", lambda b: b * 0), "output 'y': differs by"),
    "an operator skipped": (skip_the_activation, "output 'y': differs by"),
    "an output renamed": (rename_output, r"\('other', .*\)"),
}


@pytest.mark.parametrize(("change", "message"), EXACT_MUTANTS.values(), ids=EXACT_MUTANTS)
def test_what_is_not_exact_is_found(change: Change, message: str) -> None:
    with pytest.raises(PassError, match=message) as caught:
        run(Exact(change))
    assert isinstance(caught.value.__cause__, AssertionError)


QUANTIZING_MUTANTS = {
    "weight scales of the wrong channels": swap_channels,
    "a weight scale off by a tenth": replace_constant("w_scale", lambda scale: scale * 1.1),
    "integers two steps off": replace_constant("w_q", lambda q: np.clip(q.astype(int) + 2, -127, 127)),
    "a bias in other steps": replace_constant("b_q", lambda q: q * 2),
    "a table one step off": replace_constant("t_q", lambda q: np.clip(q.astype(int) + 2, -127, 127)),
}


@pytest.mark.parametrize("change", QUANTIZING_MUTANTS.values(), ids=QUANTIZING_MUTANTS)
def test_what_moves_further_than_its_steps_is_found(change: Change) -> None:
    with pytest.raises(PassError, match=r"(layer|node) '.*': differs by") as caught:
        run(Quantizing(change))
    assert isinstance(caught.value.__cause__, AssertionError)


def test_an_activation_restored_with_another_zero_point_is_found() -> None:
    def shift(module: GraphModule, ctx: PassContext) -> None:
        (restore,) = (n for n in module.graph if n.name == "x_dq")
        scale = restore.inputs[1]
        assert scale is not None
        assert scale.const_value is not None
        other = ctx.edit.constant("other_scale", scale.const_value.numpy() * 2, why="mutant")
        ctx.edit.rewire(restore, 1, other, why="mutant")

    with pytest.raises(PassError, match="node 'x_dq': differs by"):
        run(Quantizing(shift))


ROUNDING_MUTANTS = {
    "a weight off by a hundredth": replace_constant("w_f16", lambda w: w * 1.01),
    "a bias lost": replace_constant("b_f16", lambda b: b * 0),
    "a row rounded once more": replace_constant("t_f16", lambda t: t * (1 + 2**-7)),
}


def test_an_honest_rounding_passes() -> None:
    run_rounding(Rounding())


@pytest.mark.parametrize("change", ROUNDING_MUTANTS.values(), ids=ROUNDING_MUTANTS)
def test_what_rounds_more_than_its_type_is_found(change: Change) -> None:
    with pytest.raises(PassError, match=r"node '.*': differs by") as caught:
        run_rounding(Rounding(change))
    assert isinstance(caught.value.__cause__, AssertionError)


def test_feeds_are_seeded_and_fit_the_inputs() -> None:
    module = parse(TEXT)
    feeds, again = random_feeds(module, 7), random_feeds(module, 7)
    assert {name: (array.dtype, array.shape) for name, array in feeds.items()} == {
        "x": (np.dtype(np.float32), (3, 4)),
        "ids": (np.dtype(np.int64), (3,)),
    }
    assert all((feeds[name] == again[name]).all() for name in feeds)
    assert module.graph.inputs[0].dtype == ir.DataType.FLOAT


def test_the_bound_of_doubles_beyond_float32_is_a_number() -> None:
    """It was infinite, so that nothing was too far from it."""
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (double[2] x) => (double[2] y) { y = Neg(x) }'
    )
    seen = {name: np.array([0, 1e60]) for name in ("x", "y")}
    assert rounding_bound([(module, seen)]) == 4 * float(np.finfo(np.float32).eps) * 1e60
