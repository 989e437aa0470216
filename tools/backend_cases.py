"""ONNX's own single-operator models and their data (``onnx.backend.test.case.node``), for the tools."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxq.runtime.seeded import RANDOM

DRAWING = RANDOM | {"Dropout"}
"""Operators whose models give other numbers in each run."""


@cache
def node_cases() -> list[Any]:
    """Return all cases, each with its model and data sets."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def feeds_of(case: Any) -> dict[str, Any]:
    """Return what the model of a case is fed first; inputs that are left out are missing."""
    arrays = map(array_of, case.data_sets[0][0])
    named = zip(case.model.graph.input, arrays, strict=True)
    return {value.name: array for value, array in named if array is not None}


def array_of(value: Any) -> Any:
    """Return a value of a data set as an array; sequences, maps and None as they are."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def with_constants(
    model: onnx.ModelProto, arrays: Mapping[str, Any], names: Collection[str]
) -> onnx.ModelProto:
    """Return the model with its inputs ``names`` as initializers instead."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in names)
    inputs = [value for value in copy.graph.input if value.name not in names]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    return copy
