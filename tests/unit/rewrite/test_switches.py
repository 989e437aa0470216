"""Switches: all off is the float model, all on is what insert-qdq makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.originals import Originals
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.rewrite.switches import SWITCHES, Edge, insert_switches
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, random_feeds, rounding_bound, run_model

MODELS = sorted((Path(__file__).parents[3] / "models").glob("*.onnxtxt"))
DECIDE = (
    "remove-initializer-inputs,inline-functions,lift-constants,fold-constants,convert-opset{minimum=13},"
    "widen-float16,infer-shapes,fold-batch-norm,encode-weights,encode-embeddings{minimum=1},"
    "encode-activations{scope=all-tensors},encode-biases"
)


def _decided(text: str) -> GraphModule:
    module = parse(text)
    data = FeedsData([random_feeds(module, 0)])
    PassManager(parse_pipeline(DECIDE), find_target("cpu"), measure=data.measure).run(module)
    return module


@pytest.fixture(params=MODELS, ids=lambda path: path.stem)
def text(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("on", [False, True])
def test_all_switches_alike(text: str, on: bool) -> None:
    wanted, module = _decided(text), _decided(text)
    if on:
        PassManager(parse_pipeline("insert-qdq"), find_target("cpu")).run(wanted)
    edges = insert_switches(module)
    assert not module.decisions()
    feeds = random_feeds(wanted, 0)
    switched = {**feeds, SWITCHES: np.full(len(edges), on)}
    old, new = run_model(wanted, feeds, inner=True), run_model(module, switched, inner=True)
    bound = rounding_bound([(wanted, {**feeds, **old}), (module, {**feeds, **new})])
    for output in wanted.graph.outputs:
        np.testing.assert_allclose(new[output.name], old[output.name], rtol=0, atol=bound)


def test_edges_tell_what_they_switch() -> None:
    module = parse("""# encode x: scale=0.1 zero_point=0 dtype=uint8 readers=product
# encode w: scale=0.5 zero_point=0 dtype=int8
# encode y: scale=0.25 zero_point=0 dtype=int16
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y, float[N,2] z)
<float[2,2] w = {1, 2, 3, 4}>
{
    [product] y = MatMul(x, w)
    [other] z = Relu(x)
}""")
    assert insert_switches(module) == [
        Edge("x", "product", False, "uint8"),
        Edge("y", None, False, "int16"),
        Edge("w", "product", True, "int8"),
    ]


def test_weights_are_not_chosen_element_by_element() -> None:
    """A Where would read both of them in each run, and take longer than the layer."""
    module = parse("""# encode w: scale=0.5 zero_point=0 dtype=int8
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}> { [product] y = MatMul(x, w) }""")
    insert_switches(module)
    assert {node.op_type for node in module.graph} == {"Gather", "If", "MatMul"}


def test_an_output_that_is_an_input_keeps_its_name() -> None:
    """Nothing can stand between what is fed and an output of the same name: insert-qdq leaves it, too."""
    module = parse("""# encode x: scale=0.1 zero_point=0
<ir_version: 10, opset_import: ["" : 21]>
main (float[2] x) => (float[2] y, float[2] x) { [act] y = Relu(x) }""")
    assert insert_switches(module) == [Edge("x", "act", False, "uint8")]
    fed = np.array([0.04, 0.06], np.float32)
    found = run_model(module, {"x": fed, SWITCHES: np.array([True])})
    np.testing.assert_array_equal(found["x"], fed)
    np.testing.assert_array_equal(found["y"], np.array([0, 0.1], np.float32))


@pytest.mark.parametrize("more", ["", ", encode-biases"])
def test_what_makes_up_for_a_weight_is_switched_with_it(more: str) -> None:
    """All off is the source, though biases were corrected and weights rounded; all on is insert-qdq."""
    rng = np.random.default_rng(0)
    numbers = {name: ", ".join(map(str, rng.normal(size=size))) for name, size in (("w", 36), ("v", 12))}
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2,5,5] x) => (float[N,2,3,2] y)
<float[2,2,3,3] w = {{{numbers["w"]}}}, float[3,4] v = {{{numbers["v"]}}}, float[4] b = {{1, 2, 3, 4}}>
{{
    [conv] c = Conv(x, w)
    [act] r = Relu(c)
    [product] p = MatMul(r, v)
    [bias] s = Add(p, b)
    [cut] y = MatMul(s, u)
}}""".replace("<float", "<float[4,2] u = {1, 0, 0, 1, 1, 1, 0, 0}, float", 1)
    module, feeds = parse(text), {"x": rng.normal(size=(4, 2, 5, 5)).astype(np.float32) + 1}
    data, originals = FeedsData([feeds]), Originals()
    pipeline = f"infer-shapes, encode-weights, round-weights, encode-activations, correct-bias{more}"
    PassManager(parse_pipeline(pipeline), find_target("cpu"), [originals], data.measure).run(module)
    assert {("conv", 2), ("bias", 1)} <= originals.found.keys()
    decided = module.clone()
    edges = insert_switches(module, originals.found)
    source, none = parse(text), {**feeds, SWITCHES: np.zeros(len(edges), bool)}
    old, new = run_model(source, feeds, inner=True), run_model(module, none, inner=True)
    bound = rounding_bound([(source, {**feeds, **old}), (module, {**none, **new})])
    np.testing.assert_allclose(new["y"], old["y"], rtol=0, atol=bound)
    PassManager(parse_pipeline("insert-qdq"), find_target("cpu")).run(decided)
    all_on = {**feeds, SWITCHES: np.ones(len(edges), bool)}
    old, new = run_model(decided, feeds, inner=True), run_model(module, all_on, inner=True)
    bound = rounding_bound([(decided, {**feeds, **old}), (module, {**all_on, **new})])
    np.testing.assert_allclose(new["y"], old["y"], rtol=0, atol=bound)
    alone = {**feeds, SWITCHES: np.array([edge.value.endswith("_bias") for edge in edges])}
    if more:  # a bias alone is the source's own, in its small steps: far nearer than the correction would be
        error = np.abs(run_model(module, alone)["y"] - run_model(source, feeds)["y"]).max()
        shift = np.abs(run_model(module, all_on)["y"] - run_model(source, feeds)["y"]).max()
        assert error < shift / 100
