"""Blocks with graphs inside: branches, loops, scans, and functions of the model's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxq.testing.generate.builder import Builder, Tensor
from onnxq.testing.generate.draws import once_in, pick

DOMAIN = "local.functions"


def branches(b: Builder, x: Tensor) -> Tensor:
    """If, whose branches read what is computed outside, with a weight of their own or a shared one."""
    condition = b.condition(pick(b.draws, ((), (1,))))
    shared = b.weight(x.shape[-1], x.shape[-1], fan_in=x.shape[-1], channel=1) if b.draws.below(2) else None
    graphs = []
    for prefix in ("then_", "else_"):
        inner = b.inside(prefix)
        weight = shared or inner.weight(x.shape[-1], x.shape[-1], fan_in=x.shape[-1], channel=1)
        y = inner.add("MatMul", x, weight)
        y = inner.add("Relu", y) if b.draws.below(2) else y
        graphs.append(inner.subgraph([y]))
    return b.add("If", condition, shape=x.shape, dtype=x.dtype, then_branch=graphs[0], else_branch=graphs[1])


def loop(b: Builder, x: Tensor) -> Tensor:
    """Loop twice over a layer."""
    inner = b.inside("body_")
    step = Tensor(inner.name("i"), (), TensorProto.INT64)
    going = Tensor(inner.name("going"), (), TensorProto.BOOL)
    state = replace(x, name=inner.name("state"))
    kept = inner.add("Identity", going)
    weight = inner.weight(x.shape[-1], x.shape[-1], fan_in=x.shape[-1], channel=1)
    y = inner.add("Tanh", inner.add("MatMul", state, weight))
    body = inner.subgraph([kept, y], [step, going, state])
    trips, start = b.value(np.array(2, np.int64)), b.value(np.array(True))
    return b.add("Loop", trips, start, x, shape=x.shape, dtype=x.dtype, body=body)


def scan(b: Builder, x: Tensor) -> Tensor:
    """Scan over the first axis, adding up."""
    inner = b.inside("scan_")
    row = x.shape[1:]
    state, part = (Tensor(inner.name(name), row, x.dtype) for name in ("sum", "row"))
    total = inner.add("Add", state, part)
    shown = inner.add("Identity", total)
    body = helper.make_graph(
        inner.nodes,
        inner.prefix,
        [helper.make_tensor_value_info(t.name, t.dtype, list(row)) for t in (state, part)],
        [helper.make_tensor_value_info(t.name, t.dtype, list(row)) for t in (total, shown)],
    )
    start = b.floats(np.zeros(row))
    last, result = Tensor(b.name("last"), row, x.dtype), Tensor(b.name("scanned"), x.shape, x.dtype)
    b.node("Scan", [start, x], [last, result], body=body, num_scan_inputs=1)
    return result


def function(b: Builder, x: Tensor) -> Tensor:
    """Call a function of the model once or twice, with its weight as an argument."""
    name = f"Block{len(b.functions)}"
    nodes = [
        helper.make_node("MatMul", ["in", "weight"], ["product"]),
        helper.make_node(pick(b.draws, ("Relu", "Tanh")), ["product"], ["out"]),
    ]
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(onnx.helper.make_function(DOMAIN, name, ["in", "weight"], ["out"], nodes, imports))
    width = x.shape[-1]
    y = x
    for _ in range(1 + once_in(b.draws, 2)):
        y = b.add(name, y, b.weight(width, width, fan_in=width, channel=1), domain=DOMAIN)
    return y
