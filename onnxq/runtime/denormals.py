"""Whether this processor pays for denormal numbers, in which the exponentials of masked scores end."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from onnxq.runtime.batch import Array
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session

_MODEL = """<ir_version: 8, opset_import: ["" : 17]>
main (float[12,128,128] scores, float[128] mask) => (float[12,128,128] weights)
{
    masked = Add(scores, mask)
    weights = Softmax(masked)
}"""
_REAL, _ROUNDS = 20, 9
_RULED_OUT, _NORMAL = np.finfo(np.float32).min, np.float32(-60)
"""Both leave a score no weight: e^-60 is below one rounding of the sum, and no denormal."""
PAYS = 1.25
"""From here on the difference is none of the timing's own."""


def denormal_cost() -> float:
    """Return how many times as long the weights of 128 tokens take where all but 20 are masked.

    They are held against the same scores with a mask whose exponentials are normal numbers. One thread.

    Source:
        Intel's optimization manual: denormal operands and results ask for microcode's assistance. MLAS, ONNX
        Runtime's library of kernels, computes exponentials down to the smallest denormal.

    """
    import onnx

    session = open_session(onnx.parser.parse_model(_MODEL), Run(threads=1))
    scores = np.random.default_rng(0).normal(size=(12, 128, 128)).astype(np.float32)
    rounds = [[_seconds(session, scores, entry) for entry in (_RULED_OUT, _NORMAL)] for _ in range(_ROUNDS)]
    return median(ruled_out / normal for ruled_out, normal in rounds)


def _seconds(session: Session, scores: Array, entry: np.float32) -> float:
    mask = np.where(np.arange(128) < _REAL, 0, entry).astype(np.float32)
    start = time.perf_counter()
    session.run({"scores": scores, "mask": mask})
    return time.perf_counter() - start
