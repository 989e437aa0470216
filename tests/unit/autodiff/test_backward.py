"""The way back through a graph: which nodes it takes, what adds up, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from onnxq.autodiff import GradientError, Step, Term, gradient, gradient_model, registry
from onnxq.errors import ModelError, PassError
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.text import parse, render
from onnxq.ir.verify import check_operators, verify
from onnxq.testing.gradients import assert_gradient
from onnxq.testing.running import run_model

MLP = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x, float[4,3] w, float[3] b, float[3,2] v) => (float[N,2] y)
{
    [first] p = MatMul(x, w)
    [bias] q = Add(p, b)
    [act] h = Tanh(q)
    [second] y = MatMul(h, v)
}
"""
HEAD = '<ir_version: 10, opset_import: ["" : 21]> main '


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


FEEDS = {"x": random(5, 4), "w": random(4, 3), "b": random(3), "v": random(3, 2)}


def types_after(module: GraphModule, **asked: object) -> list[str]:
    before = len(module.graph)
    gradient(module, **asked)  # type: ignore[arg-type]
    verify(module)
    check_operators(module)
    return [node.op_type for node in list(module.graph)[before:]]


def test_an_mlp() -> None:
    assert_gradient(parse(MLP), FEEDS, ["x", "w", "b", "v"])


def test_inner_values_have_gradients_too() -> None:
    model = gradient_model(parse(MLP), of="y", wrt=["h", "y"])
    found = run_model(model, FEEDS)
    assert list(found) == ["y", "h_grad", "y_grad"]
    np.testing.assert_array_equal(found["y_grad"], np.ones((5, 2), np.float32))
    # two products of float32 and their sum: one rounding each
    np.testing.assert_allclose(found["h_grad"], np.tile(FEEDS["v"].sum(1), (5, 1)), rtol=3e-7)


def test_only_needed_nodes_are_added() -> None:
    module = parse(MLP)
    values = module.by_name()
    added = types_after(module, of=values["y"], wrt=[values["h"]])
    assert added == ["Shape", "Expand", "Transpose", "MatMul"]


def test_nothing_that_stands_there_changes() -> None:
    module = parse(MLP)
    values, before = module.by_name(), [name_of(value) for value in module.values()]
    gradient(module, of=values["y"], wrt=[values["w"]])
    assert [name_of(value) for value in module.values()][: len(before)] != []
    assert [node.name for node in module.graph][:4] == ["first", "bias", "act", "second"]
    assert [name_of(value) for value in module.graph.outputs] == ["y"]


def test_uses_of_one_value_add_up() -> None:
    text = HEAD + "(float[N,3] x) => (float[N,3] y) { a = Exp(x) b = Mul(a, x) y = Mul(b, a) }"
    assert_gradient(parse(text), {"x": random(2, 3)}, ["x"])


def test_the_same_input_gives_the_same_graph() -> None:
    texts = {render(gradient_model(parse(MLP), of="y", wrt=["x", "w"])) for _ in range(2)}
    assert len(texts) == 1


def test_an_older_operator_set_is_raised() -> None:
    text = '<ir_version: 7, opset_import: ["" : 11]> main (float[N,3] x) => (float[N] y) '
    module = parse(text + "{ a = Softmax<axis=1>(x) y = ReduceMean<axes=[1], keepdims=0>(a) }")
    found = run_model(gradient_model(module, of="y", wrt=["x"]), {"x": random(2, 3)})
    # the elements of a softmax add up to 1, whatever x is
    np.testing.assert_allclose(found["x_grad"], 0, atol=1e-7)
    with pytest.raises(ModelError, match="gradients need operator set 18, and the model has 11"):
        gradient(module, of=module.by_name()["y"], wrt=[module.by_name()["x"]])


def test_an_operator_without_a_rule_is_named_with_the_way() -> None:
    text = HEAD + "(float[N,3,3] x) => (float[N] y) { [in] a = Exp(x) [det] b = Det(a) [out] y = Neg(b) }"
    with pytest.raises(GradientError) as caught:
        gradient_model(parse(text), of="y", wrt=["x"])
    assert str(caught.value) == (
        "node 'det' (Det): the operator has no gradient rule; "
        "on the way y <- Neg 'out' <- Det 'det' <- Exp 'in' <- x"
    )
    assert "onnxq.gradients" in str(caught.value.hint)


def test_a_form_that_a_rule_does_not_cover_is_named() -> None:
    text = HEAD + '(float[3,3] x) => (float[3] y) { [diagonal] y = Einsum<equation="ii->i">(x) }'
    with pytest.raises(
        GradientError, match=r"node 'diagonal' .* takes a diagonal .* y <- Einsum 'diagonal' <- x"
    ):
        gradient_model(parse(text), of="y", wrt=["x"])


@pytest.mark.parametrize("nodes", ["s = Shape(x) t = Cast<to=1>(s) y = Neg(t)", "y = Neg(z)"])
def test_what_does_not_depend_is_told(nodes: str) -> None:
    module = parse(HEAD + f"(float[3] x, float[1] z) => (float[1] y) {{ {nodes} }}")
    with pytest.raises(GradientError, match="value 'y': it does not depend on 'x'"):
        gradient_model(module, of="y", wrt=["x"])


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(ModelError, match="there is no value 'hh'"):
        gradient_model(parse(MLP), of="y", wrt=["hh"])


def test_what_is_flat_has_zeros() -> None:
    module = parse(HEAD + "(float[3] x) => (float[3] y) { y = Floor(x) }")
    found = run_model(gradient_model(module, of="y", wrt=["x"]), {"x": random(3)})
    np.testing.assert_array_equal(found["x_grad"], np.zeros(3, np.float32))


def test_a_subgraph_on_the_way_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
main (float[3] x, bool c) => (float[3] y)
{
    [choice] y = If (c) <
        then_branch = one () => (float[3] a) { a = Exp(x) },
        else_branch = two () => (float[3] b) { b = Neg(x) }
    >
}
"""
    with pytest.raises(GradientError, match=r"node 'choice' .If.: .* on the way y <- If 'choice' <- x"):
        gradient_model(parse(text), of="y", wrt=["x"])


@pytest.mark.parametrize("pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_pads_that_follow_from_a_shape(pad: str) -> None:
    """The reference evaluator cannot run it; but a linear function is the same as its slope."""
    node = f'y = ConvTranspose<strides=[3], output_shape=[6], auto_pad="{pad}">(x, w)'
    module = parse(HEAD + f"(float[2,2,3] x, float[2,3,3] w) => (float[2,3,6] y) {{ {node} }}")
    feeds = {"x": random(2, 2, 3), "w": random(2, 3, 3), "seed": random(2, 3, 6)}
    found = run_model(gradient_model(module, of="y", wrt=["x", "w"], seeded=True), feeds)
    expected = (found["y"] * feeds["seed"]).sum()
    for name in ("x", "w"):
        # sums of a few dozen products in float32
        assert (found[f"{name}_grad"] * feeds[name]).sum() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def swirl(step: Step, index: int) -> Term:
    return step.g * step.attr("turns", 1.0)


FOREIGN = """<ir_version: 10, opset_import: ["" : 21, "com.example" : 1]>
main (float[3] x) => (float[3] y) { y = com.example.Swirl<turns=3.0>(x) }
"""


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SimpleNamespace]]:
    points: list[SimpleNamespace] = []
    monkeypatch.setattr(registry, "entry_points", lambda group, name: points)
    registry._offered.cache_clear()
    yield points
    registry._offered.cache_clear()


def point(owner: str, load: object) -> SimpleNamespace:
    return SimpleNamespace(dist=SimpleNamespace(name=owner), value=f"{owner}:swirl", load=load)


def test_another_distribution_offers_a_rule(offered: list[SimpleNamespace]) -> None:
    offered.append(point("swirls", lambda: swirl))
    model = gradient_model(parse(FOREIGN), of="y", wrt=["x"])
    assert [node.op_type for node in model.graph] == ["Swirl", "Expand", "Mul"]


def test_a_rule_that_is_offered_twice_is_told(offered: list[SimpleNamespace]) -> None:
    offered.extend([point("swirls", lambda: swirl), point("curls", lambda: swirl)])
    with pytest.raises(PassError, match=r"'com.example.Swirl' is offered twice, by curls .* and swirls"):
        gradient_model(parse(FOREIGN), of="y", wrt=["x"])


def test_a_rule_that_cannot_be_imported_is_told(offered: list[SimpleNamespace]) -> None:
    def load() -> object:
        raise ImportError("no curls here")

    offered.append(point("swirls", load))
    with pytest.raises(PassError, match=r"of swirls .*ImportError: no curls here"):
        gradient_model(parse(FOREIGN), of="y", wrt=["x"])
