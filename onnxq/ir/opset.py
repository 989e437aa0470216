"""Carrying the standard operators of a model over to another version, with onnx's own converter."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx.version_converter import ConvertError

from onnxq.errors import ModelError
from onnxq.ir.constants import lift_constants
from onnxq.ir.module import rank_of

SMALL_BYTES = 4096
"""Constants up to this size travel through the converter, which reads shapes and axes from them."""

HINT = "export the model again with another operator set"


def convert_opset(model: ir.Model, version: int) -> ir.Model:
    """Return the model with its standard operators in ``version``, and an IR version that knows them.

    Large weights are set aside meanwhile, so that the model's size does not matter.

    Raises:
        ModelError: An operator is no longer part of ONNX, or the converter cannot carry it over.

    """
    _refuse_unknown_operators(model, version)
    large = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > SMALL_BYTES
        if not value.is_graph_input()
    }
    proto = ir.to_proto(_without(model, large))
    try:
        converted = ir.from_proto(onnx.version_converter.convert_version(proto, version))
    except (RuntimeError, ValueError, onnx.checker.ValidationError, ConvertError) as error:
        before = model.opset_imports[""]
        raise ModelError(
            f"operator set {before} cannot be converted to {version}: {error}", hint=HINT
        ) from error
    _refuse_other_inputs(model, converted)
    result = _with(lift_constants(converted), large)
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    result.ir_version = max(result.ir_version, needed)
    return result


def _refuse_unknown_operators(model: ir.Model, version: int) -> None:
    before = model.opset_imports[""]
    for node in model.graph:
        known = onnx.defs.has(node.op_type, max_inclusive_version=version)
        if node.domain in ("", "ai.onnx") and not known:
            raise ModelError(
                f"operator {node.op_type} of operator set {before} does not exist in operator set {version}",
                where=f"node {node.name!r}",
                hint=HINT,
            )


def _refuse_other_inputs(model: ir.Model, converted: ir.Model) -> None:
    """Compare ranks: onnx takes the batch axis away from what Scan reads, up to the model's inputs."""
    after = {value.name: rank_of(value) for value in converted.graph.inputs}
    for value in model.graph.inputs:
        if value.name in after and after[value.name] != rank_of(value):
            raise ModelError(
                f"converting operator set {model.opset_imports['']} changes the shape of an input",
                where=f"input {value.name!r}",
                hint=HINT,
            )


def _without(model: ir.Model, large: dict[str, ir.TensorProtocol]) -> ir.Model:
    """Return a copy whose large weights are inputs instead."""
    copy = model.clone()
    for name in large:
        value = copy.graph.initializers.pop(name)
        value.const_value = None
        copy.graph.inputs.append(value)
    return copy


def _with(model: ir.Model, large: dict[str, ir.TensorProtocol]) -> ir.Model:
    """Turn the inputs of these names into initializers again."""
    for value in [value for value in model.graph.inputs if value.name in large]:
        model.graph.inputs.remove(value)
        value.const_value = large[value.name or ""]
        model.graph.register_initializer(value)
    return model
