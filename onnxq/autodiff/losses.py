"""Which losses a model is taken to be trained on."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxq.autodiff.seeds import Head
from onnxq.ir.knowledge import classified
from onnxq.ir.module import GraphModule, attribute, is_standard, name_of, rank_of


@dataclass(frozen=True)
class Loss:
    """One term of the loss.

    Args:
        value: What it depends on.
        head: How: see ``fisher_model``.

    """

    value: ir.Value
    head: Head


def losses(module: GraphModule) -> list[Loss]:
    """Return the terms, one for each output of floats, in their order.

    Behind a Softmax over the last axis it is cross entropy, of the logits that the Softmax reads, and of an
    output that was said to hold logits (``Editor.classify``) likewise; of every other output it is half the
    squared error.
    """
    said = classified(module.graph)
    found = [_loss(value, name_of(value) in said) for value in module.graph.outputs if _is_float(value)]
    return list(dict.fromkeys(found))


def _loss(output: ir.Value, holds_logits: bool) -> Loss:
    maker = output.producer()
    if maker is not None and is_standard(maker, "LogSoftmax", "Softmax") and maker.inputs[0] is not None:
        axis, rank = attribute(maker, "axis", -1), rank_of(output)
        if axis == -1 or axis + 1 == rank:
            return Loss(maker.inputs[0], "softmax")
    return Loss(output, "softmax" if holds_logits else "regression")


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()
