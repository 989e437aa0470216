"""What bench_cpu.py wants of onnxq, and whether it was reached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cpu_cases import Case

from onnxq.ir.module import LINEAR
from onnxq.runtime.bench import LatencyReport, ModelLatency
from onnxq.runtime.invariance import InvarianceReport
from onnxq.runtime.kernels import LayerState

ROUNDING = 1e-5
"""The part of the largest value that another order of summing may move; see onnxq.runtime.invariance."""


NOISE = 0.98
"""Medians of equal files differ by up to 2 % within one run."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one model.

    Args:
        case: The model.
        reports: The timing by title and threads.
        accuracy: By artefact, what its results are worth.
        layers: How many layers with constant weights it has.
        float_tables: How many look-ups of ``onnxq static`` read rows of float.
        invariance: Whether neighbours and padding move its results; None where there is no padding.

    """

    case: Case
    reports: Mapping[tuple[str, int], LatencyReport]
    accuracy: Mapping[str, Mapping[str, float]]
    layers: int
    float_tables: int
    invariance: InvarianceReport | None


@dataclass(frozen=True)
class Verdict:
    """One thing that is wanted, and what was found."""

    point: str
    run: str
    what: str
    wanted: str
    found: str
    reached: bool

    def row(self, model: str) -> dict[str, Any]:
        """Return it as a row of a table."""
        verdict = "ok" if self.reached else "missed"
        told = {"what": self.what, "wanted": self.wanted, "found": self.found}
        return {"point": self.point, "model": model, "run": self.run, **told, "verdict": verdict}


def verdict_rows(one: Measured) -> list[dict[str, Any]]:
    """Return what is wanted of this model, as rows of a table."""
    return [verdict.row(one.case.name) for verdict in _verdicts(one)]


def _verdicts(one: Measured) -> Iterator[Verdict]:
    if one.case.compared == "embeddings":
        yield from _encoder(one)
    if one.case.name in ("cifar10_resnet20", "squeezenet"):
        yield from _convolutional(one)
    if one.case.name.startswith("mnist"):
        yield from _never_slower(one)
    yield from _integer(one)


def _encoder(one: Measured) -> Iterator[Verdict]:
    for (title, threads), report in one.reports.items():
        run = _run(title, threads)
        if "128 tokens" not in title or threads > 2:
            continue
        if "real" in title:
            if threads == 1:
                yield _at_least("2", run, "static over fp32", 4.0, _ratio(report, "onnxq static"))
        elif threads == 1 and title.startswith("batch 1"):
            yield from _single(run, report, one.float_tables)
        else:
            wanted = 3.0 if threads == 1 else 2.5
            yield _at_least("2", run, "static over fp32", wanted, _ratio(report, "onnxq static"))
    moved = one.accuracy["fp32 lowered"]["max diff"]
    yield Verdict("5", "", "fp32 lowered moves by", f"<= {ROUNDING:g}", f"{moved:.1e}", moved <= ROUNDING)
    if one.invariance is not None:
        output = one.invariance.outputs[0]
        found = f"{output.verdict} ({output.worst:.1e})"
        yield Verdict("", "alone, padded, batch", "static moves", "no", found, one.invariance.holds)


def _single(run: str, report: LatencyReport, float_tables: int) -> Iterator[Verdict]:
    yield _at_least("1", run, "static over fp32 (goal 3.4)", 3.1, _ratio(report, "onnxq static"))
    peer = _ratio(report, "onnxq static", "quantize_dynamic")
    yield _at_least("1", run, "static over quantize_dynamic", 1.4, peer)
    yield _at_least("1", run, "portable over fp32", 2.9, _ratio(report, "onnxq portable"))
    size = _model(report, "onnxq static").size_bytes / 1e6
    yield Verdict("1", "", "static, MB", "<= 24", f"{size:.1f}", size <= 24)
    yield Verdict("1", "", "static, float embeddings", "0", str(float_tables), not float_tables)
    yield _at_least("5", run, "fp32 lowered over fp32", 1.1, _ratio(report, "fp32 lowered"))


def _convolutional(one: Measured) -> Iterator[Verdict]:
    for (title, threads), report in one.reports.items():
        ratio = _ratio(report, "onnxq static", "quantize_static")
        yield _at_least("3", _run(title, threads), "static over quantize_static", NOISE, ratio)
    found = one.accuracy["onnxq static"]
    for key, least, goal in (("agree %", 98.5, 98.8), ("SQNR dB", 29.0, 30.5)):
        what = f"static, {key} (goal {goal})"
        yield Verdict("3", "", what, f">= {least}", f"{found[key]}", found[key] >= least)


def _never_slower(one: Measured) -> Iterator[Verdict]:
    for (title, threads), report in one.reports.items():
        tuned = any(timed.name == "onnxq tuned" for timed in report.models)
        if tuned and threads == 1 and title == "batch 1":
            ratio = _ratio(report, "onnxq tuned")
            yield _at_least("3", _run(title, threads), "tuned over fp32", NOISE, ratio)


def _integer(one: Measured) -> Iterator[Verdict]:
    """Want every layer in an integer kernel; the dynamic recipe may leave some in float, but none unfused."""
    report = next(iter(one.reports.values()))
    for name, least in (("static", one.layers), ("portable", one.layers), ("dynamic", 0)):
        kernels = _model(report, f"onnxq {name}").kernels.provenance
        states = Counter(layer.state for layer in kernels.layers if layer.op_type in LINEAR)
        integer, unfused = states[LayerState.INTEGER], states[LayerState.UNFUSED]
        wanted = f"{least}, unfused 0" if least else "unfused 0"
        reached = integer >= least and not unfused
        yield Verdict("4", "", f"{name}, integer layers", wanted, f"{integer}, unfused {unfused}", reached)


def _run(title: str, threads: int) -> str:
    return f"{title}, {threads} thread{'s' * (threads > 1)}"


def _at_least(point: str, run: str, what: str, least: float, found: float) -> Verdict:
    return Verdict(point, run, what, f">= {least}", f"{found:.2f}", round(found, 2) >= least)


def _ratio(report: LatencyReport, name: str, base: str = "fp32") -> float:
    """Return how many times faster one artefact is than another: the median over the rounds."""
    first, second = (np.array(_model(report, key).rounds_ms) for key in (base, name))
    return float(np.median(first / second))


def _model(report: LatencyReport, name: str) -> ModelLatency:
    return next(timed for timed in report.models if timed.name == name)
