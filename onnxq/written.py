"""How results stand in a manifest: as their ``to_dict`` writes them, and read back into what they were.

JSON knows no infinity and no NaN: a number that is None there was none of the finite ones. What ``to_dict``
derives is derived again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, PlainValidator

from onnxq.calibration.table import CalibrationTable
from onnxq.reading import untrusted
from onnxq.runtime.bench import LatencyReport
from onnxq.runtime.compare import plain
from onnxq.runtime.kernels import KernelReport
from onnxq.runtime.validate import AccuracyReport
from onnxq.search.choose import Trial
from onnxq.search.frontier import Point
from onnxq.search.tune import Verdict


def _accuracy(found: object) -> object:
    if not isinstance(found, dict) or not isinstance(metric := found.get("metric"), dict):
        return found
    given = _with(math.nan, _without(metric, "drop_points"), "reference", "candidate")
    return {**found, "metric": given}


def _kernels(found: object) -> object:
    """Put what was found of the layers, which stands beside the nodes, into a part of its own."""
    if not isinstance(found, dict):
        return found
    given = _without(found, "providers", "copies", "kinds", "summary", "states", "warnings")
    layers = {key: given.pop(key) for key in ("layers", "untraced") if key in given}
    return {**given, "provenance": layers}


def _latency(found: object) -> object:
    if not isinstance(found, dict):
        return found
    with untrusted():
        models = [{**model, "kernels": _kernels(model["kernels"])} for model in found["models"]]
        shapes = [list(feeds.items()) for feeds in found["shapes"]]
    if len(models) != 2:
        raise ValueError("source and result are timed, and nothing else")
    return {**found, "models": models, "shapes": shapes}


def _trial(found: object) -> object:
    return _with(math.inf, found, "noise", "largest") if isinstance(found, dict) else found


def _point(found: object) -> object:
    return _with(math.inf, found, "sqnr_db") if isinstance(found, dict) else found


def _without(found: Mapping[str, object], *names: str) -> dict[str, object]:
    return {key: value for key, value in found.items() if key not in names}


def _with(number: float, found: Mapping[str, object], *names: str) -> Mapping[str, object]:
    """Return the same with ``number`` for None under these names."""
    return {**found, **{name: number for name in names if name in found and found[name] is None}}


def _table(found: object) -> CalibrationTable:
    return found if isinstance(found, CalibrationTable) else CalibrationTable.from_json(json.dumps(found))


Accuracy = Annotated[AccuracyReport, BeforeValidator(_accuracy), PlainSerializer(AccuracyReport.to_dict)]
Kernels = Annotated[KernelReport, BeforeValidator(_kernels), PlainSerializer(KernelReport.to_dict)]
Latency = Annotated[LatencyReport, BeforeValidator(_latency), PlainSerializer(LatencyReport.to_dict)]
Tried = Annotated[Trial, BeforeValidator(_trial), PlainSerializer(lambda trial: plain(asdict(trial)))]
Reached = Annotated[Point, BeforeValidator(_point), PlainSerializer(lambda point: plain(asdict(point)))]
Tuned = Annotated[Verdict, PlainSerializer(asdict)]
Table = Annotated[
    CalibrationTable,
    PlainValidator(_table),
    PlainSerializer(lambda table: json.loads(table.to_json())),
]
