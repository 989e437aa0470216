"""Gates say what was measured and what was wanted."""

from dataclasses import replace

import pytest

from onnxq.errors import RecipeError, ToleranceError
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.gates import Gates, check, enforce
from onnxq.runtime.validate import AccuracyReport, MetricResult

LOGITS = OutputAccuracy(
    "logits", 100, 0, cosine=0.9985, sqnr_db=25.0, max_abs=1.5, scale=40.0, rms=12.0, agreement=0.97
)
LABEL = OutputAccuracy("label", 10, 0, equal=0.9)
REPORT = AccuracyReport("a.onnx", "b.onnx", 10, 1, (LOGITS, LABEL), MetricResult("top1", 0.98, 0.977))


@pytest.mark.parametrize(
    ("gates", "lines"),
    [
        (Gates(), []),
        (Gates(min_cosine=0.998, min_sqnr_db=25, max_abs=1.5, min_agreement=0.9, max_drop=0.3), []),
        (Gates(min_cosine=0.999), ["min-cosine: output 'logits' has 0.9985, wanted at least 0.999"]),
        (Gates(min_sqnr_db=30), ["min-sqnr-db: output 'logits' has 25, wanted at least 30"]),
        (
            Gates(max_abs=1),
            ["max-abs: output 'logits' differs by 1.5 (values reach 40), wanted at most 1"],
        ),
        (Gates(min_agreement=0.95), ["min-agreement: output 'label' has 0.9, wanted at least 0.95"]),
        (Gates(max_drop=0.2), ["max-drop: top1 fell by 0.3 points (98.00 to 97.70), wanted at most 0.2"]),
    ],
)
def test_each_gate_reads_its_number(gates: Gates, lines: list[str]) -> None:
    assert check(REPORT, gates) == lines


def test_enforce_raises_all_lines_at_once() -> None:
    enforce(REPORT, Gates(max_drop=0.3))
    with pytest.raises(ToleranceError) as caught:
        enforce(REPORT, Gates(min_cosine=0.999, max_drop=0.2))
    assert str(caught.value) == (
        "b.onnx: min-cosine: output 'logits' has 0.9985, wanted at least 0.999; "
        "max-drop: top1 fell by 0.3 points (98.00 to 97.70), wanted at most 0.2"
    )
    assert caught.value.exit_code == 1


def test_a_gate_that_cannot_be_measured_is_missed() -> None:
    bare = replace(REPORT, outputs=(), metric=None)
    assert check(bare, Gates(0.9, 20, 1, 0.9, 1)) == [
        "min-cosine 0.9 could not be measured: no output fits it",
        "min-sqnr-db 20 could not be measured: no output fits it",
        "max-abs 1 could not be measured: no output fits it",
        "min-agreement 0.9 could not be measured: no output fits it",
        "max-drop 1 could not be measured: no task metric was computed",
    ]


def test_a_metric_that_is_nan_has_missed() -> None:
    report = replace(REPORT, metric=MetricResult("top1", 0.9, float("nan")))
    assert len(check(report, Gates(max_drop=5))) == 1


def test_new_nan_always_misses() -> None:
    report = replace(REPORT, outputs=(replace(LOGITS, new_non_finite=3),))
    assert check(report, Gates()) == [
        "output 'logits' has 3 NaN or infinite values where the reference has numbers"
    ]


@pytest.mark.parametrize(
    ("gate", "value", "message"),
    [
        ("min_cosine", 1.5, "gate min-cosine: 1.5 is not possible"),
        ("min_agreement", 95, "gate min-agreement: 95 is not possible"),
        ("max_abs", -1, "gate max-abs: -1 is not possible"),
        ("max_drop", float("nan"), "gate max-drop: nan is not possible"),
    ],
)
def test_impossible_gates_are_refused(gate: str, value: float, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Gates(**{gate: value})
