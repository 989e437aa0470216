"""What is remembered of ranges depends on all that a method reads, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.passmanager.memo import Memo
from onnxq.passmanager.pipeline import load_pass
from onnxq.quant.facts import Facts, facts_of
from onnxq.quant.statistics import ChannelRange, Histogram, Range, Rows

ENDS = np.array([[-1.0, 4.0]], np.float32)


def _facts(seed: int) -> Facts:
    """Return facts of other values between the same ends."""
    values = np.random.default_rng(seed).normal(0, 0.3, (63, 2)).clip(-1, 4).astype(np.float32)
    rows = np.concatenate([ENDS, values])
    parts = Range(-1.0, 4.0), Histogram.of(rows), Rows(rows), ChannelRange(rows.min(axis=0), rows.max(axis=0))
    return facts_of(rows.size, *parts)


@pytest.mark.parametrize(("method", "kept"), [("min-max", 1), ("mse", 2), ("cross-entropy", 2)])
def test_a_range_is_chosen_once_for_what_its_method_reads(method: str, kept: int) -> None:
    memo = Memo()
    one, other = (
        load_pass("encode-activations")._measured_range(_facts(seed), method, "uint8", memo)
        for seed in (0, 1)
    )
    assert len(memo.kept) == kept
    assert (one == other) == (kept == 1)
