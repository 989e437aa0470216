"""A model of its own that computes gradients."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from onnxq.autodiff.backward import OLDEST, gradient
from onnxq.autodiff.inferred import infer
from onnxq.errors import ModelError, did_you_mean
from onnxq.ir.constants import lift_constants
from onnxq.ir.module import GraphModule
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.opset import convert_opset

SEED, WHY = "seed", "gradient"


def prepared(module: GraphModule) -> GraphModule:
    """Return a copy that ``gradient`` can add to: flat, in a late operator set, with all types known.

    Values keep their names; both share the weights.

    Raises:
        ModelError: A function cannot be inlined, or an operator not be carried over to operator set 18.

    """
    model = module.model.clone()
    if model.functions:
        model = InlinePass()(model).model
    model = lift_constants(model) if module.opset >= OLDEST else convert_opset(model, OLDEST)
    return GraphModule(infer(model))


def gradient_model(module: GraphModule, *, of: str, wrt: Sequence[str], seeded: bool = False) -> GraphModule:
    """Return a model that computes a value and its gradients.

    Args:
        module: Stays as it is.
        of: The name of a value of floats.
        wrt: The names of inputs, initializers or inner values.
        seeded: Whether the model has an input ``seed`` more, of the shape of ``of``: the weight of each
            element in the sum that is differentiated. Without it, all are 1.

    Returns:
        A model with the inputs of ``module``, and perhaps ``seed``. Its outputs are ``of``, and the gradient
        of each of ``wrt``, called after it with ``_grad`` behind, in this order.

    Raises:
        ModelError: There is no such value, it does not depend on one of ``wrt``, or an operator on the way
            has no gradient rule.

    """
    copy = prepared(module)
    end, *sources = named_values(copy, [of, *wrt])
    edit = Editor(copy)
    seed = input_like(end, SEED, edit) if seeded else None
    before = set(copy.values())
    found = gradient(copy, of=end, wrt=sources, seed=seed)
    names = [f"{name}_grad" for name in wrt]
    outputs = [_called(name, value, before, edit) for name, value in zip(names, found, strict=True)]
    return with_outputs([end, *outputs], edit)


def named_values(module: GraphModule, names: Sequence[str]) -> list[ir.Value]:
    """Return the values of these names.

    Raises:
        ModelError: There is none of a name.

    """
    values = module.by_name()
    for name in names:
        if name not in values:
            raise ModelError(f"there is no value {name!r}", hint=did_you_mean(name, values))
    return [values[name] for name in names]


def input_like(value: ir.Value, name: str, edit: Editor) -> ir.Value:
    """Add an input of the type and shape of a value.

    Raises:
        ModelError: They are not known.

    """
    if value.dtype is None or value.shape is None:
        raise ModelError("its type and shape are not known", where=f"value {value.name!r}")
    return edit.add_input(name, value.dtype, value.shape, why=WHY)


def with_outputs(values: Sequence[ir.Value], edit: Editor) -> GraphModule:
    """Return the model with these outputs, and nothing else than they need."""
    edit.set_outputs(values, why=WHY)
    edit.apply(lambda model: RemoveUnusedNodesPass()(model).model, why="nothing depends on them")
    return edit.module


def _called(name: str, value: ir.Value, used: set[ir.Value], edit: Editor) -> ir.Value:
    """Return the value under this name; a copy of it if it is used under its own."""
    if value in used:
        return edit.behind(value, why=WHY).Identity(value, name=name)
    used.add(value)
    value.name = name
    return value
