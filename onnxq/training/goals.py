"""What a graph is trained for: losses of its outputs, as nodes behind them.

Source: Hinton et al., 2015, arXiv:1503.02531 (a model learns from the outputs of another).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxq.autodiff import Term

Kind = Literal["cross-entropy", "kl", "mse"]


@dataclass(frozen=True)
class Goal:
    """One term of the loss.

    Args:
        value: The name of what is looked at.
        target: The name of the input that says what it shall be: of ``cross-entropy`` the number of the
            class, for each row along the last axis, else the value as another model computes it.
        kind: How they are compared; for ``cross-entropy`` and ``kl`` the value holds logits.

    """

    value: str
    target: str
    kind: Kind

    def fed(self, end: ir.Value) -> tuple[ir.DataType, tuple[int | str | None, ...]]:
        """Return type and shape of the target."""
        rank = len(end.shape or ())
        if self.kind == "cross-entropy":
            return ir.DataType.INT64, (None,) * (1 if has_no_classes_last(end) else rank - 1)
        return ir.DataType.FLOAT, (None,) * rank


def cross_entropy(logits: Term, classes: Term) -> Term:
    """Return the mean of ``-log p[class]`` over all rows."""
    picked = logits.LogSoftmax(axis=-1).GatherElements(classes.Unsqueeze(np.array([-1])), axis=-1)
    return -picked.ReduceMean(keepdims=0)


def divergence(logits: Term, other: Term) -> Term:
    """Return the mean over all rows of ``sum(p log(p / q))``, with p of the other logits and q of these."""
    apart = other.LogSoftmax(axis=-1) - logits.LogSoftmax(axis=-1)
    return (other.Softmax(axis=-1) * apart).sum([-1]).ReduceMean(keepdims=0)


def squared_error(found: Term, wanted: Term) -> Term:
    """Return the mean squared difference."""
    off = found - wanted
    return (off * off).ReduceMean(keepdims=0)


LOSSES: Mapping[Kind, Callable[[Term, Term], Term]] = {
    "cross-entropy": cross_entropy,
    "kl": divergence,
    "mse": squared_error,
}


def reached(goal: Goal, end: Term, target: Term) -> Term:
    """Return the loss of one goal, without axes."""
    if goal.kind != "mse" and has_no_classes_last(end.value):
        end = end.Flatten(axis=1)
        target = target.Flatten(axis=1) if goal.kind == "kl" else target
    return LOSSES[goal.kind](end, target)


def has_no_classes_last(end: ir.Value) -> bool:
    """Tell whether the last axis has but one element, as in (N, 1000, 1, 1): classes lie along all others."""
    return bool(end.shape) and end.shape[-1] == 1  # type: ignore[index]
