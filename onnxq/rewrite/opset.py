"""Carrying the standard operators of a model over to another version."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from onnxq.errors import ModelError
from onnxq.ir.constants import lift_constants
from onnxq.ir.inference import infer_types, types_known
from onnxq.ir.module import attribute, is_standard
from onnxq.rewrite.opset_rules import RULES, TYPED, CannotConvertError, Step
from onnxq.rewrite.retired import RETIRED, SINCE

HINT = "export the model again with another operator set"


class OpsetError(ModelError):
    """A node cannot be carried over to another operator set."""

    def __init__(self, message: str, node: ir.Node) -> None:
        """Keep the node beside the message."""
        super().__init__(message, where=f"node {node.name!r} ({node.op_type})", hint=HINT)
        self.node = node


def convert_opset(model: ir.Model, version: int) -> ir.Model:
    """Return the model with its standard operators in ``version``, and an IR version that knows them.

    An operator goes from each of its versions to the next. What changed its meaning or its form on the way
    has a rule in ``opset_rules``, what ONNX gave up one in ``retired``; elsewhere the schemas of both
    versions have to agree on all that the node uses. Subgraphs are converted too; ``model`` itself stays as
    it is.

    Raises:
        OpsetError: An operator is no longer part of ONNX, or cannot be carried over.
        ModelError: The model has functions of its own.

    """
    before = model.opset_imports[""]
    if model.functions:
        raise ModelError(
            f"operator set {before} cannot be converted while the model has functions of its own",
            hint="put inline-functions before it",
        )
    _refuse_unknown_operators(model, version)
    copy = lift_constants(model.clone())
    nodes = [node for node in copy.graph.all_nodes() if is_standard(node)]
    if not types_known((node for node in nodes if node.op_type in TYPED), shapes=True):
        infer_types(copy)
    for node in nodes:
        try:
            if _is_retired(node, version):
                RETIRED[node.op_type](Step(node, version))
            else:
                _convert(node, before, version)
        except CannotConvertError as error:
            text = f"operator set {before} cannot be converted to {version}: {error}"
            raise OpsetError(text, node) from error
    copy.opset_imports[""] = version
    needed = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    copy.ir_version = max(copy.ir_version, needed)
    return copy


def _refuse_unknown_operators(model: ir.Model, version: int) -> None:
    before = model.opset_imports[""]
    for node in model.graph.all_nodes():
        known = onnx.defs.has(node.op_type, max_inclusive_version=version)
        if is_standard(node) and not known and not _is_retired(node, version):
            text = (
                f"operator {node.op_type} of operator set {before} does not exist in operator set {version}"
            )
            raise OpsetError(text, node)


def _is_retired(node: ir.Node, version: int) -> bool:
    """Tell whether the operator was given up, and can be said in ``version`` with others."""
    return version >= SINCE and node.op_type in RETIRED


def _convert(node: ir.Node, before: int, after: int) -> None:
    """Take the node through each version of its operator that lies between."""
    if after < before:
        _lower(node, before, after)
    for version in range(before + 1, after + 1):
        old, new = _schema(node, version - 1), _schema(node, version)
        if old is None or new is None or old.since_version == new.since_version:
            continue
        rule = RULES.get((node.op_type, version))
        if rule is not None:
            rule(Step(node, version))
        elif new.deprecated:
            raise CannotConvertError(f"operator set {version} gives it up")
        else:
            _drop_what_means_nothing(node, new)
            _compare(node, old, new)


def _lower(node: ir.Node, before: int, after: int) -> None:
    old, new = _schema(node, before), _schema(node, after)
    if old is None or new is None or old.since_version == new.since_version:
        return
    passed = [version for op_type, version in RULES if op_type == node.op_type and after < version <= before]
    if passed:
        raise CannotConvertError(f"it changed in operator set {passed[0]}")
    for name in set(node.attributes) - set(new.attributes):
        if attribute(node, name, None) == _default(old, name):
            del node.attributes[name]
    _compare(node, old, new)


def _drop_what_means_nothing(node: ir.Node, new: OpSchema) -> None:
    """Drop the hint on memory that operators had before operator set 6."""
    if "consumed_inputs" not in new.attributes:
        node.attributes.pop("consumed_inputs", None)


def _compare(node: ir.Node, old: OpSchema, new: OpSchema) -> None:
    """Refuse a node that uses anything that both versions do not name, place and preset alike."""
    for name in node.attributes:
        if name not in new.attributes or old.attributes[name].type != new.attributes[name].type:
            raise CannotConvertError(f"its attribute {name} is another in version {new.since_version}")
    for name in old.attributes.keys() - node.attributes.keys():
        if name in new.attributes and _default(old, name) != _default(new, name):
            raise CannotConvertError(f"the default of {name} is another in version {new.since_version}")
    for name, declared in new.attributes.items():
        if declared.required and name not in node.attributes:
            raise CannotConvertError(f"version {new.since_version} wants attribute {name}")
    for kind, used, ours, theirs in (
        ("inputs", node.inputs, old.inputs, new.inputs),
        ("outputs", node.outputs, old.outputs, new.outputs),
    ):
        count = min(len(used), len(ours))
        if [one.name for one in ours[:count]] != [one.name for one in theirs[:count]]:
            raise CannotConvertError(f"its {kind} are others in version {new.since_version}")


def _schema(node: ir.Node, version: int) -> OpSchema | None:
    known = onnx.defs.has(node.op_type, max_inclusive_version=version)
    return onnx.defs.get_schema(node.op_type, version) if known else None


def _default(schema: OpSchema, name: str) -> Any:
    """Return what an attribute is where a node does not say; None if nothing is preset."""
    preset = schema.attributes[name].default_value
    if preset.type == onnx.AttributeProto.UNDEFINED:
        return None
    value = onnx.helper.get_attribute_value(preset)
    return value.decode() if isinstance(value, bytes) else value
