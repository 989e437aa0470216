"""What correct-bias promises beyond its golden cases: means survive the rounding of weights."""

from __future__ import annotations

import numpy as np

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, run_model

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4,6,6] x) => (float[N,6,4,4] y)
<float[6,2,3,3] w = {WEIGHTS}, float[6] b = {1, 2, 3, 4, 5, 6}>
{
    [conv] y = Conv<group = 2>(x, w, b)
}
"""


def compiled(text: str, pipeline: str, data: FeedsData) -> GraphModule:
    module = parse(text)
    PassManager(parse_pipeline(pipeline), find_target("cpu"), (), data.measure).run(module)
    return module


def test_each_output_channel_keeps_its_mean() -> None:
    """Without the correction, the mean of a channel moves by some of its weights' rounding errors.

    Every channel of an image is constant here, so that each of its positions has the same mean whatever the
    tap of the kernel that reads it; the mean input is then known exactly. What remains is float32 rounding:
    18 products and a bias for each output, numbers below 64, hence an error below 20 * 64 * 2^-23 < 2e-4.
    """
    rng = np.random.default_rng(0)
    weights = ", ".join(str(w) for w in rng.normal(size=108).astype(np.float32))
    text = TEXT.replace("WEIGHTS", weights)
    levels = rng.uniform(1, 3, (8, 4, 1, 1)).astype(np.float32)
    feeds = {"x": np.ascontiguousarray(np.broadcast_to(levels, (8, 4, 6, 6)))}
    data = FeedsData([feeds])

    def mean(pipeline: str) -> np.ndarray:
        result: np.ndarray = run_model(compiled(text, pipeline, data), feeds)["y"].mean(axis=(0, 2, 3))
        return result

    original = mean("infer-shapes")
    plain, corrected = (
        np.abs(mean(f"infer-shapes, encode-weights, {extra} insert-qdq") - original)
        for extra in ("", "correct-bias,")
    )
    assert plain.max() > 5e-3
    assert corrected.max() < 2e-4
