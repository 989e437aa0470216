"""Sessions of models with random operators draw the same numbers, or nothing could be compared."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.calibration.opening import opened
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import open_comparable, random_operators
from onnxq.runtime.validate import validate
from onnxq.testing.laws import FeedsBatch

BODIES = {
    "RandomNormalLike": "r = RandomNormalLike(x)",
    "RandomUniform": "u = RandomUniform<shape = [4, 3]>() r = Mul(x, u)",
    "Bernoulli": "s = Sigmoid(x) r = Bernoulli(s)",
    "Multinomial": "m = Multinomial<sample_size = 3>(x) r = Cast<to = 1>(m)",
    "Dropout": "ratio = Constant<value = float {0.5}>() on = Constant<value = bool {1}>() "
    "r = Dropout(x, ratio, on)",
    "If": "yes = Constant<value = bool {1}>() "
    "r = If (yes) <then_branch = t () => (float[4,3] a) { a = RandomNormalLike(x) }, "
    "else_branch = e () => (float[4,3] b) { b = Identity(x) }>",
}


def written(folder: Path, body: str) -> Path:
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[4,3] x) => (float[4,3] y)'
    text = f"{head} {{ {body} y = Add(x, r) }}"
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("name", BODIES)
def test_random_operators_draw_alike(name: str, tmp_path: Path) -> None:
    path = written(tmp_path, BODIES[name])
    assert random_operators(path) == ("RandomNormalLike" if name == "If" else name,)
    x = {"x": np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)}
    first, second = open_comparable(path), open_comparable(path)
    drawn = [(first.run(x)["y"], second.run(x)["y"]) for _ in range(4)]
    for one, other in drawn:
        np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(one, drawn[0][0]) for one, _ in drawn)


def test_a_dropout_that_does_not_train_draws_nothing(tmp_path: Path) -> None:
    body = (
        "ratio = Constant<value = float {0.5}>() on = Constant<value = bool {0}>() r = Dropout(x, ratio, on)"
    )
    assert random_operators(written(tmp_path, body)) == ()


def test_what_is_compared_by_one_seed_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, BODIES["Bernoulli"])
    batch = FeedsBatch({"x": np.zeros((4, 3), np.float32)})
    found = validate(open_comparable(path), open_comparable(path), [batch])
    assert found.outputs[0].max_abs == 0
    assert found.notes == (
        "Bernoulli: the model draws random numbers; both models got the same, by one seed",
    )


def test_threads_of_models_that_are_compared_or_measured_sleep_while_they_wait(tmp_path: Path) -> None:
    path = written(tmp_path, "r = Identity(x)")
    with opened(path, ["y"], Run()) as measured:
        sessions = [open_comparable(path), measured]
        options = [session.inference.get_session_options() for session in sessions]
        waiting = [one.get_session_config_entry("session.intra_op.allow_spinning") for one in options]
    assert waiting == ["0", "0"]
