"""What watches a pipeline."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import PassError, VerifyError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse, render
from onnxq.ir.verify import check_operators
from onnxq.passmanager.base import Effect, Pass, PassContext, PassRecord
from onnxq.passmanager.instruments import BisectLimit, DumpTo, Instrument, PrintAfter, VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.precision import Precision
from onnxq.passmanager.reproducer import ELIDES_ABOVE, Reproducer
from onnxq.target import find_target
from onnxq.testing.golden import check_golden, read_case

CPU = find_target("cpu")
TEXT = """# encode x: scale=0.5 zero_point=0
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
{
    [first] h = Relu(x)
    [second] y = Relu(h)
}
"""


@dataclass(frozen=True)
class Do(Pass):
    """Do what it is told."""

    name: ClassVar[str] = "do"
    effect: ClassVar[Effect] = Effect.EXACT
    what: Callable[[GraphModule, PassContext], object] = field(default=lambda module, ctx: None)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        self.what(module, ctx)

    def __str__(self) -> str:
        return "do"


def run(*passes: Pass, instruments: list[Instrument], text: str = TEXT) -> GraphModule:
    module = parse(text)
    PassManager(passes, CPU, instruments).run(module)
    return module


def test_a_change_behind_the_editors_back_is_found() -> None:
    def sneak(module: GraphModule, ctx: PassContext) -> None:
        next(iter(module.graph)).op_type = "Abs"

    with pytest.raises(
        VerifyError, match=r"pass 2 \(do\): the pass changed the graph behind the Editor's back"
    ):
        run(Do(), Do(sneak), instruments=[VerifyEach()])


def test_an_invalid_graph_is_found_before_the_first_pass() -> None:
    module = parse(TEXT)
    module.graph.append(ir.Node("", "Relu", [ir.Value(name="nothing")], name="third"))
    with pytest.raises(VerifyError, match=r"node 'third' \(Relu\): it reads 'nothing'"):
        PassManager([Do()], CPU, [VerifyEach()]).run(module)


def test_an_operator_with_wrong_attributes_is_found_after_the_pass_that_made_it() -> None:
    def spoil(module: GraphModule, ctx: PassContext) -> None:
        ctx.edit.retype(next(iter(module.graph)), "Softmax", why="test", attributes={"no_such": 1})

    with pytest.raises(VerifyError, match=r"pass 1 \(do\): .*Unrecognized attribute: no_such"):
        run(Do(spoil), instruments=[VerifyEach()])


IF = """<ir_version: 10, opset_import: ["" : 21]>
main (bool c, float[N,2] x) => (float[N,2] y)
{
    y = If (c) <
        then_branch = a () => (float[N,2] z) { z = Relu(x) },
        else_branch = b () => (float[N,2] w) { w = Abs(x) }
    >
}
"""


def test_one_in_a_branch_is_found_too() -> None:
    def spoil(module: GraphModule, ctx: PassContext) -> None:
        (node,) = module.graph
        branch = node.attributes["then_branch"].as_graph()
        (inner,) = branch
        inner.attributes["no_such"] = ir.AttrInt64("no_such", 1)
        ctx.edit.set_outputs(module.graph.outputs[:], why="test")

    with pytest.raises(VerifyError, match=r"pass 1 \(do\): .*Unrecognized attribute: no_such"):
        run(Do(spoil), instruments=[VerifyEach()], text=IF)


def test_all_operators_are_looked_at_where_their_versions_have_changed() -> None:
    def lower(module: GraphModule, ctx: PassContext) -> None:
        module.model.opset_imports[""] = 5
        ctx.edit.set_outputs(module.graph.outputs[:], why="test")

    text = TEXT.replace("Relu(h)", "Gelu(h)").replace("21]", "20]")
    with pytest.raises(VerifyError, match=r"pass 1 \(do\): .*No Op registered for Gelu"):
        run(Do(lower), instruments=[VerifyEach()], text=text)


def test_print_after_one_pass_or_all() -> None:
    one, every = io.StringIO(), io.StringIO()
    passes = [*parse_pipeline("insert-qdq"), Do()]
    module = run(*passes, instruments=[PrintAfter("insert-qdq", one), PrintAfter("all", every)])
    assert one.getvalue() == f"# after pass 1: insert-qdq\n{render(module)}\n"
    assert every.getvalue() == f"{one.getvalue()}# after pass 2: do\n{render(module)}\n"


def test_dump_writes_one_file_for_each_pass(tmp_path: Path) -> None:
    module = run(*parse_pipeline("insert-qdq"), Do(), instruments=[DumpTo(tmp_path / "dump")])
    files = sorted((tmp_path / "dump").iterdir())
    assert [path.name for path in files] == ["001-insert-qdq.onnxtxt", "002-do.onnxtxt"]
    assert render(parse(files[1].read_text())) == render(module)


def test_bisect_runs_the_first_passes_and_names_the_others() -> None:
    done: list[int] = []
    passes = [Do(lambda module, ctx, i=i: done.append(i)) for i in range(3)]
    limit = BisectLimit(2)
    run(*passes, instruments=[limit])
    assert (done, limit.skipped) == ([0, 1], ["do"])


def test_a_failure_leaves_a_file_that_is_a_golden_case(tmp_path: Path) -> None:
    """The decision on ``h`` has two channels where QuantizeLinear's input has three: onnxq refuses."""
    text = TEXT.replace("x: scale=0.5 zero_point=0", "w: scale=[1.0, 1.0] zero_point=[0, 0] axis=0")
    text = text.replace("=> (float[N,2] y)", "=> (float[N,2] y) <float[3] w = {1, 2, 3}>")
    with pytest.raises(VerifyError, match=r"pass 1 \(insert-qdq\)") as caught:
        run(*parse_pipeline("insert-qdq"), instruments=[Reproducer(tmp_path, CPU), VerifyEach()], text=text)
    path = caught.value.reproducer
    assert path == tmp_path / "001-insert-qdq.onnxtxt"
    content = path.read_text()
    assert content.startswith(
        f"# RUN: insert-qdq\n# TARGET: cpu\n# PROCESSOR: {CPU.processor.name}\n# SHOW: types\n"
        "# ERROR: its number of channels"
    )
    assert render(parse(content)) == render(parse(text))
    check_golden(path)


def test_the_file_says_what_is_assigned_by_the_names_that_are_in_it(tmp_path: Path) -> None:
    def fail(module: GraphModule, ctx: PassContext) -> None:
        raise KeyError("q")

    precision = Precision(layers={"f*": "float", "gone": "int8"}, values={"x": "uint16"})
    with pytest.raises(PassError) as caught:
        PassManager([Do(fail)], CPU, [Reproducer(tmp_path, CPU, precision)]).run(parse(TEXT))
    assert caught.value.reproducer is not None
    case = read_case(caught.value.reproducer.read_text())
    assert case.precision == '{"layers": {"first": "float"}, "values": {"x": "uint16"}}'


def test_the_file_shows_the_graph_just_before_the_failing_pass(tmp_path: Path) -> None:
    def change_and_fail(module: GraphModule, ctx: PassContext) -> None:
        ctx.edit.retype(next(iter(module.graph)), "Abs", why="test")
        raise KeyError("q")

    with pytest.raises(PassError) as caught:
        run(*parse_pipeline("insert-qdq"), Do(change_and_fail), instruments=[Reproducer(tmp_path, CPU)])
    assert caught.value.reproducer is not None
    content = caught.value.reproducer.read_text()
    assert "# ERROR: KeyError: 'q'" in content
    assert render(parse(content)) == render(run(*parse_pipeline("insert-qdq"), instruments=[]))


def test_where_no_file_can_be_written_the_failure_is_still_the_passs(tmp_path: Path) -> None:
    def fail(module: GraphModule, ctx: PassContext) -> None:
        raise KeyError("q")

    (tmp_path / "file").write_text("mine")
    with pytest.raises(PassError, match="KeyError: 'q'") as caught:
        run(Do(fail), instruments=[Reproducer(tmp_path / "file", CPU)])
    assert caught.value.reproducer is None


def test_the_file_is_right_behind_passes_that_changed_nothing(tmp_path: Path) -> None:
    def change(module: GraphModule, ctx: PassContext) -> None:
        ctx.edit.retype(next(iter(module.graph)), "Abs", why="test")

    def change_and_fail(module: GraphModule, ctx: PassContext) -> None:
        ctx.edit.retype(next(iter(module.graph)), "Neg", why="test")
        raise KeyError("q")

    before = run(Do(), Do(change), Do(), Do(), instruments=[])
    with pytest.raises(PassError) as caught:
        run(Do(), Do(change), Do(), Do(), Do(change_and_fail), instruments=[Reproducer(tmp_path, CPU)])
    assert caught.value.reproducer is not None
    assert render(parse(caught.value.reproducer.read_text())) == render(before)


def test_large_weights_are_replaced_in_the_file_by_random_ones_of_the_same_range(tmp_path: Path) -> None:
    weight = np.linspace(-3, 5, ELIDES_ABOVE + 2, dtype=np.float32).reshape(-1, 2)

    def add_weight(module: GraphModule, ctx: PassContext) -> None:
        ctx.edit.constant("big", weight, why="test")

    def fail(module: GraphModule, ctx: PassContext) -> None:
        raise KeyError("q")

    with pytest.raises(PassError) as caught:
        run(Do(add_weight), Do(fail), instruments=[Reproducer(tmp_path, CPU)])
    assert caught.value.reproducer is not None
    big = parse(caught.value.reproducer.read_text()).graph.initializers["big"]
    assert big.const_value is not None
    numbers = big.const_value.numpy()
    assert (numbers.shape, big.dtype) == (weight.shape, ir.DataType.FLOAT)
    assert numbers.min() >= -3
    assert numbers.max() <= 5
    assert np.ptp(numbers) > 7.9  # of 4098 uniform numbers over a range of 8


def test_no_copy_of_the_graph_outlives_the_pipeline(tmp_path: Path) -> None:
    """It holds weights and facts that nobody asks for any more."""
    copies: list[weakref.ref[ir.Model]] = []

    class Watch(Instrument):
        def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
            copies.append(weakref.ref(reproducer._copy.model if reproducer._copy else module.model))

    reproducer = Reproducer(tmp_path, CPU)
    module = run(Do(), instruments=[reproducer, Watch()])
    gc.collect()
    assert len(copies) == 1
    assert copies[0]() is None
    assert module.graph


def test_what_is_no_fault_of_a_pass_leaves_no_file(tmp_path: Path) -> None:
    run(Do(), instruments=[Reproducer(tmp_path, CPU)])
    assert list(tmp_path.iterdir()) == []


def test_verification_leaves_the_order_of_weights() -> None:
    """Else what watches would change what later passes write; onnx_ir moves weights above 1000 bytes."""
    module = parse(TEXT)
    for name, size in (("large", 300), ("small", 1)):
        module.graph.register_initializer(
            ir.Value(name=name, const_value=ir.tensor(np.ones(size, np.float32), name=name))
        )
    check_operators(module)
    assert list(module.graph.initializers) == ["large", "small"]
