"""Running passes: order, facts, records and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from onnxq.errors import CalibrationError, ModelError, PassError, VerifyError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse, render
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.instruments import BisectLimit, VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.facts import Facts, Kind, Need, facts_of, joined
from onnxq.quant.statistics import Average, ChannelRange, Range
from onnxq.target import find_target

CPU = find_target("cpu")
TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
{
    [first] h = Relu(x)
    [second] y = Relu(h)
}
"""


@dataclass(frozen=True)
class Ask(Pass):
    """Need facts of some values."""

    name: ClassVar[str] = "ask"
    effect: ClassVar[Effect] = Effect.EXACT
    asked: tuple[Need, ...] = ()
    then: Callable[[GraphModule, PassContext], None] = field(default=lambda module, ctx: None)

    def needs(self, module: GraphModule) -> Iterable[Need]:
        present = {value.name for value in module.values()}
        return [need for need in self.asked if need.value in present]

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        self.then(module, ctx)


def need(value: str, *stats: Kind, axis: int = -1) -> Need:
    return Need(value, frozenset(stats), axis)


@dataclass
class Meter:
    """Measures nothing, and remembers what it was asked."""

    asked: list[list[Need]] = field(default_factory=list)

    def __call__(self, module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        self.asked.append(list(needs))
        found: dict[str, Facts] = {}
        for one in needs:
            found = joined(found, {one.value: self.facts(one)})
        return found

    def facts(self, need: Need) -> Facts:
        ends = np.zeros(2, np.float32)
        answers = (Range(0.0, 1.0), Average(0.0, 1.0), ChannelRange(ends, ends))
        wanted = {Range, *need.stats}
        return facts_of(1, *(part for part in answers if type(part) in wanted), axis=need.axis)


def run(*passes: Pass, meter: Meter | None = None, module: GraphModule | None = None) -> GraphModule:
    module = module or parse(TEXT)
    PassManager(passes, CPU, measure=meter).run(module)
    return module


def test_one_measurement_feeds_this_pass_and_all_later_ones() -> None:
    meter = Meter()
    whole, inner, average = need("x", Range), need("h", Range), need("x", Average)
    run(Ask(), Ask((whole,)), Ask((inner, average)), Ask((whole,)), meter=meter)
    assert meter.asked == [[whole, inner, average]]


def test_what_is_known_is_not_measured_again() -> None:
    meter = Meter()
    module = parse("# fact x: low=0.0 high=1.0\n" + TEXT)
    run(Ask((need("x", Range),)), Ask((need("h", Range),)), meter=meter, module=module)
    assert meter.asked == [[need("h", Range)]]


def test_a_value_that_appears_later_is_measured_when_it_is_there() -> None:
    def add_value(module: GraphModule, ctx: PassContext) -> None:
        first = next(iter(module.graph))
        new = ctx.edit.behind(first.outputs[0], why="test").Abs(first.outputs[0], name="new")
        ctx.edit.reroute(first.outputs[0], new, why="test")

    wanted = (need("x", Range), need("new", Range))
    meter = Meter()
    run(Ask(wanted[:1], add_value), Ask(wanted), meter=meter)
    assert meter.asked == [[wanted[0]], [wanted[1]]]
    known = parse("# fact h: low=0.0 high=1.0\n" + TEXT)  # they go over to what stands for h
    meter = Meter()
    run(Ask(wanted[:1], add_value), Ask(wanted), meter=meter, module=known)
    assert meter.asked == [[wanted[0]]]


def test_channels_along_two_axes_are_measured_together_and_both_kept() -> None:
    meter = Meter()
    by_column, by_row = need("x", ChannelRange, axis=-1), need("x", ChannelRange, axis=-2)
    module = run(Ask((by_column,)), Ask((by_row,)), Ask((by_column, by_row)), meter=meter)
    assert meter.asked == [[by_column, by_row]]
    assert all(module.measured(module.value("x")).has([ChannelRange], axis) for axis in (-1, -2))


def test_channels_along_one_axis_do_not_answer_for_another() -> None:
    meter = Meter()
    wanted = need("h", ChannelRange, axis=-2)
    module = parse("# fact h: low=0.0 high=1.0 axis=-1 channel_low=[0, 0] channel_high=[1, 1]\n" + TEXT)
    run(Ask((wanted,)), meter=meter, module=module)
    assert meter.asked == [[wanted]]
    assert all(module.measured(module.value("h")).has([ChannelRange], axis) for axis in (-1, -2))


def test_facts_of_vanished_values_are_dropped() -> None:
    def skip_first(module: GraphModule, ctx: PassContext) -> None:
        first = next(iter(module.graph))
        ctx.edit.reroute(first.outputs[0], module.graph.inputs[0], why="test")
        ctx.edit.remove(first, why="test")

    module = parse("# fact h: low=0.0 high=1.0\n# fact y: low=0.0 high=1.0\n" + TEXT)
    run(Ask(then=skip_first), module=module)
    assert module.facts().keys() == {"x", "y"}  # x is what h was


def test_without_data_a_need_is_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"pass 2 \(ask\): the pass needs measured ranges") as caught:
        run(Ask(), Ask((need("x", Range),)))
    assert caught.value.hint == "give calibration data, or choose a pipeline that needs none"


def test_a_bug_becomes_a_pass_error_with_its_cause() -> None:
    def fail(module: GraphModule, ctx: PassContext) -> None:
        raise KeyError("q")

    with pytest.raises(PassError, match=r"^pass 2 \(ask\): KeyError: 'q'$") as caught:
        run(Ask(), Ask(then=fail))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_bug_in_needs_names_its_pass() -> None:
    class Broken(Ask):
        def needs(self, module: GraphModule) -> Iterable[Need]:
            raise IndexError("out of range")

    with pytest.raises(PassError, match=r"pass 1 \(ask\): IndexError: out of range"):
        run(Broken())


def test_a_pass_error_keeps_its_kind_and_gets_its_place() -> None:
    def fail(module: GraphModule, ctx: PassContext) -> None:
        raise VerifyError("it is bent", where="node 'a'", hint="straighten it")

    with pytest.raises(VerifyError, match=r"^pass 1 \(ask\): node 'a': it is bent$") as caught:
        run(Ask(then=fail))
    assert caught.value.hint == "straighten it"


def test_the_callers_fault_passes_through() -> None:
    error = ModelError("the model is at fault")

    def fail(module: GraphModule, ctx: PassContext) -> None:
        raise error

    with pytest.raises(ModelError) as caught:
        run(Ask(then=fail))
    assert caught.value is error


def test_records_tell_edits_remarks_and_text() -> None:
    def change(module: GraphModule, ctx: PassContext) -> None:
        first, second = module.graph
        ctx.skip(first, "it is the first")
        ctx.edit.retype(second, "Abs", why="test")

    (record,) = PassManager([Ask(then=change)], CPU).run(parse(TEXT))
    assert record.text.startswith("ask{")
    assert [(e.action, e.subject, e.why) for e in record.edits] == [
        ("rewrite", "second: Relu -> Abs", "test")
    ]
    assert [(r.node, r.op_type, r.reason) for r in record.remarks] == [("first", "Relu", "it is the first")]
    assert record.seconds >= 0


def test_random_numbers_depend_on_seed_and_place_only() -> None:
    drawn: list[float] = []
    draw = Ask(then=lambda module, ctx: drawn.append(ctx.rng.random()))
    for seed in (0, 0, 1):
        PassManager([draw, draw], CPU, seed=seed).run(parse(TEXT))
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4


def test_passes_that_will_not_run_need_nothing() -> None:
    meter = Meter()
    limit = BisectLimit(1)
    manager = PassManager([Ask((need("x", Range),)), Ask((need("h", Range),))], CPU, [limit], measure=meter)
    assert len(manager.run(parse(TEXT))) == 1
    assert meter.asked == [[need("x", Range)]]
    assert len(limit.skipped) == 1


LAYER = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
<float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}>
{
    [layer] y = Gemm <transB: int = 1> (x, w, b)
}
"""


def compiled(pipeline: str) -> str:
    module = parse(LAYER)
    PassManager(parse_pipeline(f"infer-shapes, {pipeline}"), CPU, [VerifyEach()]).run(module)
    return render(module)


def test_a_rewrite_behind_the_encoding_gives_the_same_integers() -> None:
    """The transposed weight keeps its rows' scales, which are its columns' now; only names tell the two."""
    behind = compiled("encode-weights, unfuse-gemm, insert-qdq, remove-dead")
    before = compiled("unfuse-gemm, encode-weights, insert-qdq, remove-dead")
    assert behind == before
    assert "int8[2,2] w_transposed_q" in behind


def test_a_rewrite_that_loses_an_encoding_is_an_error_of_its_own() -> None:
    def fold(module: GraphModule, ctx: PassContext) -> None:
        (node,) = module.graph
        doubled = ctx.edit.constant("doubled", np.ones((2, 2), np.float32), why="test")
        ctx.edit.rewire(node, 1, doubled, why="test")

    module = parse(LAYER)
    passes = [*parse_pipeline("infer-shapes, encode-weights"), Ask(then=fold)]
    message = r"^pass 3 \(ask\): value 'w': the pass loses the encoding that was decided for node 'layer'$"
    with pytest.raises(PassError, match=message) as caught:
        PassManager(passes, CPU).run(module)
    assert caught.value.hint == "put it before the passes that encode"


def test_what_is_decided_too_late_to_be_realised_is_an_error() -> None:
    with pytest.raises(PassError, match="value 'w': its encoding was decided, and no pass") as caught:
        compiled("insert-qdq, encode-weights")
    assert caught.value.hint == "put insert-qdq behind the passes that encode"
    assert "# encode w:" in compiled("encode-weights")
