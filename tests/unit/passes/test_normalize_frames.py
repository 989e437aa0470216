"""Frames with a loudness of their own: the same function, and as many bits for the quiet ones."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule, is_standard
from onnxq.testing.laws import run_model

Build = Callable[..., GraphModule]

OVERLAPS = {"half": (64, 32), "with a rest": (80, 32), "none": (64, 64), "gaps": (64, 96)}
"""Lengths of frames, and from one to the next."""


def _signal(length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return two sounds a thousand times louder at the end than at first; one begins with silence."""
    sound = rng.normal(size=(2, 1, length)) * np.geomspace(1e-3, 1, length)
    sound[1, :, : length // 3] = 0
    return sound.astype(np.float32)


def _body(stride: int, samples: int | str, bias: str = "") -> str:
    conv = f"Conv <strides = [{stride}]> (x, w{bias})"
    return f"main (float[N,1,{samples}] x) => (float[N,3,T] y) {{ [frames] y = {conv} }}"


@pytest.mark.parametrize("samples", [320, 333, "L"])
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_normalizing_changes_nothing(
    overlap: str, samples: int | str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """Of each product, the sample is rounded once more; the sum of K terms errs by K roundings either way."""
    (length, stride), rng = OVERLAPS[overlap], np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 1, length)).astype(np.float32), "b": np.float32([1, -2, 3])}
    feeds = {"x": _signal(samples if isinstance(samples, int) else 401, rng)}
    body = _body(stride, samples, ", b")
    before = run_model(build(body, weights), feeds)["y"]
    module = compiled(build(body, weights), "encode-weights, normalize-frames")
    assert not any(is_standard(node, "Conv") for node in module.graph)
    terms = float(np.abs(feeds["x"]).max() * np.abs(weights["w"]).sum(axis=2).max() + 3)
    assert run_model(module, feeds)["y"] == pytest.approx(before, abs=2 * (length + 3) * 2**-24 * terms)


def test_a_quiet_frame_keeps_its_bits(build: Build, compiled: Callable[..., GraphModule]) -> None:
    """A peak is below four times the root of the power, and a step a 127th of it: noise of less than -40 dB.

    The weights' steps add as much again. One step for all samples is larger than the first of them, which all
    but few become 0.
    """
    rng = np.random.default_rng(1)
    feeds = {"x": _signal(3200, rng)[:1]}
    weights = {"w": rng.normal(size=(3, 1, 64)).astype(np.float32)}
    found = {
        passes: run_model(
            compiled(
                build(_body(32, "L"), weights),
                f"encode-weights, {passes}encode-activations, insert-qdq",
                feeds,
            ),
            feeds,
        )["y"]
        for passes in ("", "normalize-frames, ")
    }
    exact = run_model(build(_body(32, "L"), weights), feeds)["y"][..., :20]
    noise = {passes: float(((y[..., :20] - exact) ** 2).mean()) for passes, y in found.items()}
    power = float((exact**2).mean())
    assert noise["normalize-frames, "] < power / 10**3.6
    assert noise[""] > power / 2
