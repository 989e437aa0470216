"""Range setting: each method's law."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxq.calibration.observers import observe_array
from onnxq.errors import RecipeError
from onnxq.quant import clipping, ranges
from onnxq.quant.encodings import affine_encoding, block_encoding, covering, symmetric_encoding
from onnxq.quant.facts import Facts, facts_of
from onnxq.quant.ranges import (
    METHODS,
    Percentile,
    block_ranges,
    encode_blocks,
    hessian_range,
    range_method,
)
from onnxq.quant.statistics import STATISTICS, Average, CurvedHistogram, Range
from onnxq.quant.statistics.base import Block

Array = NDArray[np.float32]
SCHEMES = [("uint8", False), ("int8", True), ("int4", False), ("uint4", True)]


def samples(kind: str, seed: int, shape: tuple[int, ...] = (300, 64)) -> Array:
    rng = np.random.default_rng(seed)
    values = {
        "normal": lambda: rng.normal(size=shape),
        "relu": lambda: np.maximum(rng.normal(size=shape), 0),
        "heavy": lambda: rng.standard_t(2, size=shape),
        "skewed": lambda: np.exp(rng.normal(size=shape)),
        "negative": lambda: -np.exp(rng.normal(size=shape)),
        "outlier": lambda: np.where(np.arange(shape[-1]) == 3, 60, 1) * rng.normal(size=shape),
    }[kind]()
    return values.astype(np.float32)


KINDS = ("normal", "relu", "heavy", "skewed", "negative", "outlier")


def facts_in(values: Array) -> Facts:
    return observe_array(values, STATISTICS.values())


def squared_error(
    values: Array, low: object, high: object, dtype: str, symmetric: bool, axis: int | None = None
) -> NDArray[np.float64]:
    encoding = covering(np.asarray(low), np.asarray(high), dtype, symmetric=symmetric, axis=axis)
    error = (encoding.dequantize(encoding.quantize(values)) - values).astype(np.float64) ** 2
    return np.asarray(error.sum() if axis is None else error.sum(axis=1 - axis))


def test_min_max_is_what_was_seen() -> None:
    x = samples("normal", 0)
    method = range_method("min-max")
    assert method.choose(facts_in(x)) == (x.min(), x.max())
    for low, high in (method.choose_channels(facts_in(x)), method.choose_rows(x.T)):
        np.testing.assert_array_equal(low, x.min(axis=0))
        np.testing.assert_array_equal(high, x.max(axis=0))


def test_moving_average_is_the_measured_average() -> None:
    facts = facts_of(4, Range(-9.0, 9.0), Average(-1.0, 2.0))
    assert range_method("moving-average").choose(facts) == (-1.0, 2.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [99.99, 99.0, 100.0])
def test_percentile_is_numpys_up_to_a_bin(kind: str, percent: float) -> None:
    x = samples(kind, 1)
    exact = np.quantile(x.astype(np.float64), [1 - percent / 100, percent / 100])
    order = np.sort(x, axis=None)
    # The result lies between two neighbouring values, each known up to 1/128 of it, or the smallest bin.
    tails = np.split(np.abs(order), [400, order.size - 400])[::2]
    width = [tail.max() / 128 + np.finfo(np.float32).tiny for tail in tails]
    chosen = Percentile(percent).choose(facts_in(x))
    assert np.all(np.abs(np.subtract(chosen, exact)) <= width)
    assert x.min() <= chosen[0] <= chosen[1] <= x.max()


def test_percentile_of_channels_is_numpys() -> None:
    x = samples("normal", 2)
    low, high = range_method("percentile").choose_channels(facts_in(x))
    np.testing.assert_allclose(low, np.quantile(x.astype(np.float64), 1 - 0.9999, axis=0))
    np.testing.assert_allclose(high, np.quantile(x.astype(np.float64), 0.9999, axis=0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "symmetric"), SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_mse_is_never_worse_than_min_max(kind: str, dtype: str, symmetric: bool, seed: int) -> None:
    x = samples(kind, seed)
    low, high = range_method("mse").choose(facts_in(x), dtype, symmetric)
    chosen = squared_error(x, low, high, dtype, symmetric)
    # The search sees values up to half a bin, 1/256 of each. It may so misjudge the error by about as much.
    assert chosen <= squared_error(x, x.min(), x.max(), dtype, symmetric) * (1 + 1 / 128)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=8, max_size=64), st.sampled_from(SCHEMES))
def test_mse_of_channels_is_never_worse_than_min_max(values: list[float], scheme: tuple[str, bool]) -> None:
    x = np.array(values[: len(values) // 4 * 4], np.float32).reshape(4, -1)
    low, high = range_method("mse").choose_rows(x, *scheme)
    chosen = squared_error(x, low, high, *scheme, axis=0)
    # float32 rounding of the sums
    assert (chosen <= squared_error(x, x.min(axis=1), x.max(axis=1), *scheme, axis=0) * (1 + 1e-5)).all()


@pytest.mark.parametrize(("dtype", "symmetric"), SCHEMES)
def test_mse_finds_what_a_full_search_finds(dtype: str, symmetric: bool) -> None:
    x = samples("outlier", 5)
    low, high = range_method("mse").choose(facts_in(x), dtype, symmetric)
    shares = np.linspace(0.05, 1, 25)
    ends = [(a, a) for a in shares] if symmetric else [(a, b) for a in shares for b in shares]
    best = min(float(squared_error(x, x.min() * a, x.max() * b, dtype, symmetric)) for a, b in ends)
    # The error is flat around its minimum: the nearest of our candidates costs at most a few percent more.
    assert squared_error(x, low, high, dtype, symmetric) <= best * 1.05


def curved(values: Array, squares: Array) -> Facts:
    observer = CurvedHistogram.observer()
    observer.update(Block(values[np.newaxis], -1, gradients=squares[np.newaxis]))
    return facts_of(values.size, Range(float(values.min()), float(values.max())), observer.result())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_hessian_is_mse_where_the_loss_cares_for_all_alike(scheme: tuple[str, bool]) -> None:
    x = samples("outlier", 5)
    facts = curved(x, np.ones_like(x)).with_parts(facts_in(x).parts)
    assert range_method("hessian").choose(facts, *scheme) == range_method("mse").choose(facts, *scheme)


def test_hessian_keeps_what_the_loss_cares_for() -> None:
    """Channel 3 reaches sixty times as far as the others: it is cut off, or not, as it matters."""
    x = samples("outlier", 5)
    of_one = np.where(np.arange(64) == 3, 1, 1e-9) * np.ones_like(x)
    of_others = np.where(np.arange(64) == 3, 1e-9, 1) * np.ones_like(x)
    method = range_method("hessian")
    wide, narrow = (method.choose(curved(x, s.astype(np.float32))) for s in (of_one, of_others))
    assert wide[1] > 0.8 * x.max()
    assert narrow[1] < 1.5 * np.abs(np.delete(x, 3, axis=1)).max()


def test_hessian_cuts_nothing_off_where_the_loss_cares_for_nothing() -> None:
    x = samples("normal", 0)
    assert range_method("hessian").choose(curved(x, np.zeros_like(x))) == (x.min(), x.max())


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_hessian_ranges_of_weights_cost_least(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(3, size=(8, 40)).astype(np.float32)
    inputs = (rng.normal(size=(90, 40)) * np.exp(rng.normal(size=40))).astype(np.float32)
    gram = inputs.T @ inputs

    def cost(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the squared errors of the outputs themselves."""
        axis = None if whole else 0
        encoding = covering(low, high, "int8", symmetric=True, axis=axis, limit=7)
        each = np.square(inputs @ (encoding.restored(rows) - rows).T.astype(np.float64)).sum(axis=0)
        return np.asarray(each.sum() if whole else each)

    shape = (1, -1) if whole else rows.shape
    low, high = hessian_range(rows, gram, "int8", whole=whole, limit=7)
    assert low.shape == high.shape == ((1,) if whole else (8,))
    found = cost(low[0], high[0]) if whole else cost(low, high)
    costs = {}
    for name in ("min-max", "mse"):
        other = range_method(name).choose_rows(rows.reshape(shape), "int8", True, 7)
        costs[name] = cost(other[0][0], other[1][0]) if whole else cost(*other)
    # The matrix is rounded to float32, of 90 products.
    assert (found <= costs["min-max"] * (1 + 1e-4)).all()
    assert found.sum() < 0.95 * costs["mse"].sum()


def test_weights_of_inputs_that_hardly_matter_are_not_cut_off_for_nothing() -> None:
    """Half of the inputs were never seen: their weights of 1 still count, if for a tenth of the others."""
    rows = np.where(np.arange(40) < 20, 0.5, 1.0)[np.newaxis].astype(np.float32)
    gram = np.diag(np.where(np.arange(40) < 20, 1.0, 0.0)).astype(np.float32)
    _, high = hessian_range(rows, gram, "int8", whole=False)
    assert high == pytest.approx(1.0, rel=1e-6)


def test_hessian_ranges_of_weights_are_mse_for_independent_inputs() -> None:
    rows = samples("heavy", 3, (6, 50))
    cost = clipping.squared_error(rows, "int8", True, 7)
    expected = clipping.search_range(cost, rows.min(axis=1), rows.max(axis=1), True, clipping.BRIEF)
    gram = np.eye(50, dtype=np.float32)
    np.testing.assert_array_equal(hessian_range(rows, gram, "int8", whole=False, limit=7), expected)


@pytest.mark.parametrize("kind", ["heavy", "outlier", "skewed"])
@pytest.mark.parametrize(("dtype", "symmetric"), [("uint8", False), ("int8", True)])
def test_entropy_clips_heavy_tails(kind: str, dtype: str, symmetric: bool) -> None:
    x = samples(kind, 6, (2000, 64))
    low, high = range_method("entropy").choose(facts_in(x), dtype, symmetric)
    assert max(-low, high) < 0.75 * np.abs(x).max()
    inside = (low <= x) & (x <= high)
    assert inside.mean() > 0.98, "it clips tails, not the body"


def test_entropy_keeps_a_flat_distribution() -> None:
    x = np.random.default_rng(7).uniform(-1, 3, size=(400, 64)).astype(np.float32)
    low, high = range_method("entropy").choose(facts_in(x))
    # There is nothing to gain from clipping; a candidate step of 1/8 octave is 8 %.
    assert low == pytest.approx(-1, abs=0.1)
    assert high == pytest.approx(3, abs=0.3)


def test_entropy_of_channels_clips_all_by_one_share() -> None:
    x = samples("heavy", 8, (64, 300)) * np.logspace(-3, 3, 64)[:, None].astype(np.float32)
    low, high = range_method("entropy").choose_rows(x)
    share = np.maximum(-low, high) / np.abs(x).max(axis=1)
    np.testing.assert_allclose(share, share[0], rtol=1e-6)
    assert share[0] < 1


@pytest.mark.parametrize("symmetric", [False, True])
def test_cross_entropy_is_never_worse_than_min_max(symmetric: bool) -> None:
    logits = 5 * samples("normal", 9, (200, 10))
    logits[0, 0] = -500  # far below: clipping it costs the softmax nothing
    dtype = "int8" if symmetric else "uint8"
    low, high = range_method("cross-entropy").choose(facts_in(logits), dtype, symmetric)

    def cost(low: float, high: float) -> float:
        encoding = covering(low, high, dtype, symmetric=symmetric)
        v = logits.astype(np.float64)
        w = encoding.dequantize(encoding.quantize(logits)).astype(np.float64)
        p = np.exp(v - np.logaddexp.reduce(v, axis=1, keepdims=True))
        return -float((p * (w - np.logaddexp.reduce(w, axis=1, keepdims=True))).sum(axis=1).mean())

    assert cost(low, high) < cost(float(logits.min()), float(logits.max()))
    assert low > -250


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_constant_tensor_has_a_range(name: str) -> None:
    for constant in (0.0, 2.5, -2.5):
        facts = facts_in(np.full((4, 3), constant, np.float32))
        low, high = METHODS[name].choose(facts)
        # half a bin for what comes from a histogram
        assert min(low, 0) == pytest.approx(min(constant, 0), rel=1 / 128)
        assert max(high, 0) == pytest.approx(max(constant, 0), rel=1 / 128)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_needs_no_more_than_it_says(name: str) -> None:
    method = METHODS[name]
    assert range_method(name) is method
    assert method.choose(observe_array(samples("normal", 0), method.stats))
    if method.channel_stats:
        facts = observe_array(samples("normal", 0), method.channel_stats)
        low, high = method.choose_channels(facts)
        assert low.shape == high.shape == (64,)


@pytest.mark.parametrize("name", ["mse", "entropy", "cross-entropy"])
def test_methods_that_compare_grids_are_not_for_float8(name: str) -> None:
    with pytest.raises(RecipeError, match=f"range method '{name}' is for integers and not for float8e4m3fn"):
        range_method(name, "float8e4m3fn")
    assert range_method("min-max", "float8e4m3fn") is range_method("min-max")


def test_an_unknown_method_has_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="there is no range method 'min_max'") as caught:
        range_method("min_max")
    assert caught.value.hint == "did you mean 'min-max'?"


def test_methods_for_whole_tensors_say_so() -> None:
    with pytest.raises(RecipeError, match="'moving-average' is for whole tensors only") as caught:
        range_method("moving-average").choose_rows(samples("normal", 0))
    assert caught.value.hint == "per channel: entropy, min-max, mse, percentile"


def test_a_percentage_out_of_bounds() -> None:
    with pytest.raises(RecipeError, match="percentile 40 is not above 50 and at most 100"):
        Percentile(40)


def test_facts_that_were_not_measured() -> None:
    with pytest.raises(ValueError, match="these facts lack 'histogram': ask for it in a Need"):
        range_method("mse").choose(facts_of(1, Range(0.0, 1.0)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rows", [64, 70])
def test_min_max_blocks_are_those_of_block_encoding(rows: int, symmetric: bool) -> None:
    values = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    low, high = block_ranges(range_method("min-max"), values, "int4", 32, symmetric=symmetric)
    wanted = block_encoding(values, "int4", 0, 32, symmetric=symmetric)
    found = (
        symmetric_encoding(np.maximum(-low, high), "int4", 0, 32)
        if symmetric
        else affine_encoding(low, high, "int4", 0, 32)
    )
    assert found == wanted


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_mse_blocks_err_less_than_min_max_blocks(dtype: str) -> None:
    values = np.random.default_rng(1).standard_t(4, size=(96, 6)).astype(np.float32)
    errors = []
    for name in ("min-max", "mse"):
        low, high = block_ranges(range_method(name), values, dtype, 32)
        encoding = affine_encoding(low, high, dtype, 0, 32)
        error = encoding.dequantize(encoding.quantize(values)) - values
        errors.append(np.square(error).reshape(3, 32, 6).sum(axis=1))
    assert (errors[1] <= errors[0]).all()
    assert errors[1].sum() < errors[0].sum()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["min-max", "mse"])
def test_blocks_are_encoded_in_pieces_as_at_once(
    name: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(300, 17)).astype(np.float32)  # the last block is shorter
    monkeypatch.setattr(ranges, "PIECE", 2 * 32 * values[0].nbytes)
    method = range_method(name, "int4")
    low, high = block_ranges(method, values, "int4", 32, symmetric=symmetric)
    at_once = covering(low, high, "int4", symmetric=symmetric, axis=0, block_size=32)
    assert encode_blocks(method, values, "int4", 32, symmetric=symmetric) == at_once
