"""What is said of outputs: the loss is cross entropy of them, through whatever happens to the graph."""

from __future__ import annotations

from collections.abc import Callable

from onnxq.autodiff import losses, prepared
from onnxq.engine.known import prints_of
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.text import parse
from onnxq.quant.facts import Need
from onnxq.quant.statistics import Curvature

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] logits, float[N,2] y) {
    h = Tanh(x) d = Dropout(h) logits = Identity(d) y = Relu(x)
}
"""


def _heads(module: GraphModule) -> dict[str, str]:
    return {name_of(one.value): one.head for one in losses(module)}


def test_the_loss_is_cross_entropy_of_what_was_named(compiled: Callable[..., GraphModule]) -> None:
    assert _heads(parse(TEXT)) == {"logits": "regression", "y": "regression"}
    rewritten = "classify-outputs{outputs=logits}, fold-constants, remove-dead"
    module = compiled(parse(TEXT), rewritten)
    for one in (module, module.clone(), module.undecided(), prepared(module)):
        assert _heads(one) == {"logits": "softmax", "y": "regression"}


def test_what_is_said_twice_adds_up(compiled: Callable[..., GraphModule]) -> None:
    module = compiled(parse(TEXT), "classify-outputs{outputs=logits}, classify-outputs{outputs=y}")
    assert _heads(module) == {"logits": "softmax", "y": "softmax"}


def test_gradients_of_another_loss_are_others(compiled: Callable[..., GraphModule]) -> None:
    need = Need("h", frozenset({Curvature}))
    named = compiled(parse(TEXT), "classify-outputs{outputs=logits}")
    before, after = (prints_of(one, [need]) for one in (parse(TEXT), named))
    assert before["h", False] == after["h", False]
    assert before["h", True] != after["h", True]
