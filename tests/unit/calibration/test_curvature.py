"""Squared gradients over data: where each element of the loss depends on one element, signs do not matter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.autodiff import losses
from onnxq.calibration import drawing
from onnxq.calibration.collect import collect
from onnxq.errors import CalibrationError, PreconditionError
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.text import parse
from onnxq.quant.facts import Facts, Need
from onnxq.quant.statistics import Curvature, CurvedGram, CurvedHistogram, CurvedRows, Range
from onnxq.runtime.run import Run

Array = NDArray[Any]
RNG = np.random.default_rng(0)
W = np.array([[0.5, 0.0], [0.0, -2.0]], np.float32)
DIAGONAL = """<ir_version: 10, opset_import: ["" : 21]>
main (float[n,t,2] x, float[n,t] attention_mask) => (float[n,t,2] y)
<float[2,2] w = {0.5, 0, 0, -2}> {
    h = Tanh(x)
    [m] m = MatMul(h, w)
    s = Tanh(m)
    more = Mul(h, h)
    y = Add(s, more)
}
"""


@dataclass(frozen=True)
class Batch:
    feeds: Mapping[str, Array]
    rows: int


@dataclass(frozen=True)
class Cut:
    """Feeds in batches of ``size``."""

    feeds: Mapping[str, Array]
    size: int

    def batches(self) -> Iterator[Batch]:
        count = len(next(iter(self.feeds.values())))
        for start in range(0, count, self.size):
            feeds = {name: array[start : start + self.size] for name, array in self.feeds.items()}
            yield Batch(feeds, len(next(iter(feeds.values()))))


def feeds_of(x: Array, lengths: Array | None = None) -> dict[str, Array]:
    tokens = np.arange(x.shape[1])
    kept = tokens < (x.shape[1] if lengths is None else lengths[:, np.newaxis])
    return {"x": x, "attention_mask": np.broadcast_to(kept, x.shape[:2]).astype(np.float32)}


def measured(module: GraphModule, feeds: Mapping[str, Array], size: int, *needs: Need) -> Mapping[str, Facts]:
    return collect(module.model, needs, Cut(feeds, size), Run(threads=1)).facts


def by_hand(x: Array) -> tuple[Array, Array, Array]:
    """Return h, and the squared gradients of what the product gives, and of h as the product reads it."""
    h = np.tanh(x.astype(np.float64))
    of_product = (1 - np.tanh(h @ W) ** 2) ** 2
    return h, of_product, of_product * np.diagonal(W) ** 2


NEEDS = (
    Need("h", frozenset({Curvature, CurvedRows, CurvedGram, CurvedHistogram})),
    Need("m", frozenset({Curvature})),
    Need("h", frozenset({Curvature}), axis=-2),
)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_squared_gradients_of_what_layers_read_and_give(size: int) -> None:
    x = RNG.normal(size=(5, 3, 2)).astype(np.float32)
    facts = measured(parse(DIAGONAL), feeds_of(x), size, *NEEDS)
    h, of_product, squares = by_hand(x)
    near = {"rtol": 1e-5, "atol": 1e-7}  # a dozen operations in float32
    np.testing.assert_allclose(facts["h"].known(Curvature).values, squares.sum(axis=(0, 1)) / 5, **near)
    np.testing.assert_allclose(facts["h"].known(Curvature, -2).values, squares.sum(axis=(0, 2)) / 5, **near)
    np.testing.assert_allclose(facts["m"].known(Curvature).values, of_product.sum(axis=(0, 1)) / 5, **near)
    rows = facts["h"].known(CurvedRows)
    np.testing.assert_allclose(rows.values, h.reshape(-1, 2), **near)
    np.testing.assert_allclose(rows.squares, squares.reshape(-1, 2), **near)
    total = facts["h"].known(CurvedHistogram).counts.sum()
    np.testing.assert_allclose(total, squares.sum(), **near)
    weights = of_product.reshape(-1, 2).mean(axis=1)
    expected = np.einsum("ra,r,rb->ab", h.reshape(-1, 2), weights, h.reshape(-1, 2))
    np.testing.assert_allclose(facts["h"].known(CurvedGram).products, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 4])
def test_padding_is_no_part_of_the_loss(size: int) -> None:
    x, lengths = RNG.normal(size=(4, 40, 2)).astype(np.float32), np.array([3, 40, 17, 1])
    facts = measured(parse(DIAGONAL), feeds_of(x, lengths), size, NEEDS[0])
    squares = by_hand(x)[2] * (np.arange(40) < lengths[:, np.newaxis])[..., np.newaxis]
    np.testing.assert_allclose(facts["h"].known(Curvature).values, squares.sum(axis=(0, 1)) / 4, rtol=1e-5)


def test_rows_of_a_large_value_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "MOST", 2 * 256)
    x = np.repeat(RNG.normal(size=(2, 4, 2)).astype(np.float32), 129, axis=1)
    facts = measured(parse(DIAGONAL), feeds_of(x), 2, NEEDS[0])
    assert len(facts["h"].known(CurvedRows).values) == 2 * 256
    # each row is there 129 times, and 63 to 65 of them are looked at
    squares = by_hand(x)[2].sum(axis=(0, 1)) / 2
    np.testing.assert_allclose(facts["h"].known(Curvature).values, squares, rtol=2 / 64)


def test_what_no_output_depends_on_has_no_gradient() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    main (float[n,2] x) => (float[n,2] y, int64[n,1] class) {
        h = Neg(x) class = ArgMax <axis = 1> (h) y = Tanh(x)
    }
    """
    x = RNG.normal(size=(3, 2)).astype(np.float32)
    found = measured(parse(text), {"x": x}, 3, Need("h", frozenset({Curvature})))["h"]
    np.testing.assert_array_equal(found.known(Curvature).values, [0, 0])
    assert found.known(Range).high == np.float32(-x.min())


def test_losses_are_cross_entropy_behind_a_softmax() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    main (float[n,4] x) => (float[n,4] p, float[n,4] q, float[n,4] y, int64[n,1] best) {
        a = Neg(x) p = Softmax(a) b = Relu(x) q = Softmax <axis = 0> (b)
        y = LogSoftmax(x) best = ArgMax <axis = 1> (y)
    }
    """
    found = [(name_of(one.value), one.head) for one in losses(parse(text))]
    assert found == [("a", "softmax"), ("q", "regression"), ("x", "softmax")]


def test_the_mean_over_samples_nears_the_diagonal_of_a_softmax() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    main (float[n,3] x) => (float[n,3] p) { h = Identity(x) p = Softmax(h) }
    """
    logits = np.array([0.3, -1.0, 1.2], np.float32)
    x = np.broadcast_to(logits, (1000, 3))
    found = measured(parse(text), {"x": x}, 50, Need("h", frozenset({Curvature})))["h"]
    p = np.exp(logits) / np.exp(logits).sum()
    # Each of 4000 draws is below 1; so their mean is off by 5 deviations of 1/sqrt(4000) at most.
    np.testing.assert_allclose(found.known(Curvature).values, p * (1 - p), atol=5 / np.sqrt(4000))


def test_products_that_nobody_computes_are_refused() -> None:
    x = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    with pytest.raises(PreconditionError, match="no product with a matrix reads it"):
        measured(parse(DIAGONAL), feeds_of(x), 2, Need("x", frozenset({CurvedGram})))


def test_a_gradient_that_is_nan_is_an_error() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    main (float[n,2] x) => (float[n,2] y) { h = Relu(x) s = Sqrt(h) y = Mul(s, h) }
    """
    x = np.array([[1, 2], [0, 3]], np.float32)  # the root's derivative at 0 is infinite, times 0
    with pytest.raises(CalibrationError, match="its gradient is NaN in sample 1"):
        measured(parse(text), {"x": x}, 1, Need("h", frozenset({Curvature})))


def test_decisions_are_none_of_its_business() -> None:
    module = parse(
        DIAGONAL.replace("<ir_version", "# encode w: scale=0.5 zero_point=0 readers=m\n<ir_version", 1)
    )
    x = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    facts = [measured(one, feeds_of(x), 2, NEEDS[1])["m"] for one in (module, parse(DIAGONAL))]
    assert module.decisions()
    np.testing.assert_array_equal(*(one.known(Curvature).values for one in facts))


def test_progress_is_told_for_values_and_once_more_for_gradients() -> None:
    x, told = RNG.normal(size=(3, 2, 2)).astype(np.float32), list[int]()
    collect(parse(DIAGONAL).model, NEEDS, Cut(feeds_of(x), 3), Run(threads=1), on_progress=told.append)
    assert told == [3, 1, 2, 3]
