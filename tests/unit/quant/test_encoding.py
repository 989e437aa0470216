"""Encodings: the arithmetic of QuantizeLinear and DequantizeLinear, and its error bound."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.ir.module import array_of
from onnxq.ir.text import parse, render
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.encodings import (
    FAMILIES,
    Affine,
    Encoding,
    Float8,
    affine_encoding,
    base,
    block_encoding,
    covering,
    dtypes,
    encoding_of,
    symmetric_encoding,
)
from onnxq.quant.facts import facts_of
from onnxq.quant.statistics import Gram, Range
from onnxq.rewrite.edit import Editor
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

finite = st.floats(-1e6, 1e6, width=32)


@given(st.lists(finite, min_size=1, max_size=30), st.sampled_from(["int4", "uint8", "int8", "int16"]))
def test_the_error_stays_within_the_bound(values: list[float], dtype: str) -> None:
    x = np.array(values, np.float32)
    encoding = affine_encoding(x.min(), x.max(), dtype)
    error = np.abs(encoding.dequantize(encoding.quantize(x)) - x)
    # Rounding the zero point may cut off half a step, which the bound knows; the rest is float32
    # rounding of x / scale and of the product, each relative to the largest value.
    slack = 4 * np.finfo(np.float32).eps * np.abs(x).max()
    assert (error <= encoding.error_bound(x) + slack).all()


@pytest.mark.parametrize("dtype", sorted(dtypes().keys() - {"int32"}))
@pytest.mark.parametrize(("axis", "block"), [(None, None), (0, None), (-1, None), (0, 8), (-1, 8)])
def test_pieces_are_those_of_the_whole(
    dtype: str, axis: int | None, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(50, 37)).astype(np.float32)
    if axis is not None and block is not None:
        encoding: Encoding = block_encoding(x, dtype, axis, block)
    else:
        others = None if axis is None else 1 - axis % 2
        encoding = covering(x.min(axis=others), x.max(axis=others), dtype, axis=axis)
    whole = encoding.quantize(x)
    monkeypatch.setattr(base, "PIECE", 3 * x[0].nbytes)  # of three rows, or of one block
    pieces = [piece for _, piece in encoding.quantized_pieces(x)]
    assert len(pieces) == (7 if (axis, block) == (0, 8) else 17)
    assert np.concatenate(pieces).tobytes() == encoding.quantize(x).tobytes() == whole.tobytes()


@pytest.mark.parametrize("dtype", sorted(dtypes()))
def test_a_single_number_is_quantized(dtype: str) -> None:
    encoding = encoding_of(np.float32(0.5), np.int32(0), dtype)
    assert float(encoding.dequantize(encoding.quantize(np.array(0.5, np.float32)))) == 0.5


@pytest.mark.parametrize("dtype", ["int2", "uint2", "int4", "uint4"])
def test_integers_narrower_than_a_byte_are_those_that_ml_dtypes_converts_to(dtype: str) -> None:
    low, high = Affine.limits_of(dtype)
    numbers = np.arange(low, high + 1, dtype=np.float32)
    stored = encoding_of(np.float32(1), np.int32(0), dtype).quantize(numbers)
    assert stored.tobytes() == numbers.astype(Affine.dtypes[dtype]).tobytes()


@given(finite, finite, st.sampled_from(sorted(Affine.dtypes.keys() - {"int32"})))
def test_zero_is_exact(one: float, other: float, dtype: str) -> None:
    encoding = affine_encoding(min(one, other), max(one, other), dtype)
    zero = np.zeros(1, np.float32)
    assert encoding.dequantize(encoding.quantize(zero)).item() == 0


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_it_computes_what_onnx_runtime_computes(axis: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, 7)).astype(np.float32)
    low, high = (x.min(), x.max()) if axis is None else (x.min(axis=1 - axis), x.max(axis=1 - axis))
    encoding = affine_encoding(low, high, "uint8", axis)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]>'
        f"g (float[5,7] x, float{list(encoding.scale.shape)} s, uint8{list(encoding.scale.shape)} z)"
        f" => (uint8[5,7] q, float[5,7] y) {{ q = QuantizeLinear<axis={axis or 0}>(x, s, z)"
        f" y = DequantizeLinear<axis={axis or 0}>(q, s, z) }}".replace("[]", "")
    )
    feeds = {"x": x, "s": encoding.scale, "z": encoding.zero_point.astype(np.uint8)}
    ran = open_session(model.SerializeToString(), Run(threads=1)).run(feeds)
    np.testing.assert_array_equal(encoding.quantize(x), ran["q"])
    np.testing.assert_array_equal(encoding.dequantize(ran["q"]), ran["y"])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize(("shape", "axis"), [((70, 3), 0), ((3, 64), 1), ((5, 2), 0), ((2, 33, 3), 1)])
def test_each_block_stays_within_its_own_bound(
    shape: tuple[int, ...], axis: int, dtype: str, symmetric: bool
) -> None:
    rng = np.random.default_rng(0)
    size = rng.uniform(1e-3, 1e3, shape)
    x = (rng.normal(size=shape) * size).astype(np.float32)
    if symmetric and dtype.startswith("u"):
        x = np.abs(x)
    encoding = block_encoding(x, dtype, axis, 32, symmetric=symmetric)
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // 32)
    assert list(encoding.scale.shape) == blocks
    assert not symmetric or not encoding.zero_point.any()
    error = np.abs(encoding.dequantize(encoding.quantize(x)) - x)
    # Dividing and multiplying in float32 errs by eps of the value, the bound itself once more.
    assert (error <= encoding.error_bound(x) + 4 * np.finfo(np.float32).eps * np.abs(x)).all()


@pytest.mark.parametrize(("length", "axis"), [(64, 0), (70, 0), (33, 1)])
def test_blocks_compute_what_onnx_runtime_computes(length: int, axis: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(length, 3) if axis == 0 else (3, length)).astype(np.float32)
    encoding = block_encoding(x, "uint8", axis, 32)
    grid, whole = list(encoding.scale.shape), list(x.shape)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]>'
        f"g (float{whole} x, float{grid} s, uint8{grid} z) => (uint8{whole} q, float{whole} y)"
        f" {{ q = QuantizeLinear<axis={axis}, block_size=32>(x, s, z)"
        f" y = DequantizeLinear<axis={axis}, block_size=32>(q, s, z) }}"
    )
    feeds = {"x": x, "s": encoding.scale, "z": encoding.zero_point.astype(np.uint8)}
    ran = open_session(model.SerializeToString(), Run(threads=1)).run(feeds)
    np.testing.assert_array_equal(encoding.quantize(x), ran["q"])
    np.testing.assert_array_equal(encoding.dequantize(ran["q"]), ran["y"])


def test_blocks_of_whole_columns_are_channels() -> None:
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    blocks = block_encoding(x, "uint8", 0, 32)
    channels = affine_encoding(x.min(axis=0), x.max(axis=0), "uint8", axis=1)
    np.testing.assert_array_equal(blocks.scale[0], channels.scale)
    np.testing.assert_array_equal(blocks.quantize(x), channels.quantize(x))
    assert blocks != channels


def test_an_encoding_knows_which_shapes_it_fits() -> None:
    blocks = block_encoding(np.ones((33, 2), np.float32), "uint4", 0, 32)
    assert blocks.fits((33, 2))
    assert blocks.fits((64, 2))
    assert blocks.fits((None, 2))
    assert not blocks.fits((32, 2))
    assert not blocks.fits((33, 3))
    assert not blocks.fits((33, 2, 1))
    assert not blocks.fits(())
    channels = symmetric_encoding(np.ones(2), axis=1)
    assert channels.fits((5, 2))
    assert not channels.fits((5, 3))
    assert not channels.fits((2,))
    assert symmetric_encoding(1.0).fits((5, 3))


def test_symmetric_grids_have_no_offset_and_leave_the_lowest_integer_out() -> None:
    encoding = symmetric_encoding(np.array([1.0, 2.0]), "int8", axis=0)
    assert not encoding.zero_point.any()
    assert encoding.quantize(np.array([[-1.0], [-2.0]], np.float32)).tolist() == [[-127], [-127]]


def test_a_tensor_of_zeros_gets_a_usable_scale() -> None:
    assert affine_encoding(0.0, 0.0).scale == 1
    assert symmetric_encoding(0.0).scale == 1


def test_equality_is_by_value() -> None:
    assert affine_encoding(-1.0, 1.0) == affine_encoding(-1.0, 1.0)
    assert affine_encoding(-1.0, 1.0) != affine_encoding(-1.0, 2.0)
    assert len({affine_encoding(-1.0, 1.0), affine_encoding(-1.0, 1.0)}) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda x: symmetric_encoding(np.abs(x).max(1), axis=0, limit=63),
        lambda x: affine_encoding(x.min(1), x.max(1), "int8", 0, limit=63),
    ],
)
@pytest.mark.parametrize("stretch", [1, 3])
def test_a_limited_grid_ends_at_its_limit(make: Callable[..., Encoding], stretch: int) -> None:
    x = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    encoding = make(x)
    values = x * np.float32(stretch)  # beyond its range, what is cut off counts
    integers = encoding.quantize(values)
    assert np.abs(integers.astype(int)).max() == 63
    assert encoding.limits == (-63, 63)
    error = np.abs(encoding.dequantize(integers) - values)
    # Dividing and multiplying in float32 errs by eps of the value, the bound itself once more.
    assert (error <= encoding.error_bound(values) + 4 * np.finfo(np.float32).eps * np.abs(values)).all()
    assert encoding != replace(encoding, limit=None)


def test_limits() -> None:
    assert Affine.limits_of("int4") == (-8, 7)
    assert Affine.limits_of("int8", 63) == (-63, 63)
    assert Affine.limits_of("uint8", 63) == (0, 63)
    assert Affine.limits_of("uint8") == (0, 255)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int7"}, "unknown dtype 'int7'"),
        ({"zero_point": np.zeros(2, np.int32)}, r"scale has shape \(\), zero point \(2,\)"),
        ({"axis": 0}, r"axis 0 does not fit a scale of shape \(\)"),
        ({"block_size": 0, "axis": 0}, "a block of 0 is not possible"),
        ({"block_size": 32}, r"axis None does not fit a scale of shape \(\)"),
        ({"block_size": 32, "axis": 0}, r"axis 0 does not fit a scale of shape \(\)"),
        ({"scale": np.float32(0)}, "every scale must be finite and positive"),
        ({"scale": np.float32(np.nan)}, "every scale must be finite and positive"),
        ({"limit": 256}, "uint8 cannot be limited to 256"),
        ({"limit": 0}, "uint8 cannot be limited to 0"),
        ({"limit": 7, "dtype": "float8e4m3fn"}, "float8e4m3fn cannot be limited to 7"),
        (
            {"zero_point": np.int32(64), "dtype": "int8", "limit": 63},
            "a zero point lies outside int8's -63..63",
        ),
        ({"zero_point": np.int32(256)}, "a zero point lies outside uint8's 0..255"),
    ],
)
def test_an_encoding_checks_itself(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoding_of(**{"scale": np.float32(1), "zero_point": np.int32(0), **arguments})


def test_a_large_weight_is_not_held_in_float64() -> None:
    """At most three arrays of its size are alive: a quotient, its rounding, the sum with the zero point."""
    weight = np.ones(1 << 20, np.float32)
    encoding = affine_encoding(-1.0, 1.0)
    tracemalloc.start()
    try:
        encoding.dequantize(encoding.quantize(weight))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * weight.nbytes


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("margin", [1.0, 0.25])
def test_float8_stays_within_its_bound_and_computes_what_onnx_runtime_computes(
    axis: int | None, margin: float
) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(64, 48)) * np.exp2(rng.integers(-30, 30, (64, 48)))).astype(np.float32)
    largest = np.abs(x).max(axis=None if axis is None else 1 - axis) * margin
    encoding = symmetric_encoding(largest, "float8e4m3fn", axis)
    np.testing.assert_allclose(encoding.high, largest, rtol=1e-6)
    np.testing.assert_array_equal(encoding.low, -encoding.high)
    stored = encoding.quantize(x)
    restored = encoding.dequantize(stored)
    # Dividing and multiplying in float32 errs by eps of the value, the bound itself once more.
    slack = 4 * np.finfo(np.float32).eps * np.abs(x)
    assert (np.abs(restored - x) <= encoding.error_bound(x) + slack).all()
    shape, where = list(encoding.scale.shape) or "", "" if axis is None else f"<axis={axis}>"
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 19]>'
        f"g (float[64,48] x, float{shape} s, float{shape} f) => (float[64,48] y)"
        f" {{ z = Cast<to=17>(f) q = QuantizeLinear{where}(x, s, z) y = DequantizeLinear{where}(q, s, z) }}"
    )
    feeds = {"x": x, "s": encoding.scale, "f": np.zeros_like(encoding.scale)}
    ran = open_session(model.SerializeToString(), Run(threads=1), optimization="none").run(feeds)
    np.testing.assert_array_equal(restored, ran["y"])


def test_float8_keeps_small_values_that_int8_loses() -> None:
    x = np.array([1e-3, 1.0], np.float32)
    int8, float8 = (symmetric_encoding(1.0, dtype) for dtype in ("int8", "float8e4m3fn"))
    assert int8.dequantize(int8.quantize(x))[0] == 0
    assert float8.error_bound(x)[0] < 0.1 * x[0]
    assert float8.error_bound(x)[1] > int8.error_bound(x)[1]


def test_float8_has_no_zero_point_but_0() -> None:
    with pytest.raises(ValueError, match=r"a zero point lies outside float8e4m3fn's 0\.\.0"):
        encoding_of(np.float32(1), np.int32(1), "float8e4m3fn")


@pytest.mark.parametrize("dtype", ["int4", "uint8", "float8e4m3fn"])
@pytest.mark.parametrize(("axis", "block"), [(None, None), (1, None), (0, 4)])
def test_snapping_is_quantizing_with_the_scales_at_hand(
    dtype: str, axis: int | None, block: int | None
) -> None:
    x = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    shape = {None: (), 1: (6,), 0: (3, 6)}[axis]
    encoding = covering(
        np.full(shape, -1.5), np.full(shape, 2.0), dtype, axis=axis, block_size=block
    )  # both ends cut off
    scale, zero_point = encoding.spread(x.shape)
    snapped = encoding.snap(x[3], scale[3], zero_point[3])
    # The ends, and the multiples, are each rounded to float32 once.
    np.testing.assert_allclose(snapped, encoding.restored(x)[3], rtol=2.0**-23)


def test_each_dtype_belongs_to_one_family() -> None:
    names = [name for family in FAMILIES.values() for name in family.dtypes]
    assert len(names) == len(set(names))
    assert all(encoding_of(np.float32(1), np.int32(0), name).dtype == name for name in names)


class Coarse(Float8):
    """Float8 with fewer digits and more range: all that a new family takes."""

    dtypes: ClassVar = {"float8e5m2": np.dtype(ml_dtypes.float8_e5m2)}


def test_a_new_family_is_covered_written_and_realised_like_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "coarse", Coarse)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    encoding = covering(x.min(axis=0), x.max(axis=0), "float8e5m2", axis=1)
    assert type(encoding) is Coarse
    # Two float32 roundings beside the bound, which is itself rounded once.
    slack = 4 * np.finfo(np.float32).eps * np.abs(x)
    assert (np.abs(encoding.restored(x) - x) <= encoding.error_bound(x) + slack).all()
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,1] y)'
        "<float[2,1] w = {1.05, 0.52}> { y = MatMul(x, w) }"
    )
    encoding = symmetric_encoding(np.array([1.05]), "float8e5m2", axis=1)
    Editor(module).encode(module.graph.initializers["w"], encoding, why="test")
    assert [one.encoding for one in parse(render(module)).decisions()] == [encoding]
    run = PassManager(parse_pipeline("round-weights, insert-qdq"), find_target("cpu"))
    run.measure = lambda module, needs: {"x": facts_of(8, Range(0.0, 1.0), Gram(np.eye(2, dtype=np.float32)))}
    run.run(module)
    weight = np.array([[1.05], [0.52]], np.float32)
    np.testing.assert_array_equal(array_of(module.value("w_q")), encoding.quantize(weight))
