"""The gradients of operators: ``s.g`` is that of the output, ``s.x`` the first input, ``s.y`` the output.

Sources:
    Baydin et al., 2018, arXiv:1502.05767 (automatic differentiation); for what is quantized Bengio et al.,
    2013, arXiv:1308.3432 (straight through), and Esser et al., 2020, arXiv:1902.08153 (scales).

"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxq.autodiff import convolution, moving, norms, pooling, products, quantization, reductions, resizing
from onnxq.autodiff.elementwise import (
    clip,
    clip_bound,
    gelu,
    hard_sigmoid,
    hard_swish,
    log_softmax,
    picked,
    power,
    softmax,
)
from onnxq.autodiff.reductions import reduced_by, spread
from onnxq.autodiff.shapes import count_ratio, expanded
from onnxq.autodiff.step import Rule, broadcasting, of_inputs, variadic

RULES: Mapping[str, Rule] = {
    # numbers
    "Add": broadcasting(lambda s: s.g, lambda s: s.g),
    "Sub": broadcasting(lambda s: s.g, lambda s: -s.g),
    "Mul": broadcasting(lambda s: s.g * s[1], lambda s: s.g * s[0]),
    "Div": broadcasting(lambda s: s.g / s[1], lambda s: -(s.g * s.y / s[1])),
    "Pow": broadcasting(power, lambda s: (s.g * s.y * s.x.Log()).where(s.x > 0)),
    "Sum": variadic(lambda s, _: s.g),
    "Mean": variadic(lambda s, _: s.g / float(len(s.node.inputs))),
    "Max": variadic(picked),
    "Min": variadic(picked),
    "Where": broadcasting(lambda s: None, lambda s: s.g.where(s[0]), lambda s: s.g.where(s[0].Not())),
    "Neg": of_inputs(lambda s: -s.g),
    "Abs": of_inputs(lambda s: s.g * s.x.Sign()),
    "Sqrt": of_inputs(lambda s: s.g * 0.5 / s.y),
    "Reciprocal": of_inputs(lambda s: -(s.g * s.y * s.y)),
    "Exp": of_inputs(lambda s: s.g * s.y),
    "Log": of_inputs(lambda s: s.g / s.x),
    "Sin": of_inputs(lambda s: s.g * s.x.Cos()),
    "Cos": of_inputs(lambda s: -(s.g * s.x.Sin())),
    "Erf": of_inputs(lambda s: s.g * (-(s.x * s.x)).Exp() * (2 / math.sqrt(math.pi))),
    # activations
    "Tanh": of_inputs(lambda s: s.g * (1.0 - s.y * s.y)),
    "Sigmoid": of_inputs(lambda s: s.g * s.y * (1.0 - s.y)),
    "Softplus": of_inputs(lambda s: s.g * s.x.Sigmoid()),
    "Softsign": of_inputs(lambda s: s.g * (1.0 - s.y.Abs()) * (1.0 - s.y.Abs())),
    "Relu": of_inputs(lambda s: s.g.masked(s.y > 0)),
    "LeakyRelu": of_inputs(lambda s: s.g.where(s.x > 0, s.g * s.attr("alpha", 0.01))),
    "PRelu": broadcasting(lambda s: s.g.where(s.x > 0, s.g * s[1]), lambda s: (s.g * s.x).where(s.x < 0)),
    "Elu": of_inputs(lambda s: s.g.where(s.x > 0, s.g * (s.y + s.attr("alpha", 1.0)))),
    "Clip": of_inputs(clip, clip_bound(1), clip_bound(2)),
    "HardSigmoid": of_inputs(hard_sigmoid),
    "HardSwish": of_inputs(hard_swish),
    "Gelu": of_inputs(gelu),
    "Softmax": of_inputs(softmax),
    "LogSoftmax": of_inputs(log_softmax),
    # steps: flat, but for Round, which is passed straight through
    "Ceil": of_inputs(lambda s: None),
    "Floor": of_inputs(lambda s: None),
    "Sign": of_inputs(lambda s: None),
    "Round": of_inputs(lambda s: s.g),
    # products
    "MatMul": of_inputs(products.left_of_matmul, products.right_of_matmul),
    "Gemm": of_inputs(products.left_of_gemm, products.right_of_gemm, products.bias_of_gemm),
    "Einsum": products.einsum,
    "Conv": of_inputs(convolution.input_of_conv, convolution.weight_of_conv, convolution.bias_of_conv),
    "ConvTranspose": of_inputs(
        convolution.input_of_transposed, convolution.weight_of_transposed, convolution.bias_of_conv
    ),
    # normalizations
    "LayerNormalization": of_inputs(norms.layer_norm, norms.scale_of_layer_norm, lambda s: s.summed(s.g, 2)),
    "RMSNormalization": of_inputs(norms.rms_norm, norms.scale_of_rms_norm),
    "GroupNormalization": of_inputs(
        norms.group_norm, norms.scale_of_group_norm, norms.of_channels(lambda s: s.g)
    ),
    "InstanceNormalization": of_inputs(
        norms.group_norm, norms.scale_of_group_norm, norms.of_channels(lambda s: s.g)
    ),
    "BatchNormalization": of_inputs(
        norms.batch_norm,
        norms.of_channels(norms.batch_norm_scale),
        norms.of_channels(lambda s: s.g),
        norms.of_channels(norms.batch_norm_mean),
        norms.of_channels(norms.batch_norm_variance),
    ),
    # poolings
    "MaxPool": of_inputs(pooling.max_pool),
    "AveragePool": of_inputs(pooling.average_pool),
    "GlobalMaxPool": of_inputs(pooling.global_max_pool),
    "GlobalAveragePool": of_inputs(lambda s: expanded(s.g / count_ratio(s.x, s.y), s.x)),
    "Resize": of_inputs(resizing.resize),
    # integers that stand for floats
    "QuantizeLinear": of_inputs(quantization.quantized, quantization.scale_of_quantized),
    "DequantizeLinear": of_inputs(quantization.dequantized, quantization.scale_of_dequantized),
    # reductions
    "ReduceSum": of_inputs(spread(lambda s: s.g)),
    "ReduceMean": of_inputs(spread(lambda s: s.g / count_ratio(s.x, s.y))),
    "ReduceMax": of_inputs(reductions.extreme),
    "ReduceMin": of_inputs(reductions.extreme),
    "ReduceL1": of_inputs(reduced_by(lambda s: s.x.Sign())),
    "ReduceL2": of_inputs(reduced_by(lambda s: s.x / reductions.kept(s, s.y))),
    "ReduceSumSquare": of_inputs(reduced_by(lambda s: s.x * 2.0)),
    "ReduceLogSum": of_inputs(spread(lambda s: s.g / s.y.Exp())),
    "ReduceLogSumExp": of_inputs(reduced_by(lambda s: (s.x - reductions.kept(s, s.y)).Exp())),
    "Range": of_inputs(
        lambda s: s.g.ReduceSum(keepdims=0),
        lambda s: None,
        lambda s: (s.g * ((s.y - s[0]) / s[2])).ReduceSum(keepdims=0),
    ),
    # the same elements, elsewhere
    "Identity": of_inputs(lambda s: s.g),
    "Dropout": of_inputs(lambda s: s.g),
    "Cast": of_inputs(lambda s: s.g.cast(s.x)),
    "CastLike": of_inputs(lambda s: s.g.cast(s.x), lambda s: None),
    "Reshape": of_inputs(lambda s: s.as_input(s.g)),
    "Flatten": of_inputs(lambda s: s.as_input(s.g)),
    "Squeeze": of_inputs(lambda s: s.as_input(s.g)),
    "Unsqueeze": of_inputs(lambda s: s.as_input(s.g)),
    "Expand": broadcasting(lambda s: s.g),
    "Transpose": of_inputs(moving.transpose),
    "Concat": moving.concat,
    "Split": of_inputs(moving.split),
    "Slice": of_inputs(moving.slice_),
    "Pad": of_inputs(moving.pad, None, moving.padded_value),
    "Tile": of_inputs(moving.moved_back),
    "Gather": of_inputs(moving.gather),
    "GatherElements": of_inputs(moving.gather_elements),
    "GatherND": of_inputs(moving.gather_nd),
    "TopK": of_inputs(moving.top_k),
    "Trilu": of_inputs(lambda s: s.g.Trilu(*([s[1]] if s.has(1) else []), upper=s.attr("upper", 1))),
}
"""By the names of the standard operators."""
