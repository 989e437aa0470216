"""Runs with bound inputs and outputs give what plain runs give: on the CPU, and on CUDA if there is one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import DataError
from onnxq.runtime.bound import Replay, bound_to, repeatable
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

ort = pytest.importorskip("onnxruntime", reason="runs models")

Save = Callable[..., Path]
BODY = "main (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Neg(x) z = Relu(y) }"
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


class Watched:
    """A session's inference that remembers its binding."""

    def __init__(self, inference: object) -> None:
        self.inference = inference

    def io_binding(self) -> object:
        self.binding = self.inference.io_binding()  # type: ignore[attr-defined]
        return self.binding

    def run_with_iobinding(self, binding: object) -> None:
        self.inference.run_with_iobinding(binding)  # type: ignore[attr-defined]


def test_bound_runs_compute_the_same(save: Save) -> None:
    session = open_session(save(BODY), Run(threads=1))
    watched = Watched(session.inference)
    object.__setattr__(session, "inference", watched)
    run = bound_to(session, {"x": X, "other": X}, "cpu")
    for _ in range(2):
        run()
    y, z = watched.binding.copy_outputs_to_cpu()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(y, -X)
    np.testing.assert_array_equal(z, np.maximum(-X, 0))


def test_outputs_may_be_written_over_inputs(save: Save) -> None:
    session = open_session(save(BODY), Run(threads=1))
    replay = Replay(session, "cpu", {"z": "x"})
    found = replay.run({"x": X})
    np.testing.assert_array_equal(found["y"], -X)
    np.testing.assert_array_equal(found["z"], np.maximum(-X, 0))
    np.testing.assert_array_equal(replay._inputs["x"].numpy(), found["z"])
    again = X.copy()
    run = repeatable(session, {"x": again}, {"z": "x"})
    run()  # what it writes is a copy on a device, and the array itself on the CPU
    np.testing.assert_array_equal(again, np.maximum(-X, 0))


def test_outputs_may_keep_their_places(save: Save) -> None:
    session = open_session(save(BODY), Run(threads=1))
    watched = Watched(session.inference)
    object.__setattr__(session, "inference", watched)
    replay = Replay(session, "cpu")
    places = []
    for factor in (1, 2, 3):
        found = replay.run({"x": factor * X, "other": X})
        np.testing.assert_array_equal(found["y"], -factor * X)
        np.testing.assert_array_equal(found["z"], np.maximum(-factor * X, 0))
        places.append([value.data_ptr() for value in watched.binding.get_outputs()])  # type: ignore[attr-defined]
    assert places[0] == places[1] == places[2]


def test_a_replay_takes_one_shape_and_leaves_its_feeds_alone(save: Save) -> None:
    replay, x = Replay(open_session(save(BODY), Run(threads=1)), "cpu"), X.copy()
    replay.run({"x": x})
    replay.run({"x": 2 * x})
    np.testing.assert_array_equal(x, X)
    with pytest.raises(DataError, match="a CUDA graph is recorded for one shape") as caught:
        replay({"x": X[:1]})
    assert "--cuda-graph" in str(caught.value.hint)


def test_a_plain_run_needs_no_binding(save: Save) -> None:
    repeatable(open_session(save(BODY), Run(threads=1)), {"x": X})()


@pytest.mark.cuda
def test_a_cuda_session_is_bound_to_its_device(save: Save, cuda: None) -> None:
    session = open_session(save(BODY), Run("cuda"))
    repeatable(session, {"x": X})()


@pytest.mark.cuda
def test_a_cuda_graph_is_replayed_on_new_feeds(save: Save, cuda: None) -> None:
    replay = Replay(open_session(save(BODY), Run("cuda", cuda_graph=True)), "cuda")
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(replay.run({"x": factor * X})["y"], -factor * X)
