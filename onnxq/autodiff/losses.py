"""Which losses a model is taken to be trained on, where nobody says."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxq.autodiff.seeds import Head
from onnxq.ir.module import GraphModule, attribute, is_standard, rank_of


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

    Behind a Softmax over the last axis it is cross entropy, of the logits that the Softmax reads; of every
    other output it is half the squared error.
    """
    found = [_loss(value) for value in module.graph.outputs if _is_float(value)]
    return list(dict.fromkeys(found))


def _loss(output: ir.Value) -> Loss:
    maker = output.producer()
    if maker is not None and is_standard(maker, "LogSoftmax", "Softmax") and maker.inputs[0] is not None:
        axis, rank = attribute(maker, "axis", -1), rank_of(output)
        if axis == -1 or axis + 1 == rank:
            return Loss(maker.inputs[0], "softmax")
    return Loss(output, "regression")


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()
