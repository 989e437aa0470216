"""What padding costs: samples as they are, beside the same with every token real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from onnxq.runtime.batch import Feeds
from onnxq.runtime.bench import STILL, block_ms, warmed_ms
from onnxq.runtime.bound import prepared
from onnxq.runtime.race import block_of
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.runtime.validate import MASK

ROUNDS = 7
DENORMALS = "session.set_denormal_as_zero"
"""The session entry that makes denormal numbers 0: in the first session of a process, and for all of it."""


def all_real(feeds: Feeds) -> Feeds | None:
    """Return the feeds with every token real; None where none of them is padding."""
    mask = feeds.get(MASK)
    return None if mask is None or np.all(mask) else {**feeds, MASK: np.ones_like(mask)}


def padding_cost(model: Path, feeds: Sequence[Feeds], run: Run) -> float | None:
    """Return how many times as long a padded sample takes as it would with every token real.

    Both have one shape, so that what padding takes longer is what its denormal numbers cost.

    Args:
        model: The model.
        feeds: Samples, of which the first with padding is timed; None is returned where none has any.
        run: Where and how it runs.

    """
    padded = next((one for one in feeds if all_real(one) is not None), None)
    if padded is None or (full := all_real(padded)) is None:
        return None
    session = prepared(open_session(model, run.with_defaults(STILL)))
    runs = block_of(warmed_ms(session, padded, 3))
    return median(block_ms(session, padded, runs) / block_ms(session, full, runs) for _ in range(ROUNDS))
