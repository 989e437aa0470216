"""Take the mean error that quantization causes out of a layer's bias.

Before: ``y = Conv(x, w, b)``, ``encode w``. After: ``y = Conv(x, w, b')`` with ``b' = b - e``, where ``e`` is
how far the mean of each output channel moves.

``analytic`` computes it: ``e = (w_q - w) E[x]``, where ``w_q`` is the weight that its encoding restores and
``E[x]`` the mean of each input channel, measured on the calibration data. It is the error of the weight
alone, exact up to padded borders, where fewer inputs count. ``assumed`` does the same without data, where
``assume-batch-norms`` has found ``E[x]`` in the model. ``empirical`` measures it: ``e = E[y_q] - E[y]``,
where ``y_q`` is what the layer computes from its quantized input and weight, with all layers before it
quantized and corrected. So it takes in what the grids of the activations cut off, too; it needs one more run
over the data for each layer on the longest path.

Source: Nagel et al., 2021, arXiv:2106.08295, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.channels import Operand
from onnxq.analysis.endpoints import bias_place
from onnxq.analysis.layers import Layer, linear_layers
from onnxq.errors import CalibrationError
from onnxq.ir.digest import graph_digest
from onnxq.ir.module import GraphModule, array_of, attribute, name_of, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.bias_correction import mean_output, rounding_error
from onnxq.quant.facts import Facts, Need
from onnxq.quant.statistics import Mean
from onnxq.rewrite.edit import Editor

MEAN = frozenset({Mean})
REALISE, CUT = "fit-biases, encode-biases, insert-qdq", "remove-dead"
DIGITS = 12
"""Of the digest, 48 bits."""


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Correct each layer whose weight is encoded; run it before the biases are.

    Options:
        method: ``analytic``, from the mean input and the rounded weight; ``assumed``, the same where the mean
            is known without data; or ``empirical``, from the mean outputs of the model as far as it is
            quantized.

    """

    name: ClassVar[str] = "correct-bias"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    method: Literal["analytic", "assumed", "empirical"] = "analytic"

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the mean of each channel that a layer reads, or computes in float."""
        return self._needs(_encoded_layers(module))

    def foresees(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the means around every layer, as all may be encoded."""
        return self._needs(linear_layers(module))

    def _needs(self, layers: Iterable[Layer]) -> Iterator[Need]:
        for layer in layers:
            if bias_place(layer) is None:
                continue
            if self.method == "analytic":
                yield Need(name_of(layer.activation), MEAN, axis=layer.input_axis)
            elif self.method == "empirical":
                yield Need(name_of(layer.output), MEAN, axis=layer.output_axis)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Give each layer a bias of its own; a Conv or Gemm without a bias gets the correction alone."""
        if self.method != "empirical":
            for layer, bias in _correctable(_encoded_layers(module), ctx):
                _correct_by_weight(layer, bias, module, ctx)
            return
        depths = _depths(module)
        layers = list(_correctable(_encoded_layers(module), ctx))
        for depth in sorted({depths[layer.output] for layer, _ in layers}):
            level = [(layer, bias) for layer, bias in layers if depths[layer.output] == depth]
            _correct_by_output(level, module, ctx)


def _encoded_layers(module: GraphModule) -> Iterator[Layer]:
    for layer in linear_layers(module):
        if layer.node.op_type != "ConvTranspose" and module.reads_encoded(layer.node, layer.weight):
            yield layer


def _correctable(layers: Iterable[Layer], ctx: PassContext) -> Iterator[tuple[Layer, Operand]]:
    """Yield the layers that have a place for a correction, as they are when it is their turn."""
    for layer in list(layers):
        bias = bias_place(layer)
        if bias is None:
            ctx.skip(layer.node, "it has no constant bias, and no place for one")
        else:
            yield layer, bias


def _correct_by_weight(layer: Layer, bias: Operand, module: GraphModule, ctx: PassContext) -> None:
    mean, encoding = _mean_of(layer.activation, layer.input_axis, module), module.encoding_at(layer.node, 1)
    if mean is None or encoding is None:
        ctx.skip(layer.node, "the mean of its input is not known")
        return
    if layer.node.op_type == "MatMul" and rank_of(layer.weight) != 2:
        ctx.skip(layer.node, "it has a matrix for each part of its input, whose own mean is not known")
        return
    error = np.moveaxis(rounding_error(array_of(layer.weight), encoding), layer.channel_axis, 0)
    if len(mean) != error.shape[1] * attribute(layer.node, "group", 1):
        ctx.skip(layer.node, "its input is a vector, of which no mean is known")
        return
    _subtract(layer, bias, mean_output(error, mean), ctx)


def _mean_of(value: ir.Value, axis: int, module: GraphModule) -> NDArray[np.float32] | None:
    """Return the mean of each channel along ``axis``; None if it is not known, or not finite."""
    facts = module.facts_of(value)
    mean = None if facts is None else _mean(facts, axis)
    return mean if mean is not None and np.isfinite(mean).all() else None


def _mean(facts: Facts, axis: int) -> NDArray[np.float32] | None:
    known = facts.get(Mean, axis)
    return None if known is None else known.values


def _correct_by_output(level: list[tuple[Layer, Operand]], module: GraphModule, ctx: PassContext) -> None:
    """Correct layers that do not read each other, from one run of everything before them."""
    means = _quantized_means([layer for layer, _ in level], module, ctx)
    for (layer, bias), after in zip(level, means, strict=True):
        before = _mean_of(layer.output, layer.output_axis, module)
        if before is None or after is None or len(before) != bias.channels.count or np.isinf(after).any():
            ctx.skip(layer.node, "the mean of its output is not known")
            continue
        _subtract(layer, bias, after.astype(np.float64) - before, ctx)


def _quantized_means(
    layers: Sequence[Layer], module: GraphModule, ctx: PassContext
) -> list[NDArray[np.float32] | None]:
    """Measure the mean outputs of ``layers`` in a copy of the module that is quantized up to them.

    The measured values are named after the copy's digest: a table of facts then holds them for this copy.
    """
    if ctx.measure is None:
        raise CalibrationError(
            "the quantized model has to be measured, and there is no data",
            where=f"pass {CorrectBias.name}",
            hint="give calibration data, or use correct-bias{method=analytic}",
        )
    digest = graph_digest(module)[:DIGITS]
    copy = module.clone()
    inner = PassContext(Editor(copy), ctx.target, ctx.rng)
    _run(REALISE, copy, inner)
    nodes = {node.name: node for node in copy.graph}
    names = {layer.node.name: f"{layer.output.name}_quantized_{digest}" for layer in layers}
    probes = [_probe(nodes[node], name, inner) for node, name in names.items()]
    inner.edit.set_outputs(probes, why="they alone are measured")
    _run(CUT, copy, inner)
    needs = [Need(name_of(p), MEAN, layer.output_axis) for p, layer in zip(probes, layers, strict=True)]
    found = ctx.measure(copy, needs)
    return [_mean(found[need.value], need.axis) for need in needs]


def _run(pipeline: str, module: GraphModule, ctx: PassContext) -> None:
    for pass_ in parse_pipeline(pipeline):
        pass_.run(module, ctx)


def _probe(node: ir.Node, name: str, ctx: PassContext) -> ir.Value:
    """Give what a node computes, before it is quantized, a name of its own."""
    output, why = node.outputs[0], "the mean is taken here"
    return ctx.edit.behind(output, why=why).Identity(output, name=name)


def _depths(module: GraphModule) -> dict[ir.Value, int]:
    """Return for each computed value how many encoded layers lie on the longest path to it."""
    layers = {layer.node for layer in _encoded_layers(module)}
    depths: dict[ir.Value, int] = {}
    for node in module.graph:
        depth = max((depths.get(value, 0) for value in node.inputs if value is not None), default=0)
        depths |= dict.fromkeys(node.outputs, depth + (node in layers))
    return depths


def _subtract(layer: Layer, bias: Operand, shift: NDArray[np.float64], ctx: PassContext) -> None:
    why = "the mean error of quantization is taken out"
    old: NDArray[Any] = np.zeros(1) if bias.constant is None else bias.constant
    new = (old - bias.spread(shift)).astype(np.float32)
    value = ctx.edit.constant(f"{layer.output.name}_bias", new, why=why)
    ctx.edit.rewire(bias.node, bias.index, value, why=why)
