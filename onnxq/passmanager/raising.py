"""Carrying a module over to another operator set, as far as the runtime follows."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.ir.inference import infer_types, types_known
from onnxq.ir.module import GraphModule, is_standard
from onnxq.ir.schema import body_of
from onnxq.kernels import KernelList
from onnxq.passmanager.base import PassContext
from onnxq.rewrite.opset import OpsetError, convert_opset


def move_to_opset(module: GraphModule, version: int, ctx: PassContext, *, why: str) -> None:
    """Carry the module over to operator set ``version``. This makes new nodes and values.

    Raises:
        OpsetError: A node cannot be carried over, or would lose the kernel that runs it.

    """
    model = convert_opset(module.model, version)
    if ctx.kernels is not None:
        here, there = ctx.kernels(), ctx.target.kernels
        for lists in ([here], [here, there]) if there is not None else ([here],):
            for node in _lost_kernels(module.model, model, lists):
                text = (
                    f"operator set {version} has no kernel for {node.op_type} in the installed ONNX Runtime"
                )
                raise OpsetError(text, node)
    ctx.edit.apply(lambda _: model, why=why)


def _lost_kernels(before: ir.Model, after: ir.Model, lists: list[KernelList]) -> list[ir.Node]:
    """Return the nodes of ``after`` that no kernel runs, unless none ran them before."""
    without = _without_kernel(after, lists)
    if not without:
        return []
    left = {node.name for node in _without_kernel(before, lists)}
    return [node for node in without if node.name not in left]


def _without_kernel(model: ir.Model, lists: list[KernelList]) -> list[ir.Node]:
    """Return the nodes that no kernel runs, by their types as far as they can be inferred."""
    known = types_known(model.graph.all_nodes())
    typed, opset = model if known else infer_types(model.clone()), model.opset_imports.get("", 0)
    return [node for node in typed.graph.all_nodes() if not _runs(node, opset, lists)]


def _runs(node: ir.Node, opset: int, lists: list[KernelList]) -> bool:
    """Tell whether there is a kernel for the node, or else one for all that its operator is made of."""
    if is_standard(node, "Constant") or any(_has_kernel(node, opset, one) for one in lists):
        return True
    body = body_of(node, opset)
    return body is not None and all(_runs(part, opset, lists) for part in body.all_nodes())


def _has_kernel(node: ir.Node, opset: int, kernels: KernelList) -> bool:
    """Tell whether a kernel runs the node; where none takes float16, ONNX Runtime casts to float and back."""
    return any(kernels.lacks(node, opset, dtype_of) is None for dtype_of in (_dtype, _wide_dtype))


def _dtype(value: ir.Value) -> ir.DataType | None:
    return value.dtype


def _wide_dtype(value: ir.Value) -> ir.DataType | None:
    return ir.DataType.FLOAT if value.dtype == ir.DataType.FLOAT16 else value.dtype
