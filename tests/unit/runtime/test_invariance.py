"""Alone, padded and in a batch: static artefacts must give the same, dynamic ones cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.errors import DataError, ToleranceError
from onnxq.ir.store import load_model
from onnxq.recipe import load_recipe
from onnxq.runtime.invariance import check_invariance, require_invariance
from onnxq.runtime.run import Run

Save = Callable[..., Path]
QUIET = CompileOptions(validate=False, bench=False, tune=False)

# Self-attention over masked tokens, with a pooled output beside the tokens'.
ATTENTION = """main (int64[N,T] input_ids, int64[N,T] attention_mask)
    => (float[N,T,8] tokens, float[N,8] pooled)
<int64[1] second = {1}, int64[1] last = {2}, float one = {1.0}, float big = {-10000.0}>
{
    e = Gather(table, input_ids)
    q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)
    kt = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul(q, kt)
    seen = Cast <to = 1> (attention_mask)
    hidden = Sub(one, seen)
    much = Mul(hidden, big)
    mask = Unsqueeze(much, second)
    masked = Add(s, mask)
    p = Softmax(masked)
    c = MatMul(p, v)
    o = MatMul(c, wo)
    tokens = Add(o, e)
    weight = Unsqueeze(seen, last)
    counted = Mul(tokens, weight)
    total = ReduceSum <keepdims = 0> (counted, second)
    count = ReduceSum <keepdims = 0> (weight, second)
    pooled = Div(total, count)
}"""


def batch(seed: int, lengths: tuple[int, ...] = (7, 3, 5, 1)) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(1, 40, (len(lengths), max(lengths)))
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.astype(np.int64)}


@pytest.fixture
def attention(save: Save) -> Path:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(8, 8)).astype(np.float32) for name in ("wq", "wk", "wv", "wo")}
    table = rng.normal(size=(40, 8)).astype(np.float32)
    return save(ATTENTION, weights=weights | {"table": table})


def compiled(source: Path, recipe: str) -> Path:
    batches = [batch(seed) for seed in range(4)]
    data = open_feeds("made up", lambda: batches, input_specs(load_model(source).model))
    output = source.with_name(f"{recipe}.onnx")
    compile_model(source, output, recipe=load_recipe(recipe), data=data, options=QUIET)
    return output


def test_static_int8_is_bit_identical(attention: Path) -> None:
    report = check_invariance(compiled(attention, "cpu"), batch(9), Run(threads=1))
    assert (report.samples, report.padded) == (4, 3)
    assert [output.name for output in report.outputs] == ["tokens", "pooled"]
    tokens, pooled = report.outputs
    assert tokens.verdict == "identical"
    # ReduceSum adds its terms in another order for another number of rows.
    assert pooled.verdict in ("identical", "rounding")
    require_invariance(report)


def test_dynamic_int8_moves_and_says_so(attention: Path) -> None:
    report = check_invariance(compiled(attention, "cpu-dynamic"), batch(9), Run(threads=1))
    assert not report.holds
    # A step of an 8-bit grid is about a hundredth of the largest value.
    assert max(output.batch / output.scale for output in report.outputs) > 1e-3
    with pytest.raises(ToleranceError, match="with its batch or its padding; rounding explains") as caught:
        require_invariance(report)
    assert "compile with --data" in (caught.value.hint or "")
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["holds"] is False
    assert plain["outputs"][0]["verdict"] == "moves"


def test_the_float_model_moves_by_rounding_at_most(attention: Path) -> None:
    assert check_invariance(attention, batch(9), Run(threads=1)).holds


def test_without_a_mask_only_batches_are_compared(qdq_matmul: Path) -> None:
    report = check_invariance(qdq_matmul, {"x": np.ones((4, 3, 4), np.float32)})
    assert report.padded == 0
    assert report.outputs[0].padding is None
    assert report.outputs[0].verdict == "identical"


def test_a_fixed_length_keeps_its_padding(save: Save) -> None:
    body = """main (int64[N,4] input_ids, int64[N,4] attention_mask) => (float[N,4] y)
    { a = Cast <to = 1> (input_ids) b = Cast <to = 1> (attention_mask) y = Mul(a, b) }"""
    assert check_invariance(save(body), batch(0, (4, 2))).padded == 0


def test_outputs_that_hold_no_rows_of_samples_are_left_out(save: Save) -> None:
    path = save(
        "main (float[N,2] x) => (float[N,2] y, float sum) { y = Neg(x) sum = ReduceSum <keepdims = 0> (x) }"
    )
    report = check_invariance(path, {"x": np.array([[1, np.nan], [np.inf, 2]], np.float32)})
    assert [(output.name, output.verdict) for output in report.outputs] == [("y", "identical")]


def test_an_output_over_pairs_of_samples_moves(save: Save) -> None:
    path = save("main (float[N,2] x) => (float[N,M] y) { t = Transpose(x) y = MatMul(x, t) }")
    report = check_invariance(path, {"x": np.ones((3, 2), np.float32)})
    assert report.to_dict()["outputs"][0]["batch"] is None  # infinite
    assert not report.holds


def test_one_sample_is_refused(qdq_matmul: Path) -> None:
    with pytest.raises(DataError, match="one sample is no batch"):
        check_invariance(qdq_matmul, {"x": np.ones((1, 3, 4), np.float32)})


def test_a_fixed_batch_size_is_refused(save: Save) -> None:
    path = save("main (float[2,3] x) => (float[2,3] y) { y = Neg(x) }")
    with pytest.raises(DataError, match="batch size is fixed at 2"):
        check_invariance(path, {"x": np.ones((2, 3), np.float32)})


def test_a_transformer_of_the_catalogue_is_invariant(models: Path, tmp_path: Path) -> None:
    text = (models / "self_attention.onnxtxt").read_text()
    source = tmp_path / "attention.onnx"
    onnx.save(onnx.parser.parse_model(text), source)
    specs = input_specs(load_model(source).model)
    shape = [size if isinstance(size, int) else 4 for size in specs[0].shape]
    feeds = {specs[0].name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    data = open_feeds("made up", lambda: [feeds], specs)
    output = tmp_path / "out.onnx"
    compile_model(source, output, recipe=load_recipe("cpu"), data=data, options=QUIET)
    assert check_invariance(output, feeds).outputs[0].verdict == "identical"
