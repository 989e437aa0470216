"""Constant nodes and initializers: two ways to write the same thing, of which passes want one."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass


def lift_constants(model: ir.Model) -> ir.Model:
    """Make an initializer of every Constant node, those of subgraphs included; return the model."""
    return LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).model
