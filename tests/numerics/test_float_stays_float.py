"""What stays in float stays float in ONNX Runtime too, whatever it is that keeps a layer there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxq.ir.module import LINEAR, GraphModule, input_of, is_standard
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import load_recipe
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, random_feeds

pytest.importorskip("onnxruntime", reason="the law reads optimised graphs")

from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnxtxt"))
RECIPES = ("cpu", "portable", "all-tensors")
INTEGER = frozenset({"MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul"})


def _products(module: GraphModule) -> list[ir.Node]:
    return [node for node in module.graph if is_standard(node, *LINEAR)]


def _reads_integers(node: ir.Node) -> bool:
    """Tell whether all of a product's factors are dequantized right before it."""
    factors = [input_of(node, 0), input_of(node, 1)]
    makers = [None if value is None else value.producer() for value in factors]
    return all(maker is not None and is_standard(maker, "DequantizeLinear") for maker in makers)


def _compiled(text: str, recipe: str, excluded: Iterable[str]) -> GraphModule:
    chosen, module = load_recipe(recipe), parse(text)
    setting = f"encode-weights.exclude={'+'.join(excluded)}"
    data = FeedsData([random_feeds(module, seed=0)])
    passes = parse_pipeline(chosen.with_options([setting]).pipeline)
    PassManager(passes, find_target(chosen.target), (), data.measure).run(module)
    return module


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_no_layer_in_float_gets_an_integer_kernel(path: Path, recipe: str, tmp_path: Path) -> None:
    """Leave every second layer in float, then the others; count the integer products that ONNX Runtime makes.

    The compiled graph means one where both factors are integers.
    """
    text, optimised = path.read_text(encoding="utf-8"), tmp_path / "optimised.onnx"
    names = [node.name or "" for node in _products(parse(text))]
    for excluded in (names[::2], names[1::2]):
        module = _compiled(text, recipe, excluded)
        meant = sum(map(_reads_integers, _products(module)))
        meant += sum(node.domain == "com.microsoft" for node in module.graph)
        open_session(ir.to_proto(module.model), Run(threads=1), optimized_model_path=optimised)
        made = sum(node.op_type in INTEGER for node in onnx.load(optimised).graph.node)
        assert made <= meant, excluded
