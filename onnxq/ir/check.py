"""Whether a model that was just read is valid: for onnx, for onnx_ir and for arithmetic."""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import ModelError
from onnxq.ir.calls import check_calls
from onnxq.ir.module import LINEAR, attribute, is_standard

EXPORT_AGAIN = "export the model again"
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_BLOCK = 1 << 18
FINITE = "onnxq_finite"
"""Where a tensor's ``meta`` tells whether all its elements are finite in float32, once that is known."""


def check(model: ir.Model, source: Path | onnx.ModelProto) -> None:
    """Check a model and the file it was read from, or what the file should have said.

    Raises:
        ModelError: The first thing that is wrong; the error does not name the file.

    """
    if not model.graph.outputs:
        raise ModelError("the model has no outputs", hint=EXPORT_AGAIN)
    known = onnx.defs.onnx_opset_version()
    if model.opset_imports.get("", 0) > known:
        raise ModelError(
            f"the model uses opset {model.opset_imports['']}, and the installed onnx {onnx.__version__} "
            f"knows opsets up to {known}",
            hint="pip install --upgrade onnx",
        )
    try:
        onnx.checker.check_model(str(source) if isinstance(source, Path) else source)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split()).replace(" ==> Context: ", "; ")
        raise ModelError(f"the graph is not valid: {text}", hint=_checker_hint(text)) from error
    _check_text(model)
    check_calls(model)
    _check_attributes(model.graph)
    check_finite(model.graph)


def check_outputs(graph: onnx.GraphProto) -> None:
    """Find an output that is listed again as of another type: onnx_ir believes the last, others the first.

    Raises:
        ModelError: One is.

    """
    types: dict[str, int] = {}
    for output in graph.output:
        found = output.type.tensor_type.elem_type
        if types.setdefault(output.name, found) != found:
            raise ModelError(
                "it is listed more than once, with different types",
                where=f"output {output.name!r}",
                hint=EXPORT_AGAIN,
            )


def _check_text(model: ir.Model) -> None:
    """Find text that is not UTF-8, which onnx_ir meets only when it writes."""
    try:
        "".join(model.graph.initializers)
        graph_only = model.clone()
        graph_only.graph.initializers.clear()
        ir.serde.serialize_model(graph_only)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise ModelError(f"the graph is not valid: {root_cause(error)}", hint=EXPORT_AGAIN) from error


def _checker_hint(text: str) -> str:
    unknown = re.search(r"No Op registered for (\S+)", text)
    if unknown:
        return (
            f"onnx {onnx.__version__} has no standard operator {unknown[1]!r}; upgrade onnx, "
            "or give a custom operator a domain of its own"
        )
    if "topologically sorted" in text:
        return "nothing computes that value, or only a later node does: export the model again"
    if "ir_version" in text:
        return "pip install --upgrade onnx"
    return EXPORT_AGAIN


def _check_attributes(graph: ir.Graph) -> None:
    """Refuse layers that multiply by infinity or NaN, and parameters outside of functions."""
    for node in graph.all_nodes():
        for attr in node.attributes.values():
            if attr.is_ref():
                raise ModelError(
                    f"its attribute {attr.name!r} is a parameter, and there is no function around it",
                    where=f"node {node.name!r}",
                    hint=EXPORT_AGAIN,
                )
        for name in ("alpha", "beta") if is_standard(node, *LINEAR) else ():
            if not np.isfinite(attribute(node, name, 1.0)):
                raise ModelError(
                    f"its {name} is {attribute(node, name, 1.0)}",
                    where=f"node {node.name!r}",
                    hint=EXPORT_AGAIN,
                )


def check_finite(graph: ir.Graph, known: Container[str] = ()) -> None:
    """Refuse NaN in any weight, and infinities in those of linear layers: masks may hold them.

    Args:
        graph: The main graph.
        known: Names of weights that were looked at before.

    Raises:
        ModelError: A weight holds such values.

    """
    for name, value in graph.initializers.items():
        if name in known:
            continue
        tensor = value.const_value
        linear = any(is_standard(use.node, *LINEAR) for use in value.uses())
        if tensor is None or tensor.dtype not in _FLOATS or tensor.size < (1 if linear else 2):
            continue
        bad = _not_finite(tensor)
        tensor.meta[FINITE] = not bad.size
        if np.isnan(bad).any() or (linear and np.isinf(bad).any()):
            what = "NaN" if np.isnan(bad).any() else "infinite values"
            raise ModelError(
                f"the weight holds {what}",
                where=f"initializer {name!r}",
                hint="the model was damaged in training or export; no quantization can mend it",
            )


def _not_finite(tensor: ir.TensorProtocol) -> NDArray[Any]:
    """Return the elements that are not finite in float32, as they are.

    A sum is finite only if all its terms are, so that blocks are read once as a rule.
    """
    values = tensor.numpy().reshape(-1)
    blocks = (values[start : start + _BLOCK] for start in range(0, values.size, _BLOCK))
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = [block for block in blocks if not np.isfinite(block.sum(dtype=np.float32))]
        found = [block[~np.isfinite(block.astype(np.float32))] for block in suspects]
    return np.concatenate([one.astype(np.float64) for one in found]) if found else np.empty(0)


def root_cause(error: BaseException) -> str:
    """Return the text of the first of a chain of errors, on one line."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split())
