"""The list of CUDA's kernels: what it says of operators, versions and types, and of what the recipes emit."""

from pathlib import Path

import pytest

from onnxq.ir.text import parse
from onnxq.kernels import Kernel, load_kernels
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import load_recipe
from onnxq.target import TARGETS, find_target

CUDA = load_kernels("cuda")
MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnxtxt"))
FIRST = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\nmain '


def reasons(text: str) -> list[str]:
    from onnx_ir.passes.common import ShapeInferencePass

    module = parse(FIRST + text)
    ShapeInferencePass()(module.model)
    return [reason for _, reason in CUDA.missing(module)]


def test_an_open_end_does_not_reach_a_later_version() -> None:
    kernel = Kernel(13, None, {})
    assert [kernel.runs_version(since) for since in (12, 13, 14)] == [False, True, False]
    closed = Kernel(13, 18, {})
    assert [closed.runs_version(since) for since in (13, 16, 18, 19)] == [True, True, True, False]


def test_types_have_to_fit_together() -> None:
    kernel = Kernel(1, None, {"T": frozenset({"float16"}), "U": frozenset({"bool"})})
    assert kernel.takes({"T": "float16", "U": "bool"})
    assert kernel.takes({"T": "float16"})
    assert not kernel.takes({"T": "float16", "U": "float"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(float16[N,2] x) => (float16[N,2] y) { y = MatMul(x, x) }", []),
        ("(int64[N,2] x) => (int64[N,2] y) { y = MatMul(x, x) }", ["no kernel for int64"]),
        ("(float[N] x) => (uint8[N] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }", 1),
        ("(uint8[2,2] x, float s) => (float[2,2] y) { y = com.microsoft.MatMulIntegerToFloat(x,x,s,s) }", 1),
    ],
)
def test_the_list_knows_what_there_is(text: str, expected: list[str] | int) -> None:
    found = reasons(text)
    assert found == (expected if isinstance(expected, list) else ["no kernel for this operator"] * expected)


def test_the_list_says_where_it_comes_from() -> None:
    assert CUDA.provider == "CUDAExecutionProvider"
    assert "onnxruntime-gpu" in CUDA.source
    assert find_target("cuda").kernels is CUDA
    assert [name for name, target in TARGETS.items() if target.kernels is not None] == ["cuda"]


@pytest.mark.parametrize("name", ["cuda", "cuda-weights-4", "cuda-weights-8"])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_no_node_that_a_recipe_emits_lacks_a_kernel(name: str, path: Path) -> None:
    recipe = load_recipe(name)
    module = parse(path.read_text(encoding="utf-8"))
    PassManager(parse_pipeline(recipe.pipeline), find_target(recipe.target)).run(module)
    assert [(node.op_type, reason) for node, reason in CUDA.missing(module)] == []
