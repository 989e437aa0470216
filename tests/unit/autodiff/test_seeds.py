"""The diagonal of the Gauss-Newton matrix: all signs together give it exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from onnxq.autodiff import fisher_model, random_signs
from onnxq.ir.text import parse
from onnxq.testing.running import run_model

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x, float[4,3] w) => (float[N,3] y) { h = Tanh(x) y = MatMul(h, w) }
"""
CLASSES = 3
RNG = np.random.default_rng(3)
X, W = RNG.normal(size=(1, 4)).astype(np.float32), RNG.normal(size=(4, CLASSES)).astype(np.float32)


@pytest.mark.parametrize("head", ["softmax", "regression"])
def test_the_mean_over_all_signs_is_the_diagonal(head: str) -> None:
    """Over all sign vectors the product of two signs averages to 0, and that of one with itself to 1."""
    model = fisher_model(parse(TEXT), of="y", wrt=["h", "w"], head=head)
    draws = [
        run_model(model, {"x": X, "w": W, "signs": np.array([signs], np.float32)})
        for signs in product([-1, 1], repeat=CLASSES)
    ]
    h = np.tanh(X[0].astype(np.float64))
    p = np.exp(h @ W) / np.exp(h @ W).sum()
    hessian = np.diag(p) - np.outer(p, p) if head == "softmax" else np.eye(CLASSES)
    of_h = np.mean(np.diag(W @ hessian @ W.T))
    of_w = np.mean(np.outer(h**2, np.diag(hessian)))
    # sums of some dozen terms in float32
    assert np.mean([draw["h_fisher"] for draw in draws]) == pytest.approx(of_h, rel=1e-5)
    assert np.mean([draw["w_fisher"] for draw in draws]) == pytest.approx(of_w, rel=1e-5)


def test_signs_are_drawn_by_number() -> None:
    one, again, other = (random_signs([4, 100], draw) for draw in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert set(one.ravel()) == {-1.0, 1.0}
    # independent: the mean of 400 products of signs is within 5 deviations of 0
    assert abs((one * other).mean()) < 5 / np.sqrt(one.size)
