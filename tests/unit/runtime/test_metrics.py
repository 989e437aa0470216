"""Built-in metrics, and those that users write."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import DataError, RecipeError
from onnxq.runtime.metrics import MeanOf, load_metric, top1


@dataclass
class Sample:
    feeds: dict[str, np.ndarray]
    labels: np.ndarray | None = None


LOGITS = {"y": np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])}


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module as a user would write it."""
    (tmp_path / "judge_of_test_metrics.py").write_text(
        "import numpy as np\n"
        "def close(outputs, batch):\n"
        "    return abs(outputs['y'][:, 0] - batch.labels) < 0.2\n"
        "class Range:\n"
        "    def __init__(self): self.seen = []\n"
        "    def update(self, outputs, batch): self.seen.append(float(np.ptp(outputs['y'])))\n"
        "    def result(self): return max(self.seen)\n"
        "number = 3\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "judge_of_test_metrics"  # type: ignore[misc]
    sys.modules.pop("judge_of_test_metrics", None)


def test_top1_counts_over_batches() -> None:
    accumulator = load_metric("top1").start()
    accumulator.update(LOGITS, Sample({}, np.array([1, 0, 0])))
    accumulator.update({"y": LOGITS["y"][:1]}, Sample({}, np.array([1])))
    assert accumulator.result() == 3 / 4


def test_labels_must_be_numbers() -> None:
    batch = Sample({}, np.array(["joy", "fear", "joy"]))
    with pytest.raises(DataError, match="labels such as 'joy' are no numbers"):
        top1(LOGITS, batch)


def test_labels_must_fit_the_output() -> None:
    with pytest.raises(DataError, match=r"labels of shape \[2\] do not fit output 'y' of shape \[3, 2\]"):
        top1(LOGITS, Sample({}, np.array([1, 0])))


def test_a_users_function_is_averaged(user_module: str) -> None:
    metric = load_metric(f"{user_module}:close")
    accumulator = metric.start()
    accumulator.update(LOGITS, Sample({}, np.array([0.0, 0.0, 0.2])))
    assert metric.name == f"{user_module}:close"
    assert accumulator.result() == pytest.approx(2 / 3)


def test_a_users_class_gets_a_fresh_start_for_each_model(user_module: str) -> None:
    metric = load_metric(f"{user_module}:Range")
    first, second = metric.start(), metric.start()
    first.update(LOGITS, Sample({}))
    second.update({"y": np.array([[1.0, 3.0]])}, Sample({}))
    assert (first.result(), second.result()) == (pytest.approx(0.8), 2)


def test_nothing_seen_gives_nan() -> None:
    assert np.isnan(MeanOf(top1).result())


def test_metrics_that_do_not_exist_are_explained(user_module: str) -> None:
    with pytest.raises(RecipeError, match="metric 'top-1': no such metric") as caught:
        load_metric("top-1")
    assert caught.value.hint == "did you mean 'top1'?; one of your own is package.module:function"
    with pytest.raises(RecipeError, match="No module named 'no_such_module'"):
        load_metric("no_such_module:f")
    with pytest.raises(RecipeError, match="has no attribute 'g'"):
        load_metric(f"{user_module}:g")
    with pytest.raises(RecipeError, match="neither a function nor a class"):
        load_metric(f"{user_module}:number")
