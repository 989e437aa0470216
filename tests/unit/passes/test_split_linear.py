"""split-linear: branches add up to their layer, and one weight stands for all branches."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, constant_of, name_of
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.memo import Memo
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.kernels import LayerState, kernel_report
from onnxq.target import find_target
from onnxq.testing.laws import SAFETY, FeedsData, random_feeds, run_model
from onnxq.testing.running import evaluate

ROOT = Path(__file__).parents[3]
GRAPHS = sorted(ROOT.glob("models/*.onnxtxt"))
FILES = sorted([*ROOT.glob("models/*.onnx"), *ROOT.glob("onnxq/assets/*.onnx")])
TIDY = "remove-initializer-inputs, lift-constants, convert-opset{minimum=21}, widen-float16, infer-shapes"
EPS = np.finfo(np.float32).eps


def compiled(module: GraphModule, pipeline: str, target: str = "portable") -> GraphModule:
    feeds = FeedsData([random_feeds(module, seed) for seed in range(2)])
    PassManager(parse_pipeline(pipeline), find_target(target), [], feeds.measure).run(module)
    return module


def copy_of(module: GraphModule) -> GraphModule:
    return GraphModule(module.model.clone())


def assert_branches_add_up(before: GraphModule, options: str) -> None:
    """Hold every layer to float32 rounding, at the inputs that reach its branches."""
    after = compiled(copy_of(before), f"split-linear{{mode=branches, {options}}}")
    feeds = random_feeds(before, seed=0)
    seen = {**feeds, **run_model(after, feeds, inner=True)}
    for layer in linear_layers(before):
        if layer.node.op_type != "ConvTranspose":
            assert_sum_is_layer(layer, seen)


def assert_sum_is_layer(layer: Layer, seen: dict[str, NDArray[Any]]) -> None:
    """Compare with float64: every term of each branch, and of their sum, is rounded once."""
    bias = constant_of(layer.bias)
    parts = [seen[name_of(layer.activation)], array_of(layer.weight)]
    parts += [] if layer.bias is None else [seen[name_of(layer.bias)] if bias is None else bias]
    exact = evaluate(layer.node, [part.astype(np.float64) for part in parts])
    size = evaluate(layer.node, [np.abs(part).astype(np.float64) for part in parts], absolute=True)
    weight = array_of(layer.weight)
    terms = weight.size // weight.shape[layer.channel_axis] + 3
    assert (np.abs(seen[name_of(layer.output)] - exact) <= SAFETY * EPS * terms * size).all()


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "options", ["scope=tensor, cuts=kmeans", "scope=channel, bits=2", "parts=2, cuts=mse"]
)
def test_branches_add_up_to_each_layer_of_each_graph(path: Path, options: str) -> None:
    assert_branches_add_up(compiled(parse(path.read_text()), TIDY), options)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_branches_add_up_to_each_layer_of_each_model(path: Path) -> None:
    assert_branches_add_up(compiled(load_model(path), TIDY), "scope=tensor, cuts=kmeans, bits=2")


@pytest.mark.shared
def test_branches_add_up_to_each_layer_of_minilm() -> None:
    path = Path(os.environ.get("ONNXQ_MINILM", "none"))
    if not path.is_file():
        pytest.skip("no MiniLM: set ONNXQ_MINILM to its model.onnx")
    assert_branches_add_up(compiled(load_model(path), TIDY), "scope=tensor, cuts=kmeans, bits=2")


def two_layers(width: int = 64) -> GraphModule:
    """Return a MatMul with a bias and a Gemm whose weights are random."""
    rng = np.random.default_rng(0)
    shapes = {"w": (width, width), "b": (width,), "v": (8, width), "c": (8,)}
    numbers = {name: ", ".join(map(str, rng.normal(size=shape).ravel())) for name, shape in shapes.items()}
    rows = ", ".join(
        f"float[{','.join(map(str, shape))}] {name} = {{{numbers[name]}}}" for name, shape in shapes.items()
    )
    return parse(
        f'<ir_version: 10, opset_import: ["" : 21]>\nmain (float[N,{width}] x) => (float[N,8] y)\n<{rows}>\n'
        "{\n [first] h = MatMul(x, w)\n [bias] i = Add(h, b)\n [act] r = Relu(i)\n"
        " [second] y = Gemm <transB: int = 1> (r, v, c)\n}"
    )


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_one_product_is_the_sum_of_the_branches_where_zero_is_on_each_grid(bits: int, scope: str) -> None:
    options = f"bits={bits}, scope={scope}, cuts=kmeans"
    branches = compiled(two_layers(), f"infer-shapes, split-linear{{mode=branches, {options}}}, insert-qdq")
    fused = compiled(two_layers(), f"infer-shapes, split-linear{{{options}, tight=false}}")
    feeds = random_feeds(branches, seed=1)
    apart, joined = (run_model(module, feeds)["y"] for module in (branches, fused))
    assert np.abs(apart - joined).max() <= 1e-6 * np.abs(joined).max()


STATIC = "infer-shapes, {split}, sum-biases, encode-activations, encode-biases, insert-qdq"


@pytest.mark.parametrize(("mode", "products"), [("fused", 2), ("branches", 6)])
def test_every_product_runs_in_integers(mode: str, products: int, tmp_path: Path) -> None:
    module = compiled(two_layers(), STATIC.format(split=f"split-linear{{mode={mode}, bits=2}}"), target="cpu")
    path = tmp_path / "split.onnx"
    save_model(module, path)
    report = kernel_report(path, random_feeds(module, seed=0))
    states = [layer.state for layer in report.provenance.layers if layer.op_type in ("Gemm", "MatMul")]
    assert states == [LayerState.INTEGER] * products


@pytest.mark.parametrize(("bits", "opset"), [(4, 21), (2, 25)])
def test_packed_branches_take_as_many_bits_as_they_say(bits: int, opset: int) -> None:
    options = f"mode=branches, bits={bits}, scope=tensor"
    start, end = f"convert-opset{{minimum={opset}}}, infer-shapes", "insert-qdq, remove-dead"
    packed = compiled(two_layers(), f"{start}, split-linear{{{options}, packed=true}}, {end}")
    plain = compiled(two_layers(), f"{start}, split-linear{{{options}}}, {end}")
    tensors = [value.const_value for value in packed.graph.initializers.values()]
    stored = sum(tensor.nbytes for tensor in tensors if tensor is not None and tensor.size > 64)
    assert stored == 3 * (64 * 64 + 8 * 64) * bits / 8
    feeds = random_feeds(packed, seed=0)
    one, other = (run_model(module, feeds)["y"] for module in (packed, plain))
    # The steps differ by one millionth, and float32 sums of 3 x 64 terms by less.
    assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()


def test_a_weight_is_split_once_in_trials_that_share_a_memo() -> None:
    """The second run takes what the first has left: as a sign of that, the encoding that lies in the memo."""
    module = parse("""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> { [product] y = MatMul(x, w) }""")
    memo, target = Memo(), find_target("cpu")
    passes = parse_pipeline("infer-shapes, split-linear")
    first, second = module.clone(), module.clone()
    PassManager(passes, target, memo=memo).run(first)
    ((key, (joined, encoding, cost)),) = memo.kept.items()
    memo.kept[key] = joined, replace(encoding, scale=2 * encoding.scale), cost
    PassManager(passes, target, memo=memo).run(second)
    encodings = [one.encoding_at(next(iter(one.graph)), 1) for one in (first, second)]
    assert encodings == [encoding, memo.kept[key][1]]
