"""Carrying a module over to another operator set, as far as the runtime follows."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxq.ir.module import GraphModule, is_standard
from onnxq.ir.opset import OpsetError, convert_opset
from onnxq.ir.schema import body_of
from onnxq.kernels import KernelList
from onnxq.passmanager.base import PassContext


def move_to_opset(module: GraphModule, version: int, ctx: PassContext, *, why: str) -> None:
    """Carry the module over to operator set ``version``. This makes new nodes and values.

    Raises:
        OpsetError: A node cannot be carried over, or would lose the kernel that runs it.

    """
    model = convert_opset(module.model, version)
    if ctx.kernels is not None:
        lists = [ctx.kernels(), *([ctx.target.kernels] if ctx.target.kernels is not None else [])]
        left = {node.name for node in _without_kernel(module.model, lists)}
        for node in _without_kernel(model, lists):
            if node.name not in left:
                text = (
                    f"operator set {version} has no kernel for {node.op_type} in the installed ONNX Runtime"
                )
                raise OpsetError(text, node)
    ctx.edit.apply(lambda _: model, why=why)


def _without_kernel(model: ir.Model, lists: list[KernelList]) -> Iterator[ir.Node]:
    opset = model.opset_imports.get("", 0)
    return (node for node in model.graph.all_nodes() if not _runs(node, opset, lists))


def _runs(node: ir.Node, opset: int, lists: list[KernelList]) -> bool:
    """Tell whether there is a kernel for the node, or else one for all that its operator is made of."""
    if is_standard(node, "Constant") or any(one.lacks(node, opset) is None for one in lists):
        return True
    body = body_of(node, opset)
    return body is not None and all(_runs(part, body.opset_imports[""], lists) for part in body.all_nodes())
