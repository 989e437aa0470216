"""Tables of training: what outliers amplify, and which weights oscillate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from onnxq.quant.amplification import Amplification
from onnxq.report.tables import NOTHING, Table

MOST_ROWS = 15


class _Tamed(Protocol):
    @property
    def before(self) -> Mapping[str, Amplification]: ...

    @property
    def after(self) -> Mapping[str, Amplification]: ...


def tamed_table(tamed: _Tamed) -> Table:
    """Return the tensors that erred most, each with its largest magnitude and the part due to outliers.

    The first row is the mean of the parts over all tensors.
    """
    rows = [("mean of all", NOTHING, NOTHING, _mean(tamed.before), _mean(tamed.after))]
    both = {name: one for name, one in tamed.before.items() if name in tamed.after}
    for name in sorted(both, key=lambda name: -both[name].share * both[name].error)[:MOST_ROWS]:
        one, then = tamed.before[name], tamed.after[name]
        rows.append((name, _largest(one), _largest(then), f"{one.share:.0%}", f"{then.share:.0%}"))
    return Table("Outliers", ("value", "largest", "then", "due to outliers", "then"), tuple(rows))


def _largest(one: Amplification) -> str:
    return f"{max(-one.low, one.high):.3g}"


def _mean(found: Mapping[str, Amplification]) -> str:
    shares = [one.share for one in found.values()]
    return f"{sum(shares) / max(len(shares), 1):.0%}"


def oscillating_table(shares: Mapping[str, float]) -> Table:
    """Return the part of each weight that oscillates, the largest first; the first row is the mean."""
    mean = sum(shares.values()) / max(len(shares), 1)
    worst = sorted(shares, key=lambda name: -shares[name])[:MOST_ROWS]
    rows = [("mean of all", f"{mean:.2%}"), *((name, f"{shares[name]:.2%}") for name in worst)]
    return Table("Oscillating weights", ("weight", "part"), tuple(rows))
