"""Which facts answer which needs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.quant.facts import Facts, Need, Stat

MEAN, RANGE = frozenset({Stat.MEAN}), frozenset({Stat.RANGE})
SECOND = Facts(1, 0.0, 1.0, axis=1, mean=np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("need", "rank", "met"),
    [
        (Need("x", MEAN, 1), None, True),
        (Need("x", MEAN, -1), None, False),
        (Need("x", MEAN, -1), 2, True),
        (Need("x", MEAN, -1), 3, False),
        (Need("x", RANGE, -1), 3, True),
        (Need("x", frozenset({Stat.HISTOGRAM}), 1), 3, False),
    ],
)
def test_channels_count_along_the_axis_that_was_asked_for(need: Need, rank: int | None, met: bool) -> None:
    assert need.met_by(SECOND, rank) is met


def test_nothing_answers_no_need() -> None:
    assert not Need("x", RANGE).met_by(None, 2)
