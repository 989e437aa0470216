"""The answer yes or no: does an accuracy report pass what was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from onnxq.errors import RecipeError, ToleranceError
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.slices import USELESS_DB
from onnxq.runtime.validate import AccuracyReport

FLOOR_DB = 15.0
"""What every output reaches by default: at 15 dB, 18 % of it is error by magnitude."""


@dataclass(frozen=True)
class Gates:
    """What a candidate must reach; None asks for nothing.

    Every output that a gate can be measured on must pass it. A gate that can be measured on
    none counts as missed. Whatever the gates, a candidate that gives NaN or infinity where
    the reference gives a number has missed.

    Args:
        min_cosine: For the flattened stream of each float output.
        min_sqnr_db: Decibels, for each float output; 0 asks for nothing, not even for what holds by default.
        max_abs: Largest absolute difference allowed in any float output.
        min_agreement: Share, 0 to 1, for agreeing classes and for equal values.
        max_drop: Points of the task metric; one point is 0.01.

    Raises:
        RecipeError: A value is not a number, or outside what can be reached.

    """

    min_cosine: float | None = None
    min_sqnr_db: float | None = None
    max_abs: float | None = None
    min_agreement: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        lowest = {"min_cosine": -1.0, "max_abs": 0.0, "min_agreement": 0.0}
        highest = {"min_cosine": 1.0, "min_agreement": 1.0}
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = lowest.get(field.name, -math.inf), highest.get(field.name, math.inf)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise RecipeError(
                    f"{value} is not possible",
                    where=f"gate {_spelled(field.name)}",
                    hint=f"from {low} to {high}",
                )


def require_measurable(gates: Gates, *, compared: bool, has_metric: bool) -> None:
    """Say before the work that a gate is set which the run will not measure.

    Args:
        gates: What is asked for.
        compared: Whether the models will be compared.
        has_metric: Whether a task metric will be computed.

    Raises:
        RecipeError: There is such a gate.

    """
    asked = [field.name for field in fields(gates) if getattr(gates, field.name) is not None]
    if asked and not compared:
        raise RecipeError(
            "it cannot be measured, as the models are not compared",
            where=f"gate {_spelled(asked[0])}",
            hint="leave out --no-validate, or the gate",
        )
    if gates.max_drop is not None and not has_metric:
        raise RecipeError(
            "it needs a task metric", where="gate max-drop", hint="name one, such as --metric top1"
        )


def check(report: AccuracyReport, gates: Gates) -> list[str]:
    """Return one line for each gate that was missed, with what was measured and wanted."""
    return [
        *_new_non_finite(report),
        *_at_least(report, "min_cosine", gates.min_cosine, lambda output: output.cosine),
        *_at_least(report, "min_sqnr_db", gates.min_sqnr_db or None, lambda output: output.sqnr_db),
        *_max_abs(report, gates.max_abs),
        *_at_least(report, "min_agreement", gates.min_agreement, _agreement),
        *_max_drop(report, gates.max_drop),
    ]


def enforce(report: AccuracyReport, gates: Gates) -> None:
    """Raise if a gate was missed.

    Raises:
        ToleranceError: The message holds all lines of ``check``.

    """
    missed = check(report, gates)
    if missed:
        raise ToleranceError("; ".join(missed), where=report.candidate)


def useless(report: AccuracyReport) -> list[OutputAccuracy]:
    """Return the outputs of which a third is error, or whose numbers became NaN or infinite; worst first."""
    found = [output for output in report.outputs if output.new_non_finite or decibels(output) < USELESS_DB]
    return sorted(found, key=decibels)


def floor_db(samples: int) -> float:
    """Return what so many samples have to show for ``FLOOR_DB`` to hold for others: a standard error more.

    The power of the error differs from sample to sample by about its mean, as that of normal noise of two
    values does; the mean of n of them has a standard error of 1 / sqrt(n) of itself.
    """
    return FLOOR_DB + 10 * math.log10(1 + samples**-0.5)


def below_floor(report: AccuracyReport) -> list[str]:
    """Return one line for each output that is below the floor; what has no SQNR is not asked for any."""
    wanted = floor_db(report.samples)
    return [
        f"output {output.name!r} has {_quality(output)} on {report.samples} samples, and {wanted:.1f} dB is "
        "the floor"
        for output in sorted(report.outputs, key=decibels)
        if output.new_non_finite or decibels(output) < wanted
    ]


def _quality(output: OutputAccuracy) -> str:
    if output.new_non_finite:
        return f"{output.new_non_finite} NaN or infinite values where the source's has numbers"
    return f"an SQNR of {decibels(output):z.1f} dB"


def enforce_useful(report: AccuracyReport) -> None:
    """Raise if an output is useless: what holds where no gate was set.

    Raises:
        ToleranceError: The message names the worst output, and the hint what to do.

    """
    if found := useless(report):
        raise ToleranceError(
            f"output {found[0].name!r} is useless: {uselessness(found[0])}",
            where=report.candidate,
            hint=f"onnxq sensitivity tells what costs it; {accepting(found[0])} takes it as it is",
        )


def uselessness(output: OutputAccuracy) -> str:
    """Say how far a useless output is from the source's."""
    if output.new_non_finite:
        return _quality(output)
    return f"{_quality(output)} (at {USELESS_DB:g} dB a third is error)"


def accepting(output: OutputAccuracy) -> str:
    """Return the option of ``onnxq compile`` that takes such an output."""
    if output.new_non_finite:
        return "--no-validate"
    return option_of(decibels(output))


def option_of(sqnr_db: float) -> str:
    """Return the option of ``onnxq compile`` that takes outputs of so many decibels, and no worse ones."""
    return f"--min-sqnr {math.floor(sqnr_db)}" if sqnr_db >= 1 else "--min-sqnr off"


def worst_db(report: AccuracyReport) -> float:
    """Return the SQNR of the output that errs most; infinite where none does."""
    found = (-math.inf if one.new_non_finite else decibels(one) for one in report.outputs)
    return min(found, default=math.inf)


def decibels(output: OutputAccuracy) -> float:
    """Return the SQNR; infinite where there is none, or no signal to judge it by."""
    return output.sqnr_db if output.sqnr_db is not None and output.scale else math.inf


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _agreement(output: OutputAccuracy) -> float | None:
    return output.agreement if output.equal is None else output.equal


def _at_least(
    report: AccuracyReport, gate: str, wanted: float | None, measure: Callable[[OutputAccuracy], float | None]
) -> list[str]:
    if wanted is None:
        return []
    measured = [(output.name, value) for output in report.outputs if (value := measure(output)) is not None]
    if not measured:
        return [f"{_spelled(gate)} {wanted:g} could not be measured: no output fits it"]
    return [
        f"{_spelled(gate)}: output {name!r} has {value:.6g}, wanted at least {wanted:g}"
        for name, value in measured
        if value < wanted
    ]


def _max_abs(report: AccuracyReport, wanted: float | None) -> list[str]:
    if wanted is None:
        return []
    measured = [output for output in report.outputs if output.max_abs is not None]
    if not measured:
        return [f"max-abs {wanted:g} could not be measured: no output fits it"]
    return [
        f"max-abs: output {output.name!r} differs by {output.max_abs:.6g} (values reach {output.scale:.6g}), "
        f"wanted at most {wanted:g}"
        for output in measured
        if output.max_abs is not None and output.max_abs > wanted
    ]


def _max_drop(report: AccuracyReport, wanted: float | None) -> list[str]:
    if wanted is None:
        return []
    metric = report.metric
    if metric is None:
        return [f"max-drop {wanted:g} could not be measured: no task metric was computed"]
    if metric.drop <= wanted + 1e-9:  # 98.0 to 97.7 is 0.3 points, whatever the last bit says
        return []
    return [
        f"max-drop: {metric.name} fell by {metric.drop:.3g} points ({100 * metric.reference:.2f} to "
        f"{100 * metric.candidate:.2f}), wanted at most {wanted:g}"
    ]


def _new_non_finite(report: AccuracyReport) -> list[str]:
    return [
        f"output {output.name!r} has {output.new_non_finite} NaN or infinite values "
        "where the reference has numbers"
        for output in report.outputs
        if output.new_non_finite
    ]
