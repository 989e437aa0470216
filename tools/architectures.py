"""Architectures as ONNX, with random weights: their speed, not their answers.

BERT-base and ViT-base follow Devlin et al., 2018, arXiv:1810.04805, and Dosovitskiy et al., 2020,
arXiv:2010.11929: 12 layers of 768 values, 12 heads and 3072 hidden values; 30522 tokens, or 16x16 patches of
224x224 pixels. resnet50 follows He et al., 2015, arXiv:1512.03385, its norms folded into the convolutions.
The decoder step is a slice of a language model of about a billion weights: layers of 2048 values, 16 heads
and 8192 hidden values, one new token, the keys and values of those before, and a mask of padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
STEP_WIDTH, STEP_HEADS, STEP_HIDDEN, STEP_LAYERS, STEP_TOKENS = 2048, 16, 8192, 4, 32000
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Inner channels and blocks of resnet50's stages."""
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

    def norm(self, x: str, width: int = WIDTH) -> str:
        """Normalize each row, with weights of their starting values."""
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
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

    def feed_forward(self, x: str, width: int = WIDTH, hidden: int = HIDDEN) -> str:
        """Apply the two wide layers."""
        return self.linear(self.add("Gelu", self.linear(x, width, hidden)), hidden, width)

    def conv(self, x: str, channels: tuple[int, int], size: int, stride: int = 1) -> str:
        """Convolve with a square kernel that keeps the image's size, up to the stride."""
        spread = 1 / (size * channels[0] ** 0.5)
        kernel = self.rng.normal(0, spread, (channels[1], channels[0], size, size)).astype(np.float32)
        pads = [size // 2] * 4
        bias = self.weight(channels[1])
        return self.add("Conv", x, self.constant(kernel), bias, strides=[stride] * 2, pads=pads)

    def save(
        self, path: Path, inputs: Sequence[onnx.ValueInfoProto], output: str, shape: Sequence[str | int]
    ) -> None:
        """Write the model with one output."""
        self.save_all(path, inputs, {output: shape})

    def save_all(
        self, path: Path, inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[str | int]]
    ) -> None:
        """Write the model with outputs of these names and shapes; weights are handed over, and gone here."""
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, one) for name, one in shapes.items()
        ]
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
        while self.initializers:  # one by one: each way of passing them on is a copy of all
            model.graph.initializer.append(self.initializers.pop(0))
        onnx.save(model, path)


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
    """Return 0 where the mask is 1 and the lowest number where it is 0, of shape (N, 1, 1, T)."""
    mask = net.add("Unsqueeze", "attention_mask", net.integers(1, 2))
    absent = net.add(
        "Sub", net.constant(np.array(1, np.float32)), net.add("Cast", mask, to=TensorProto.FLOAT)
    )
    return net.add("Mul", absent, net.constant(np.array(np.finfo(np.float32).min)))


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


def resnet50(path: Path, blocks: int | None = None, seed: int = 0) -> None:
    """Write a classifier of images, float32 (N, 3, 224, 224), to logits (N, 1000).

    Of each stage only the first ``blocks`` are written, if that is given.
    """
    net = Builder(np.random.default_rng(seed))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, PIXELS, PIXELS])]
    x = net.add("Relu", net.conv("images", (3, 64), 7, stride=2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (inner, count) in enumerate(STAGES):
        for block in range(min(count, blocks or count)):
            x = _bottleneck(net, x, channels, inner, stride=1 + (stage > 0 and block == 0))
            channels = 4 * inner
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    logits = net.add("Gemm", x, net.weight(channels, CLASSES), net.weight(CLASSES))
    net.save(path, inputs, logits, ["batch", CLASSES])


def _bottleneck(net: Builder, x: str, channels: int, inner: int, stride: int) -> str:
    """Return three convolutions around a narrow middle, added to their input."""
    y = net.add("Relu", net.conv(x, (channels, inner), 1))
    y = net.add("Relu", net.conv(y, (inner, inner), 3, stride))
    y = net.conv(y, (inner, 4 * inner), 1)
    shortcut = x if channels == 4 * inner and stride == 1 else net.conv(x, (channels, 4 * inner), 1, stride)
    return net.add("Relu", net.add("Add", y, shortcut))


def decoder_step(path: Path, layers: int = STEP_LAYERS, seed: int = 0) -> None:
    """Write one step of a decoder: of token ids, a mask, and each layer's keys and values of P tokens.

    Ids are int64 (N, 1), the mask is int64 (N, P + 1), 1 for what counts. Keys and values are float32
    (N, heads, P, size), and come out with the new token's, under names with ``present`` for ``past``;
    logits are (N, 1, tokens).
    """
    net = Builder(np.random.default_rng(seed))
    size = STEP_WIDTH // STEP_HEADS
    past: list[str | int] = ["batch", STEP_HEADS, "past", size]
    names = [f"past_{part}_{layer}" for layer in range(layers) for part in ("key", "value")]
    tokens: dict[str, list[str | int]] = {"input_ids": ["batch", 1], "attention_mask": ["batch", "total"]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, one) for name, one in tokens.items()]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, past) for name in names]
    x, mask = net.add("Gather", net.weight(STEP_TOKENS, STEP_WIDTH), "input_ids"), _additive_mask(net)
    for layer in range(layers):
        x = net.add("Add", _cached_attention(net, net.norm(x, STEP_WIDTH), mask, layer), x)
        x = net.add("Add", net.feed_forward(net.norm(x, STEP_WIDTH), STEP_WIDTH, STEP_HIDDEN), x)
    logits = net.add("MatMul", net.norm(x, STEP_WIDTH), net.weight(STEP_WIDTH, STEP_TOKENS))
    present: list[str | int] = ["batch", STEP_HEADS, "total", size]
    outputs = {name.replace("past", "present"): present for name in names}
    net.save_all(path, inputs, {logits: ["batch", 1, STEP_TOKENS], **outputs})


def _cached_attention(net: Builder, x: str, mask: str, layer: int) -> str:
    """Attend from the new token to all, whose keys and values it adds its own to."""
    size = STEP_WIDTH // STEP_HEADS
    split = net.integers(0, 0, STEP_HEADS, size)
    q, k, v = (
        net.add(
            "Transpose", net.add("Reshape", net.linear(x, STEP_WIDTH, STEP_WIDTH), split), perm=[0, 2, 1, 3]
        )
        for _ in range(3)
    )
    for part, new in (("key", k), ("value", v)):
        names = [f"past_{part}_{layer}", new], [f"present_{part}_{layer}"]
        net.nodes.append(helper.make_node("Concat", *names, name=names[1][0], axis=2))
    keys = net.add("Transpose", f"present_key_{layer}", perm=[0, 1, 3, 2])
    scores = net.add("Mul", net.add("MatMul", q, keys), net.constant(np.array(size**-0.5, np.float32)))
    weights = net.add("Softmax", net.add("Add", scores, mask), axis=-1)
    mixed = net.add("MatMul", weights, f"present_value_{layer}")
    mixed = net.add("Reshape", net.add("Transpose", mixed, perm=[0, 2, 1, 3]), net.integers(0, 0, STEP_WIDTH))
    return net.linear(mixed, STEP_WIDTH, STEP_WIDTH)
