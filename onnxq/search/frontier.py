"""The frontier: what there is to choose from between integers alone and float alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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


def compiled(points: Sequence[Point], tuned: int | None, **measured: Any) -> tuple[Point, ...]:
    """Return the points with what was ``measured`` of the result in the place of the one that is kept.

    Args:
        points: A frontier; the last point is all in float.
        tuned: How many more layers tuning has put into float; None for all of them.
        measured: Fields of the point.

    """
    kept = len(points) - 1 if tuned is None else [one.kept for one in points].index(True)
    in_float = min(points[kept].in_float + (tuned or 0), points[kept].parts)
    return tuple(
        replace(one, kept=True, in_float=in_float, **measured) if place == kept else replace(one, kept=False)
        for place, one in enumerate(points)
    )


def frontier(
    forms: Sequence[Tried], parts: int, kept: Tried, speeds: Mapping[str, float]
) -> tuple[Point, ...]:
    """Return a point for each form, but for those that are in between and slower than one that errs less.

    Args:
        forms: What was built, all in integers first, all in float last, each erring less than those before.
        parts: How many parts there are.
        kept: The form that is the result.
        speeds: The source's time over that of a form, by name; empty where nothing was timed.

    """
    points = [
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
    ]
    return tuple(
        one
        for place, one in enumerate(points)
        if one.kept or place == 0 or not any(_is_as_fast(other, one) for other in points[place + 1 :])
    )


def _is_as_fast(one: Point, other: Point) -> bool:
    return one.speedup is not None and other.speedup is not None and one.speedup >= other.speedup
