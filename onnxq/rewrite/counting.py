"""Counting what flags of tokens say, for operators that want lengths."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.ir.module import name_of
from onnxq.rewrite.builder import Builder


def count_flags(flags: ir.Value, op: Builder) -> ir.Value:
    """Return how many of the flags (batch, tokens) of each sample are not 0: int32 of shape (batch,)."""
    name, boolean = name_of(flags), ir.DataType.BOOL
    truths = flags if flags.dtype is boolean else op.Cast(flags, to=boolean, name=f"{name}_bool")
    whole = op.Cast(truths, to=ir.DataType.INT32, name=f"{name}_int32")
    return op.ReduceSum(whole, [1], keepdims=0, name=f"{name}_lengths")
