"""Known differences, put in by hand and found again; padding; metrics; models that do not match."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.errors import DataError, ModelError
from onnxq.runtime.metrics import load_metric
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.runtime.validate import validate

Save = Callable[..., Path]
LINEAR = "main (float[N,6] x) => (float[N,5] y) { y = MatMul(x, w) }"
TOKENS = "main (float[N,T,4] x) => (float[N,T,4] y) { y = Mul(x, w) }"


@dataclass
class Sample:
    """A batch: all that validate asks for."""

    feeds: dict[str, np.ndarray]
    labels: np.ndarray | None = None


@pytest.fixture
def pair(save: Save) -> tuple[Path, Path, np.ndarray, np.ndarray]:
    """Return a linear layer, the same with disturbed weights, and both weights."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 5)).astype(np.float32)
    disturbed = (weight + 0.01 * rng.normal(size=weight.shape)).astype(np.float32)
    return save(LINEAR, "a.onnx", {"w": weight}), save(LINEAR, "b.onnx", {"w": disturbed}), weight, disturbed


def batches(size: int, count: int = 24, seed: int = 3) -> list[Sample]:
    x = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return [Sample({"x": x[start : start + size]}) for start in range(0, count, size)]


def test_disturbed_weights_give_the_numbers_computed_by_hand(pair: Any) -> None:
    first, second, weight, disturbed = pair
    x = np.concatenate([batch.feeds["x"] for batch in batches(5)]).astype(np.float64)
    y, z = x @ weight, x @ disturbed
    report = validate(first, second, batches(5), run=Run(threads=1))
    (output,) = report.outputs
    cosines = (y * z).sum(1) / np.linalg.norm(y, axis=1) / np.linalg.norm(z, axis=1)
    # The models compute six-term sums in float32: relative error of y below 6 * 2**-24, so of
    # the difference, which is about 100 times smaller, below 1e-4; an SQNR moves by as much.
    assert output.sqnr_db == pytest.approx(10 * np.log10((y**2).sum() / ((y - z) ** 2).sum()), abs=1e-3)
    assert output.max_abs == pytest.approx(np.abs(y - z).max(), rel=1e-3)
    assert output.scale == pytest.approx(np.abs(y).max(), rel=1e-6)
    assert output.rms == pytest.approx(np.sqrt((y**2).mean()), rel=1e-6)
    assert output.cosine == pytest.approx((y * z).sum() / np.linalg.norm(y) / np.linalg.norm(z), abs=1e-6)
    assert output.cosine_mean == pytest.approx(cosines.mean(), abs=1e-6)
    assert output.cosine_min == pytest.approx(cosines.min(), abs=1e-6)
    assert output.agreement == (y.argmax(1) == z.argmax(1)).mean()
    assert (report.samples, report.batches, output.compared) == (24, 5, 120)
    assert report.notes == ()


def test_numbers_do_not_depend_on_the_batch_size(pair: Any) -> None:
    one, other = (validate(*pair[:2], batches(size)).outputs[0].to_dict() for size in (1, 24))
    # Only the order of float64 sums and of the six float32 terms differs.
    assert {key: value for key, value in one.items() if isinstance(value, float)} == pytest.approx(
        {key: value for key, value in other.items() if isinstance(value, float)}, rel=1e-4
    )


def test_a_model_equals_itself(pair: Any) -> None:
    report = validate(pair[0], pair[0], batches(8))
    (output,) = report.outputs
    assert (output.cosine, output.cosine_min, output.agreement, output.max_abs) == (1, 1, 1, 0)
    assert output.sqnr_db == float("inf")
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["outputs"][0]["sqnr_db"] is None


def test_open_sessions_and_streams_are_taken_too(pair: Any) -> None:
    def stream() -> Iterator[Sample]:
        yield from batches(12)

    seen: list[tuple[int, int | None]] = []
    report = validate(
        open_session(pair[0]), open_session(pair[1]), stream(), on_progress=lambda *step: seen.append(step)
    )
    assert report.samples == 24
    assert seen == [(1, None), (2, None)]
    validate(pair[0], pair[1], batches(12), on_progress=lambda *step: seen.append(step))
    assert seen[2:] == [(1, 2), (2, 2)]


def test_padding_is_left_out_and_the_report_says_so(save: Save) -> None:
    exact = save(TOKENS, "a.onnx", {"w": np.ones(4, np.float32)})
    wrong = save(
        """main (float[N,T,4] x, int64[N,T] attention_mask) => (float[N,T,4] y)
        <int64[1] last = {-1}, float one = {1}>
        {
            m = Cast<to = 1>(attention_mask)
            k = Unsqueeze(m, last)
            noise = Sub(one, k)
            y = Add(x, noise)
        }""",
        "b.onnx",
    )
    x = np.random.default_rng(5).normal(size=(2, 3, 4)).astype(np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    (output,) = (report := validate(exact, wrong, [Sample({"x": x, "attention_mask": mask})])).outputs
    assert (output.max_abs, output.cosine, output.compared, output.masked) == (0, 1, 12, 12)
    assert report.notes == ("output 'y': 12 values of padding (attention_mask is 0) were left out",)
    unmasked = validate(exact, wrong, [Sample({"x": x, "attention_mask": np.ones_like(mask)})])
    assert unmasked.outputs[0].compared == 24


def test_a_row_of_classes_is_not_cut_by_a_mask_of_as_many_tokens(pair: Any) -> None:
    feeds = {"x": batches(4)[0].feeds["x"], "attention_mask": np.zeros((4, 5), np.int64)}
    assert validate(*pair[:2], [Sample(feeds)]).outputs[0].masked == 0


def test_scores_of_tokens_are_cut_and_padding_never_wins(save: Save) -> None:
    paths = [
        save("main (float[N,T] x) => (float[N,T] y) { y = Mul(x, w) }", name, {"w": np.float32(w)})
        for name, w in (("a.onnx", 1), ("b.onnx", 0.5))
    ]
    feeds = {"x": np.array([[-1, -2, 9]], np.float32), "attention_mask": np.array([[1, 1, 0]])}
    (output,) = validate(*paths, [Sample(feeds)]).outputs
    assert (output.compared, output.masked, output.agreement, output.scale) == (2, 1, 1, 2)


def test_new_nan_and_infinity_are_counted_and_left_out(save: Save) -> None:
    first = save("main (float[N,3] x) => (float[N,3] y) { y = Identity(x) }", "a.onnx")
    second = save("main (float[N,3] x) => (float[N,3] y) { y = Sqrt(x) }", "b.onnx")
    x = np.array([[1, -1, np.inf], [1, 0, 1]], np.float32)
    report = validate(first, second, [Sample({"x": x})])
    (output,) = report.outputs
    assert (output.non_finite, output.new_non_finite, output.compared, output.max_abs) == (1, 1, 4, 0)
    assert report.notes == ("output 'y': 2 NaN or infinite values were left out",)


def test_whole_numbers_text_and_sequences_are_compared_by_equality(save: Save) -> None:
    text = """main (int64[N] i, float[N] x) => (int64[N] j, bool[N] p, seq(float[N]) q)
    { j = Mul(i, k) p = Less(i, k) q = SequenceConstruct(x, x) }"""
    paths = [save(text, f"{k}.onnx", {"k": np.array(k)}) for k in (1, 2)]
    feeds = {"i": np.array([0, 1, 2, 3]), "x": np.ones(4, np.float32)}
    outputs = validate(*paths, [Sample(feeds)]).outputs
    assert [(output.name, output.equal, output.compared) for output in outputs] == [
        ("j", 0.25, 4),
        ("p", 0.75, 4),
        ("q", 1.0, 2),
    ]
    assert outputs[0].cosine is None


def test_half_precision_may_stand_for_single(save: Save) -> None:
    first = save("main (float[N] x) => (float[N] y) { y = Identity(x) }", "a.onnx")
    second = save("main (float[N] x) => (float16[N] y) { y = Cast<to = 10>(x) }", "b.onnx")
    x = np.linspace(1, 2, 50, dtype=np.float32)
    (output,) = validate(first, second, [Sample({"x": x})]).outputs
    assert output.max_abs is not None
    assert 0 < output.max_abs <= 2**-11  # half of float16's step between 1 and 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("main (float[N,6] x) => (float[N,6] z) { z = Relu(x) }", "it lacks 'y'; has besides 'z'"),
        (
            "main (float[N,6] x) => (int64[N,6] y) { y = Cast<to = 7>(x) }",
            r"'y' is tensor\(int64\), the reference has",
        ),
        (
            "main (float[N,6] x) => (float[N,6] y) { y = Relu(x) }",
            r"'y' has shape \[24, 6\], the reference gives \[24, 5\]",
        ),
    ],
)
def test_models_with_other_outputs_are_refused(save: Save, pair: Any, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        validate(pair[0], save(text, "other.onnx"), batches(24))


def test_maps_of_numbers_are_compared_as_numbers(save: Save, pair: Any) -> None:
    text = LINEAR.replace("=> (float[N,5] y)", "=> (seq(map(int64, float[])) z)").replace(
        "}", "z = ai.onnx.ml.ZipMap <classlabels_int64s = [10, 9, 7, 8, 6]> (y) }"
    )
    first, second = (
        save(text, f"{name}.onnx", {"w": weight})
        for name, weight in zip(("zipped", "disturbed"), pair[2:], strict=True)
    )
    plain, maps = (validate(*models, batches(5)).outputs[0] for models in (pair[:2], (first, second)))
    assert maps.sqnr_db == pytest.approx(plain.sqnr_db)
    assert maps.agreement == plain.agreement


def test_no_data_is_an_error(pair: Any) -> None:
    with pytest.raises(DataError, match="there is no data to validate on"):
        validate(*pair[:2], [])


def test_top1_is_computed_for_both_models(pair: Any) -> None:
    first, second, weight, disturbed = pair
    data = batches(7)
    labels = [np.random.default_rng(9).integers(0, 5, len(batch.feeds["x"])) for batch in data]
    labelled = [Sample(batch.feeds, label) for batch, label in zip(data, labels, strict=True)]
    x = np.concatenate([batch.feeds["x"] for batch in data])
    wanted = [(np.argmax(x @ w, 1) == np.concatenate(labels)).mean() for w in (weight, disturbed)]
    metric = validate(first, second, labelled, load_metric("top1")).metric
    assert metric is not None
    assert [metric.reference, metric.candidate] == pytest.approx(wanted)
    assert metric.to_dict()["drop_points"] == pytest.approx(100 * (wanted[0] - wanted[1]))
    with pytest.raises(DataError, match="metric 'top1': the data has no labels"):
        validate(first, second, data, load_metric("top1"))
