"""How close an int8 encoder is to the limit that this machine's integer products set, kernel by kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cpu_cases import Case, Feeds
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxq.analysis.layers import linear_layers
from onnxq.ir.module import constant_of
from onnxq.ir.store import load_model
from onnxq.runtime.bench import LatencyReport
from onnxq.runtime.kernels import KernelReport, Kind, kernel_report
from onnxq.runtime.run import Run

PROBE = "u8s8 128x384x1536"
ROWS, INNER, COLUMNS = 128, 384, 1536
INPUT = "probe_input"
PROFILED = 30
"""Runs under the profiler."""


def add_probe(
    models: Mapping[str, Path], feeds: Sequence[Feeds], folder: Path
) -> tuple[dict[str, Path], list[Feeds]]:
    """Add one integer product as a model of its own, to be timed in the same rounds."""
    path = folder / "probe.onnx"
    _save_probe(path)
    data = np.random.default_rng(0).integers(0, 256, (ROWS, INNER), dtype=np.uint8)
    return {**models, PROBE: path}, [{**one, INPUT: data} for one in feeds]


def _save_probe(path: Path) -> None:
    weight = np.random.default_rng(1).integers(-127, 128, (INNER, COLUMNS), dtype=np.int8)
    constants: dict[str, NDArray[Any]] = {
        "w": weight,
        "x_scale": np.array(0.02, np.float32),
        "w_scale": np.full(COLUMNS, 0.01, np.float32),
        "x_zero_point": np.array(128, np.uint8),
        "w_zero_point": np.zeros(COLUMNS, np.int8),
    }
    inputs = [INPUT, *constants]
    node = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], name="probe", domain="com.microsoft")
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [ROWS, INNER])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, COLUMNS])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def kernel_table(
    case: Case, models: Mapping[str, Path], feeds: Feeds, report: LatencyReport
) -> tuple[list[dict[str, Any]], str]:
    """Return where the time of ``onnxq static`` goes, and a sentence on the limit.

    The profiler's own cost is taken out: its shares are applied to the latency measured without it.

    Args:
        case: The model.
        models: Its artefacts.
        feeds: One batch.
        report: The timing, with the probe in it.

    """
    timed = {model.name: model.latency_ms.median for model in report.models}
    whole = timed["onnxq static"]
    kernels = kernel_report(models["onnxq static"], feeds, Run(threads=1), source=case.model, runs=PROFILED)
    billions = 2e-9 * feeds["input_ids"].size * _integer_weights(models["fp32 lowered"], kernels)
    integer = sum(row.share for row in kernels.summary if row.kind is Kind.INTEGER)
    rows = [
        {
            "kernel": row.op_type,
            "nodes": row.count,
            "computes": row.kind.value,
            "ms": round(row.share * whole, 3),
            "share %": round(100 * row.share, 1),
        }
        for row in kernels.summary
    ]
    rate = 2e-6 * ROWS * INNER * COLUMNS / timed[PROBE]
    limit = 1e3 * billions / rate
    reached = 1e3 * billions / (integer * whole)
    note = (
        f"the integer products of onnxq static are {billions:.2f} GOP; {PROBE} alone runs at {rate:.0f} "
        f"GOP/s ({timed[PROBE]:.3f} ms), so no graph with these products takes less than {limit:.2f} ms, "
        f"{timed['fp32'] / limit:.2f}x fp32. In the model they take {integer * whole:.2f} ms at "
        f"{reached:.0f} GOP/s, {100 * reached / rate:.0f} % of that rate. The whole takes {whole:.2f} ms, of "
        f"which the limit is {100 * limit / whole:.0f} %; other kernels hold {(1 - integer) * whole:.2f} ms."
    )
    return rows, note


def _integer_weights(lowered: Path, kernels: KernelReport) -> int:
    """Return how many weights the integer kernels multiply with, for each row."""
    integer = {layer.name for layer in kernels.provenance.layers if layer.state == "integer"}
    layers = (layer for layer in linear_layers(load_model(lowered)) if layer.node.name in integer)
    return sum(weight.size for layer in layers if (weight := constant_of(layer.weight)) is not None)
