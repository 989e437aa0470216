"""Random models: blocks are stacked on values of known shape, and some values become outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxq.testing.generate import linear, nested, pointwise, shapes
from onnxq.testing.generate.builder import Array, Builder, Sample, Tensor
from onnxq.testing.generate.draws import Draws, SeededDraws, once_in, pick

OPSETS = (17, 13, 21, 11, 12, 14, 15, 16, 18, 19, 20, 22, 23, 24, 25)
MAX_BLOCKS = 7
MAX_RANK = 5
MAX_ELEMENTS = 2048
"""Larger values are not built upon."""


@dataclass(frozen=True)
class Block:
    """Something that can be stacked on a value.

    Args:
        build: Appends nodes and returns the result.
        ranks: The numbers of axes that it takes.
        spatial: Whether an axis without elements would be refused, or ONNX Runtime has no kernel for double.
        weight: How often it is drawn.

    """

    build: Callable[[Builder, Tensor], Tensor]
    ranks: tuple[int, ...] = (1, 2, 3, 4, 5)
    spatial: bool = False
    weight: int = 1


SPACE = (3, 4, 5)
BLOCKS = (
    Block(linear.matmul, (2, 3, 4), weight=3),
    Block(linear.conv, SPACE, spatial=True, weight=4),
    Block(linear.conv_batch_norm, SPACE, spatial=True, weight=3),
    Block(linear.gemm, (2,), weight=4),
    Block(pointwise.relu, weight=2),
    Block(pointwise.activation),
    Block(pointwise.clip),
    Block(pointwise.hard_swish),
    Block(pointwise.gelu),
    Block(pointwise.silu),
    Block(pointwise.prelu, (2, 3, 4), spatial=True),
    Block(pointwise.softmax),
    Block(pointwise.with_constant, weight=2),
    Block(pointwise.with_another, weight=3),
    Block(pointwise.where),
    Block(pointwise.identity),
    Block(pointwise.cast_and_back),
    Block(pointwise.root),
    Block(linear.conv_transpose, SPACE, spatial=True),
    Block(linear.matmul_left, (2, 3)),
    Block(linear.matmul_vector, (2, 3)),
    Block(linear.matmul_stack, (3, 4)),
    Block(linear.matmul_squares, (2, 3)),
    Block(linear.batch_norm, (2, 3, 4), spatial=True),
    Block(linear.layer_norm, (2, 3), weight=2),
    Block(linear.rms_norm, (2, 3)),
    Block(linear.attention, (3,), weight=2),
    Block(linear.tied_table, (2, 3)),
    Block(linear.gated, (2, 3)),
    Block(linear.squeeze_excite, (4,), spatial=True),
    Block(shapes.transpose, weight=2),
    Block(shapes.reshape, weight=2),
    Block(shapes.unsqueeze, (1, 2, 3, 4)),
    Block(shapes.squeeze, (2, 3, 4, 5)),
    Block(shapes.slice_),
    Block(shapes.split),
    Block(shapes.concat),
    Block(shapes.pad),
    Block(shapes.gather),
    Block(shapes.pick_first, (2, 3, 4)),
    Block(shapes.reduce),
    Block(shapes.expand, (1, 2, 3, 4)),
    Block(shapes.pool, SPACE, spatial=True),
    Block(shapes.resize, (4,), spatial=True),
    Block(shapes.depth_to_space, (4,), spatial=True),
    Block(nested.branches, (2, 3)),
    Block(nested.loop, (2, 3)),
    Block(nested.scan, (2, 3)),
    Block(nested.function, (2, 3)),
)


def seeded_sample(seed: int) -> Sample:
    """Return the model that belongs to a seed."""
    return random_sample(SeededDraws(seed))


def random_sample(draws: Draws) -> Sample:
    """Return a random model of a few blocks with one batch of feeds.

    It is valid ONNX; whether ONNX Runtime has its kernels, and finite results, has to be tried.
    """
    opset = pick(draws, OPSETS)
    rare = once_in(draws, 8)
    dtype = pick(draws, (TensorProto.FLOAT16, TensorProto.DOUBLE)) if rare else TensorProto.FLOAT
    b = Builder(draws, opset, dtype, clashing=once_in(draws, 4))
    x = _input(b)
    b.tensors.append(x)
    for _ in range(1 + draws.below(MAX_BLOCKS)):
        x = b.tensors[-1] if draws.below(4) else pick(draws, b.tensors)
        y = pick(draws, [block for block in _fitting(b, x) for _ in range(block.weight)]).build(b, x)
        if y is not x and int(np.prod(y.shape)) <= MAX_ELEMENTS and y.rank <= MAX_RANK:
            b.tensors.append(y)
    return Sample(_model(b), dict(b.feeds))


def _input(b: Builder) -> Tensor:
    batch = pick(b.draws, (2, 1, 3))
    shape = pick(
        b.draws, ((batch, 8), (batch, 4, 6, 6), (batch, 5, 8), (batch, 3, 7), (batch, 2, 3, 4, 3), (8,), ())
    )
    if len(shape) == 3 and once_in(b.draws, 3):
        table = b.weight(10, shape[-1])
        return b.add("Gather", table, b.ids(shape[:-1], 10), shape=shape, dtype=b.dtype)
    return b.data(*shape)


def _fitting(b: Builder, x: Tensor) -> Iterator[Block]:
    strict = 0 in x.shape or b.dtype == TensorProto.DOUBLE
    for block in BLOCKS:
        if x.rank in block.ranks and not (strict and block.spatial):
            yield block
    if x.rank == 0:
        yield from (Block(pointwise.relu), Block(pointwise.activation), Block(pointwise.clip))


def _model(b: Builder) -> onnx.ModelProto:
    outputs = _outputs(b)
    listed = once_in(b.draws, 10)
    """Whether initializers are inputs too, as they had to be up to IR version 3."""
    inputs = [_declared(t, _symbol(b, t)) for t in b.inputs]
    inputs += [_declared(_stored(name, array)) for name, array in b.initializers.items() if listed]
    graph = helper.make_graph(
        b.nodes,
        "random",
        inputs,
        [_declared(t, pick(b.draws, (None, ""))) for t in outputs],
        [numpy_helper.from_array(array, name) for name, array in b.initializers.items()],
    )
    imports = [helper.make_opsetid("", b.opset)]
    imports += [helper.make_opsetid(nested.DOMAIN, 1)] if b.functions else []
    ir_version = 3 if listed and not b.functions else pick(b.draws, (8, 10))
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=b.functions)


def _symbol(b: Builder, tensor: Tensor) -> str | None:
    """Return what to call an input's first axis; a name that stands for one size is given to no other."""
    symbol = pick(b.draws, ("N", "", None))
    named = next((t for t in b.inputs if t.shape), tensor)
    return "" if symbol == "N" and tensor.shape[:1] != named.shape[:1] else symbol


def _stored(name: str, array: Array) -> Tensor:
    return Tensor(name, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))


def _declared(tensor: Tensor, batch: str | None = None) -> onnx.ValueInfoProto:
    """Declare a value; ``batch`` names its first axis, whose size is unknown if it is the empty text."""
    shape: list[int | str | None] = list(tensor.shape)
    if batch is not None and shape:
        shape[0] = batch or None
    return helper.make_tensor_value_info(tensor.name, tensor.dtype, shape)


def _outputs(b: Builder) -> list[Tensor]:
    """Return what nobody reads, and now and then more: inner values, inputs, initializers."""
    read = {name for node in b.nodes for name in node.input}
    made = {name for node in b.nodes for name in node.output}
    found = [t for t in b.tensors if t.name not in read] or b.tensors[-1:]
    found = [t for t in found if t.name in made] or [b.add("Identity", b.tensors[-1])]
    if once_in(b.draws, 4):
        found.append(pick(b.draws, b.tensors))
    if once_in(b.draws, 20):
        found += [t for t in b.weights if t.name in b.initializers][:1]
    if once_in(b.draws, 10):
        found.append(b.add("Identity", found[0]))
    return list({t.name: t for t in found}.values())
