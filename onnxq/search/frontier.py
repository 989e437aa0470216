"""The frontier: what there is to choose from between integers alone and float alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxq.ir.store import model_size
from onnxq.recipe import Recipe
from onnxq.runtime.gates import option_of

FLOAT_ALONE = "--recipe fp32"
"""What compiles nothing to integers."""


@dataclass(frozen=True)
class Tried:
    """A recipe's result.

    Args:
        name: What races call it.
        recipe: What was built.
        path: Where it lies.
        sqnr_db: Of the output that errs most.
        missed: What it misses of what is asked for.
        in_float: How many parts, layers and values, it keeps in float; None for all.

    """

    name: str
    recipe: Recipe
    path: Path
    sqnr_db: float
    missed: tuple[str, ...]
    in_float: int | None

    @property
    def noise(self) -> float:
        """Power of the error over that of the signal."""
        return float(10 ** (-self.sqnr_db / 10))


@dataclass(frozen=True)
class Point:
    """One way to compile the model.

    Args:
        in_float: How many parts, layers and values, it keeps in float.
        parts: How many there are.
        sqnr_db: SQNR of the output that errs most; infinite where none errs.
        size_bytes: The size of its files.
        speedup: The source's time over its own; None where nothing was timed.
        option: What gives it.
        kept: Whether it is the result.

    """

    in_float: int
    parts: int
    sqnr_db: float
    size_bytes: int
    speedup: float | None
    option: str
    kept: bool = False


def frontier(
    forms: Sequence[Tried], parts: int, kept: Tried, speeds: Mapping[str, float]
) -> tuple[Point, ...]:
    """Return a point for each form.

    Args:
        forms: What was built.
        parts: How many parts there are.
        kept: The form that is the result.
        speeds: The source's time over that of a form, by name; empty where nothing was timed.

    """
    return tuple(
        Point(
            in_float=parts if form.in_float is None else form.in_float,
            parts=parts,
            sqnr_db=form.sqnr_db,
            size_bytes=model_size(form.path),
            speedup=speeds.get(form.name),
            option=FLOAT_ALONE if form.in_float is None else option_of(form.sqnr_db),
            kept=form is kept,
        )
        for form in forms
    )
