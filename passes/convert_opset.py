"""Raise the model to an operator set that knows per-channel QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir
from onnx.version_converter import ConvertError
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext

SMALL_BYTES = 4096
"""Constants up to this size travel through the converter, which reads shapes and axes from them."""

LIFT = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
"""Makes initializers, like any others, of the Constant nodes that the converter adds."""


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Raise the standard operators with onnx's own converter; newer models stay as they are.

    Options:
        minimum: The oldest operator set that later passes can work with; 13 brought per-channel scales.

    """

    name: ClassVar[str] = "convert-opset"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 13

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx; a model without standard operators only learns of them."""
        if module.opset == 0:
            ctx.edit.apply(self._import, why="later passes write standard operators")
        elif module.opset < self.minimum:
            self._refuse_removed_operators(module)
            ctx.edit.apply(self._convert, why=f"operator set {module.opset} has no per-channel scales")

    def _refuse_removed_operators(self, module: GraphModule) -> None:
        for node in module.graph:
            known = onnx.defs.has(node.op_type, max_inclusive_version=self.minimum)
            if node.domain in ("", "ai.onnx") and not known:
                raise ModelError(
                    f"operator {node.op_type} of operator set {module.opset} is no longer part of ONNX",
                    where=f"node {node.name!r}",
                    hint="export the model again with a newer operator set",
                )

    def _import(self, model: ir.Model) -> ir.Model:
        model.opset_imports[""] = self.minimum
        return model

    def _convert(self, model: ir.Model) -> ir.Model:
        """Convert a model whose large weights are set aside, and put them back."""
        large = {
            name: value.const_value
            for name, value in model.graph.initializers.items()
            if value.const_value is not None and value.const_value.nbytes > SMALL_BYTES
        }
        proto = ir.to_proto(_without(model, large))
        try:
            converted = ir.from_proto(onnx.version_converter.convert_version(proto, self.minimum))
        except (RuntimeError, ValueError, onnx.checker.ValidationError, ConvertError) as error:
            raise ModelError(
                f"operator set {model.opset_imports.get('', 0)} cannot be raised to {self.minimum}: {error}",
                hint="export the model again with a newer operator set",
            ) from error
        _refuse_other_inputs(model, converted)
        return _with(LIFT(converted).model, large)


def _refuse_other_inputs(model: ir.Model, converted: ir.Model) -> None:
    """Compare ranks: onnx takes the batch axis away from what Scan reads, up to the model's inputs."""
    after = {value.name: rank_of(value) for value in converted.graph.inputs}
    for value in model.graph.inputs:
        if value.name in after and after[value.name] != rank_of(value):
            raise ModelError(
                f"raising operator set {model.opset_imports['']} changes the shape of an input",
                where=f"input {value.name!r}",
                hint="export the model again with a newer operator set",
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
    model.ir_version = max(model.ir_version, 8)
    return model
