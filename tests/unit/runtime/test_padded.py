"""What padding costs is timed on samples of one shape."""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from onnxq.runtime import padded
from onnxq.runtime.padded import all_real, padding_cost
from onnxq.runtime.run import Run
from onnxq.warned import warn_of_padding

Save = Callable[..., Path]
PADDED = {"x": np.ones((1, 4), np.float32), "attention_mask": np.array([[1, 1, 0, 0]])}
FULL = {**PADDED, "attention_mask": np.ones((1, 4), np.int64)}


def test_every_token_is_real_and_all_else_as_it_was() -> None:
    found = all_real(PADDED)
    assert found is not None
    assert found["x"] is PADDED["x"]
    np.testing.assert_array_equal(found["attention_mask"], FULL["attention_mask"])
    assert all_real(FULL) is None
    assert all_real({"x": PADDED["x"]}) is None


def test_the_padded_sample_is_held_against_the_full_one(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant times: 3 for what is padded, and 2 for what is full."""
    times = cycle([3.0, 2.0])
    monkeypatch.setattr(padded, "block_ms", lambda *args: next(times))
    model = save(
        "main (float[1,4] x, int64[1,4] attention_mask) => (float[1,4] y) "
        "{ m = Cast<to = 1>(attention_mask) y = Mul(x, m) }"
    )
    assert padding_cost(model, [FULL, PADDED], Run(threads=1)) == 1.5
    assert padding_cost(model, [FULL], Run(threads=1)) is None


@pytest.mark.parametrize(("cost", "told"), [(None, False), (1.1, False), (1.8, True)])
def test_the_session_entry_is_named_where_it_pays(cost: float | None, told: bool) -> None:
    warnings = warn_of_padding(cost)
    assert [("1.8 times" in one, "session.set_denormal_as_zero=1" in one) for one in warnings] == (
        [(True, True)] if told else []
    )
