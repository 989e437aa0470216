"""Runs with bound inputs and outputs give what plain runs give: on the CPU, and on CUDA if there is one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from onnxq.runtime.bound import bound_to, repeatable
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


@pytest.mark.parametrize("fixed", [False, True])
def test_bound_runs_compute_the_same(fixed: bool, save: Save) -> None:
    session = open_session(save(BODY), threads=1)
    watched = Watched(session.inference)
    object.__setattr__(session, "inference", watched)
    run = bound_to(session, {"x": X, "other": X}, "cpu", fixed=fixed)
    for _ in range(2):
        run()
    y, z = watched.binding.copy_outputs_to_cpu()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(y, -X)
    np.testing.assert_array_equal(z, np.maximum(-X, 0))


def test_outputs_may_keep_their_places(save: Save) -> None:
    session = open_session(save(BODY), threads=1)
    watched = Watched(session.inference)
    object.__setattr__(session, "inference", watched)
    run = bound_to(session, {"x": X}, "cpu", fixed=True)
    places = []
    for _ in range(3):
        run()
        places.append([value.data_ptr() for value in watched.binding.get_outputs()])  # type: ignore[attr-defined]
    assert places[0] == places[1] == places[2]


def test_a_plain_run_needs_no_binding(save: Save) -> None:
    repeatable(open_session(save(BODY), threads=1), {"x": X})()


@pytest.mark.cuda
def test_a_cuda_session_is_bound_to_its_device(save: Save, cuda: None) -> None:
    session = open_session(save(BODY), "cuda")
    repeatable(session, {"x": X})()
    bound_to(session, {"x": X}, "cuda", fixed=True)()
