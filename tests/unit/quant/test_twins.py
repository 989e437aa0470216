"""Twin uniform grids: the formula of the paper, the nodes that realise it, and the search for its border."""

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.analysis.twins import twin_parts
from onnxq.ir.knowledge import NamedDecision
from onnxq.ir.store import save_model
from onnxq.ir.text import parse, render
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.encodings import Twin, affine_encoding, covering
from onnxq.quant.twins import best_twin, code_bits, with_sampled, with_weight
from onnxq.rewrite.edit import Editor
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

Array = NDArray[np.float32]


def uniform(x: Array, step: float, most: int) -> NDArray[np.float64]:
    """The paper's Psi: unsigned, with so many bits that ``most`` is the largest integer."""
    return step * np.clip(np.rint(x.astype(np.float64) / step), 0, most)


def twin_of_the_paper(
    x: Array, bits: int, exponent: int, *, gelu_low: float | None = None
) -> NDArray[np.float64]:
    """T_k as PTQ4ViT states it: k - 1 bits on either side, coarse = 2**exponent * fine."""
    levels = 2 ** (bits - 1)
    if gelu_low is not None:
        fine = -gelu_low / levels
        negative = -uniform(-x, fine, levels)
        return np.where(x <= 0, negative, uniform(x, fine * 2**exponent, levels - 1))
    coarse = 1 / levels
    fine = coarse / 2**exponent
    return np.where(x < levels * fine, uniform(x, fine, levels - 1), uniform(x, coarse, levels - 1))


def softmax_values(seed: int, shape: tuple[int, ...] = (64, 65)) -> Array:
    scores = np.random.default_rng(seed).normal(scale=3, size=shape)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("exponent", [1, 2, 3])
def test_it_is_the_formula_of_the_paper_but_where_that_clamps(bits: int, exponent: int) -> None:
    x = np.concatenate([softmax_values(0).reshape(-1), np.linspace(0, 1, 4000, dtype=np.float32)])
    grid = Twin.above_zero(1.0, exponent, 2 ** (bits - 1))
    found, wanted = grid.restored(x), twin_of_the_paper(x, bits, exponent)
    fine, coarse, border = float(grid.fine.scale), float(grid.coarse.scale), float(grid.border)
    clamped = ((x >= border - fine / 2) & (x < border)) | (x >= 1 - coarse / 2)
    # All steps and borders are powers of two: nothing is rounded but x / step, to an integer, and none of
    # these values lies in the middle of two.
    np.testing.assert_array_equal(found[~clamped], wanted[~clamped])
    # There the formula clamps to the last step; the code of the border, or of 1, is free, and nearer.
    assert (np.abs(found - x)[clamped] <= np.abs(wanted - x)[clamped]).all()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_behind_a_gelu_it_is_the_formula_of_the_paper(bits: int) -> None:
    x = np.random.default_rng(0).normal(size=4000).astype(np.float32).clip(-0.125, 3)
    levels, exponent = 2 ** (bits - 1), 4
    grid = Twin(np.float32(0.125 / levels), np.int32(levels), "twin8", exponent=exponent, levels=levels)
    wanted = twin_of_the_paper(x, bits, exponent, gelu_low=-0.125)
    np.testing.assert_array_equal(grid.restored(x), wanted)


@pytest.mark.parametrize("levels", [8, 32, 128])
@pytest.mark.parametrize("exponent", [1, 3, 7, 12])
def test_codes_have_as_many_bits_as_they_say(levels: int, exponent: int) -> None:
    grid = Twin.above_zero(1.0, exponent, levels)
    x = np.concatenate([np.linspace(0, 1, 5000), np.geomspace(1e-7, 1, 5000)]).astype(np.float32)
    assert len(np.unique(grid.restored(x))) <= 2**grid.bits
    assert grid.quantize(x).max() < 2**grid.bits
    error = np.abs(grid.restored(x) - x)
    # Each of the two grids, the difference and the sum are rounded to float32, relative to 1 at most.
    assert (error <= grid.error_bound(x) + 4 * np.finfo(np.float32).eps).all()


@pytest.mark.parametrize("exponent", [1, 2, 7, 12])
def test_the_largest_value_of_a_softmax_is_exact_where_a_code_is_left(exponent: int) -> None:
    one = np.ones(1, np.float32)
    lost = 1 - float(Twin.above_zero(1.0, exponent).restored(one)[0])
    assert lost == 0 if exponent <= 7 else lost <= 1 / 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exponent": 0}, r"coarse steps of 2\*\*0 fine ones are no larger"),
        ({"levels": 5}, "5 fine steps are no power of two from 2 to 128"),
        ({"zero_point": np.int32(3)}, "a zero point is neither 0 nor 128"),
    ],
)
def test_it_checks_itself(changes: dict[str, object], message: str) -> None:
    fields = {"scale": np.float32(1), "zero_point": np.int32(0), "dtype": "twin8", **changes}
    with pytest.raises(ValueError, match=message):
        Twin(**fields)  # type: ignore[arg-type]


MODEL = (
    '<ir_version: 10, opset_import: ["" : 21]> main (float[64,65] x, float[65,3] v) => (float[64,3] y)'
    "{ [weighing] y = MatMul(x, v) }"
)


@pytest.mark.parametrize("passes", ["insert-qdq", "insert-qdq, split-twins, remove-dead"])
@pytest.mark.parametrize(
    "grid",
    [
        Twin.above_zero(1.0, 5),
        Twin.above_zero(1.0, 2, 8),
        covering(-0.17, 3.0, "twin8"),
    ],
)
def test_the_nodes_compute_what_it_says(grid: Twin, passes: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    module = parse(MODEL)
    x, v = softmax_values(1), np.random.default_rng(2).normal(size=(65, 3)).astype(np.float32)
    if grid.zero_point:
        x = x * 3 - np.float32(0.1)
    node = next(iter(module.graph))
    Editor(module).encode(module.graph.inputs[0], grid, readers=[node], why="test")
    assert parse(render(module)).named_decisions() == [NamedDecision("x", grid, frozenset({"weighing"}))]
    PassManager(parse_pipeline(passes), find_target("cpu")).run(module)
    save_model(module, tmp_path / "m.onnx")
    (found,) = open_session(tmp_path / "m.onnx", Run(threads=1)).run({"x": x, "v": v}).values()
    # 65 products are added up in another order: eps for each, relative to the largest sum.
    slack = 65 * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(v)).max()
    np.testing.assert_allclose(found, grid.restored(x) @ v, rtol=0, atol=slack)


def test_it_is_read_back_from_its_nodes() -> None:
    for grid in (Twin.above_zero(1.0, 5), Twin.above_zero(1.0, 12, 8), covering(-0.17, 3.0, "twin8")):
        module = parse(MODEL)
        node = next(iter(module.graph))
        Editor(module).encode(module.graph.inputs[0], grid, readers=[node], why="test")
        PassManager(parse_pipeline("insert-qdq"), find_target("cpu")).run(module)
        parts = twin_parts(node.inputs[0])
        assert parts is not None
        assert parts.encoding == grid


def test_a_sampled_factor_predicts_the_error_of_products() -> None:
    """Where what is met is independent of the errors, the expectation is the mean over many products."""
    rng, p = np.random.default_rng(0), softmax_values(3, (200, 64))
    v = (rng.normal(size=(400, 64, 8)) + 0.5).astype(np.float32)
    for grid in (affine_encoding(0, 1, limit=15), Twin.above_zero(1.0, 4, 8)):
        expected = with_sampled(p, v.reshape(-1, 8)[:512])(grid)
        measured = float(np.square((grid.restored(p) - p) @ v, dtype=np.float64).mean())
        # 512 rows tell a mean and a spread to about 1 / sqrt(512) = 4 %, squared to 9 %.
        assert measured == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_search_finds_the_best_border(bits: int) -> None:
    p, v = softmax_values(4), np.random.default_rng(5).normal(size=(65, 8)).astype(np.float32)
    cost = with_weight(p, v)
    found = best_twin(0.0, 1.0, bits, cost)
    others = [Twin.above_zero(1.0, exponent, 2 ** (bits - 1)) for exponent in range(1, 20)]
    assert cost(found) == min(map(cost, others))
    assert cost(found) < cost(affine_encoding(0, float(p.max()), limit=None if bits == 8 else 2**bits - 1))


def test_a_grid_tells_how_many_bits_its_codes_have() -> None:
    assert code_bits(affine_encoding(0, 1)) == 8
    assert code_bits(affine_encoding(0, 1, limit=15)) == 4
    assert code_bits(affine_encoding(-1, 1, "int8", limit=31)) == 6
