"""What passes share that write several operators as one: the operator set that knows that one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.raising import move_to_opset


def raise_for(
    nodes: Sequence[ir.Node], version: int, module: GraphModule, ctx: PassContext, *, why: str
) -> bool:
    """Raise the operator set to what fusing ``nodes`` wants, and tell whether it is there.

    Where it cannot be raised, ``nodes`` are noted as left alone. Raising makes new nodes and values.
    """
    if module.opset >= version or not nodes:
        return True
    try:
        move_to_opset(module, version, ctx, why=why)
    except ModelError as error:
        for node in nodes:
            ctx.skip(node, error.message)
        return False
    return True
