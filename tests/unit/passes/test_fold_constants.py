"""Constants that would grow beyond all use are not computed, and beyond a limit the model is refused."""

import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.session import open_session
from onnxq.target import find_target

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def folded(text: str) -> GraphModule:
    module = parse(HEAD + text)
    PassManager(parse_pipeline("infer-shapes, fold-constants, infer-shapes"), find_target("cpu")).run(module)
    return module


@pytest.mark.parametrize(
    "grown",
    [
        "Expand(one, shape)",
        "Tile(one, shape)",
        "Pad(one, pads)",
        "Resize(one, nothing, nothing, shape)",
        "OneHot(index, depth, values)",
    ],
)
def test_what_would_be_thrown_away_for_its_size_is_not_computed(grown: str) -> None:
    text = f"""main (float[1] x) => (float[1] y)
<float[1] one = {{1}}, int64[1] shape = {{100000000}}, int64[2] pads = {{0, 100000000}},
 float[0] nothing = {{}}, int64[1] index = {{1}}, int64 depth = {{100000000}}, float[2] values = {{0, 1}}>
{{
    large = {grown}
    s = ReduceMax <keepdims: int = 0> (large)
    y = Add(x, s)
}}"""
    tracemalloc.start()
    module = folded(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000_000  # what is asked for is 400 MB
    assert [node.op_type for node in module.graph] == [grown.partition("(")[0], "ReduceMax", "Add"]


def doubling(steps: int) -> str:
    lines = "\n".join(f"    c{i + 1} = Concat <axis: int = 0> (c{i}, c{i})" for i in range(steps))
    return f"""main (float[1] x) => (float[1] y)
<float[4] c0 = {{1, 1, 1, 1}}>
{{
{lines}
    s = ReduceSum <keepdims: int = 0> (c{steps})
    y = Add(x, s)
}}"""


def test_constants_that_double_until_memory_is_full_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ModelError) as caught:
        folded(doubling(32))
    assert str(caught.value) == (
        "value 'c32': it computes [17179869184] from constants alone, which is 68,719,476,736 bytes, "
        "and the limit is 4,294,967,296"
    )
    monkeypatch.setenv("ONNXQ_MAX_CONSTANT_BYTES", "68719476736")
    folded(doubling(32))


def test_constants_that_double_a_few_times_are_folded() -> None:
    assert [node.op_type for node in folded(doubling(8)).graph] == ["Add"]


def test_a_weight_that_is_computed_as_infinity_is_refused() -> None:
    with pytest.raises(ModelError, match="initializer 'w': the weight holds infinite values"):
        folded("""main (float[1,2] x) => (float[1,2] y)
<float[2,2] one = {1, 1, 1, 1}, float zero = {0}>
{
    w = Div(one, zero)
    y = MatMul(x, w)
}""")


def test_a_range_whose_vector_comes_to_light_reads_a_scalar() -> None:
    pytest.importorskip("onnxruntime")
    module = folded("""main (float[3] x) => (int64[K] y)
<int64 zero = {0}, int64 one = {1}>
{
    length = Shape(x)
    shifted = Add(length, length)
    y = Range(zero, shifted, one)
}""")
    (y,) = open_session(ir.to_proto(module.model)).run({"x": np.zeros(3, np.float32)}).values()
    assert y.tolist() == [0, 1, 2, 3, 4, 5]
