"""Whose fault it is that a pass failed: a model that ONNX Runtime does not open either is not valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxq.errors import ModelError, PassError, TargetError
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

_LACKING = re.compile(r"not implemented|find an implementation|not a registered function/op", re.IGNORECASE)
"""What ONNX Runtime says of valid models that are not for it."""


@contextmanager
def only_valid(source: Path) -> Iterator[None]:
    """Blame the model, and not the pass, where a pass fails on a model that is not valid.

    onnx's checker looks at each node alone, and shapes that do not fit each other are found by those who
    compute with them. ONNX Runtime is asked only once a pass has failed, without folding constants.

    Raises:
        ModelError: ONNX Runtime refuses the model as well; its reason on one line.
        PassError: As in the block.

    """
    try:
        yield
    except PassError as error:
        reason = _refusal(source)
        if reason is None:
            raise
        raise ModelError(
            f"the model is not valid: {reason}",
            where=str(source),
            hint=f"export the model again; what stopped at it: {error}",
        ) from error


def _refusal(source: Path) -> str | None:
    """Return why ONNX Runtime finds the model invalid; None where it opens, or lacks a kernel."""
    try:
        open_session(source, Run(threads=1), optimization="none")
    except ModelError as error:
        return None if _LACKING.search(error.message) else error.message
    except TargetError:
        return None
    return None
