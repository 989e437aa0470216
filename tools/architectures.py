"""The architectures of BERT-base and ViT-base as ONNX, with random weights: their speed, not their answers.

Shapes follow Devlin et al., 2018, arXiv:1810.04805, and Dosovitskiy et al., 2020, arXiv:2010.11929: 12 layers
of 768 values, 12 heads and 3072 hidden values; 30522 tokens, or 16x16 patches of 224x224 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, HIDDEN, LAYERS = 768, 12, 3072, 12
TOKENS, POSITIONS, TYPES = 30522, 512, 2
PIXELS, PATCH, CLASSES = 224, 16, 1000
OPSET, IR_VERSION = 21, 10
SPREAD = 0.02
"""Standard deviation of the weights, as both papers' code starts with."""


@dataclass
class Builder:
    """A graph that grows node by node."""

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return its output."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """Return the name of a constant."""
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Return the name of a constant vector of int64."""
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int) -> str:
        """Return the name of random weights."""
        return self.constant(self.rng.normal(0, SPREAD, shape).astype(np.float32))

    def linear(self, x: str, rows: int, columns: int) -> str:
        """Multiply by a weight and add a bias."""
        return self.add("Add", self.add("MatMul", x, self.weight(rows, columns)), self.weight(columns))

    def norm(self, x: str) -> str:
        """Normalize each row, with weights of their starting values."""
        ones, zeros = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
        return self.add(
            "LayerNormalization", x, self.constant(ones), self.constant(zeros), axis=-1, epsilon=1e-12
        )

    def attention(self, x: str, mask: str | None) -> str:
        """Attend with 12 heads, and project."""
        split, size = self.integers(0, 0, HEADS, WIDTH // HEADS), WIDTH // HEADS
        q, k, v = (self.add("Reshape", self.linear(x, WIDTH, WIDTH), split) for _ in range(3))
        q, v = (self.add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        scores = self.add("MatMul", q, self.add("Transpose", k, perm=[0, 2, 3, 1]))
        scores = self.add("Mul", scores, self.constant(np.array(size**-0.5, np.float32)))
        scores = scores if mask is None else self.add("Add", scores, mask)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        mixed = self.add("Transpose", mixed, perm=[0, 2, 1, 3])
        return self.linear(self.add("Reshape", mixed, self.integers(0, 0, WIDTH)), WIDTH, WIDTH)

    def feed_forward(self, x: str) -> str:
        """Apply the two wide layers."""
        return self.linear(self.add("Gelu", self.linear(x, WIDTH, HIDDEN)), HIDDEN, WIDTH)

    def save(
        self, path: Path, inputs: Sequence[onnx.ValueInfoProto], output: str, shape: Sequence[str | int]
    ) -> None:
        """Write the model with one output."""
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, self.initializers)
        opset = [helper.make_opsetid("", OPSET)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION), path)


def bert_base(path: Path, layers: int = LAYERS, seed: int = 0) -> None:
    """Write an encoder of token ids and mask, each int64 (N, T), T up to 512, to float32 (N, T, 768)."""
    net = Builder(np.random.default_rng(seed))
    shape = ["batch", "sequence"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    length = net.add("Shape", "input_ids", start=1, end=2)
    zero = net.integers(0)
    positions = net.add("Slice", net.weight(POSITIONS, WIDTH), zero, length, zero)
    words = net.add("Gather", net.weight(TOKENS, WIDTH), "input_ids")
    kinds = net.add("Gather", net.weight(TYPES, WIDTH), "token_type_ids")
    x = net.norm(net.add("Add", net.add("Add", words, kinds), positions))
    mask = _additive_mask(net)
    for _ in range(layers):
        x = net.norm(net.add("Add", net.attention(x, mask), x))
        x = net.norm(net.add("Add", net.feed_forward(x), x))
    net.save(path, inputs, x, [*shape, WIDTH])


def _additive_mask(net: Builder) -> str:
    """Return 0 where the mask is 1 and a large negative number where it is 0, of shape (N, 1, 1, T)."""
    mask = net.add("Unsqueeze", "attention_mask", net.integers(1, 2))
    absent = net.add(
        "Sub", net.constant(np.array(1, np.float32)), net.add("Cast", mask, to=TensorProto.FLOAT)
    )
    return net.add("Mul", absent, net.constant(np.array(-1e4, np.float32)))


def vit_base(path: Path, layers: int = LAYERS, seed: int = 0) -> None:
    """Write a classifier of images, float32 (N, 3, 224, 224), to logits (N, 1000)."""
    net = Builder(np.random.default_rng(seed))
    shape: list[str | int] = ["batch", 3, PIXELS, PIXELS]
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)]
    x = _patches(net)
    for _ in range(layers):
        x = net.add("Add", net.attention(net.norm(x), None), x)
        x = net.add("Add", net.feed_forward(net.norm(x)), x)
    first = net.add("Gather", net.norm(x), net.constant(np.array(0, np.int64)), axis=1)
    logits = net.add("Gemm", first, net.weight(WIDTH, CLASSES), net.weight(CLASSES))
    net.save(path, inputs, logits, ["batch", CLASSES])


def _patches(net: Builder) -> str:
    """Return the class token and the patches with their positions, of shape (N, 197, 768)."""
    count = (PIXELS // PATCH) ** 2
    kernel = net.weight(WIDTH, 3, PATCH, PATCH)
    x = net.add("Conv", "pixel_values", kernel, net.weight(WIDTH), strides=[PATCH, PATCH])
    x = net.add("Transpose", net.add("Reshape", x, net.integers(0, WIDTH, count)), perm=[0, 2, 1])
    batch = net.add("Shape", x, start=0, end=1)
    rows = net.add("Concat", batch, net.integers(1, WIDTH), axis=0)
    token = net.add("Expand", net.weight(1, 1, WIDTH), rows)
    return net.add("Add", net.add("Concat", token, x, axis=1), net.weight(1, count + 1, WIDTH))
