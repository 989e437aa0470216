"""Whose fault it is that a pass failed: no pass can help a model that is not valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxq.analysis.misfits import contradicts_itself
from onnxq.errors import ModelError, PassError, TargetError
from onnxq.ir.store import load_model
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

_LACKING = re.compile(r"not implemented|find an implementation|not a registered function/op", re.IGNORECASE)
"""What ONNX Runtime says of valid models that are not for it."""


@contextmanager
def only_valid(source: Path) -> Iterator[None]:
    """Blame the model, and not the pass, where a pass fails on a model that is not valid.

    onnx's checker looks at each node alone, and shapes that do not fit each other are found by those who
    compute with them. Only once a pass has failed, ONNX Runtime is asked, without folding constants, and then
    whether types and shapes contradict each other.

    Raises:
        ModelError: ONNX Runtime refuses the model as well, or the model contradicts itself; why, on one line.
        PassError: As in the block.

    """
    try:
        yield
    except PassError as error:
        reason = _refusal(source) or contradicts_itself(load_model(source).model)
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
