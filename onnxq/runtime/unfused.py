"""Why ONNX Runtime left a layer in float between QuantizeLinear and DequantizeLinear.

Each rule was found by giving onnxruntime 1.31.1 and 1.32.0 the pattern and reading the optimised graph; the
tests ask the installed one again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from onnxq.runtime.wiring import QUANTIZERS, Wiring

if TYPE_CHECKING:
    import onnx

_WITH_KERNELS = frozenset({"Conv", "FusedConv", "FusedMatMul", "Gemm", "FusedGemm", "MatMul"})
_CONVS = frozenset({"Conv", "FusedConv"})
_GEMMS = frozenset({"Gemm", "FusedGemm"})
_CLAMPS = frozenset({"Clip", "Relu"})


def why_unfused(node: onnx.NodeProto, optimised: Wiring, model: Wiring, optimizes: bool) -> str | None:
    """Return why the float ``node`` was not fused with the DequantizeLinear before it, if that is known.

    Args:
        node: A node of the optimised graph that reads dequantized values.
        optimised: That graph.
        model: The graph that ONNX Runtime was given.
        optimizes: Whether the session optimises as far as ORT_ENABLE_EXTENDED.

    """
    if not optimizes:
        return "the session optimises below ORT_ENABLE_EXTENDED, where nothing is fused"
    if node.op_type in ("Gather", "GatherElements"):
        return "the whole table is dequantized: gather the integers, then dequantize the rows"
    if node.op_type not in _WITH_KERNELS:
        return f"ONNX Runtime has no integer kernel for {node.op_type}"
    return next(filter(None, _reasons(node, optimised, model)), None)


def _reasons(node: onnx.NodeProto, optimised: Wiring, model: Wiring) -> Iterator[str | None]:
    activation, weight = (_dequantizer(name, optimised) for name in node.input[:2])
    yield _wide(activation, weight, node, optimised)
    if activation is None or weight is None:
        yield _half(node, activation, weight, optimised)
        return
    if node.op_type not in ("MatMul", "FusedMatMul"):
        yield _dynamic(activation, node.op_type, optimised)
    if node.op_type in _CONVS:
        yield _float_output(node, optimised)
    if node.op_type in _GEMMS:
        yield _gemm(node, optimised, model)
    yield _clamped(node, optimised)
    yield _shared_signed(activation, optimised)
    yield _mixed(activation, node, optimised)


def _dequantizer(name: str, wiring: Wiring) -> onnx.NodeProto | None:
    origin = wiring.origin(name)
    return origin if origin is not None and origin.op_type == "DequantizeLinear" else None


def _wide(
    activation: onnx.NodeProto | None, weight: onnx.NodeProto | None, node: onnx.NodeProto, wiring: Wiring
) -> str | None:
    converters = [one for one in (activation, weight, *wiring.consumers(node)) if one is not None]
    types = {_grid_type(one, wiring) for one in converters}
    wide = sorted(name for name in types if name and ("16" in name or "FLOAT" in name))
    return f"there is no integer kernel for {wide[0].lower()}" if wide else None


def _grid_type(node: onnx.NodeProto, wiring: Wiring) -> str | None:
    """Return the type of the zero point of a QuantizeLinear or DequantizeLinear, if it is a weight."""
    from onnx import TensorProto

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
        return None
    data_type, _ = wiring.weights.get(node.input[2], (TensorProto.UNDEFINED, ()))
    return str(TensorProto.DataType.Name(data_type))


def _half(
    node: onnx.NodeProto, activation: onnx.NodeProto | None, weight: onnx.NodeProto | None, wiring: Wiring
) -> str | None:
    """Return why a layer with one quantized input was not fused: only a constant weight can be that one."""
    if weight is None:
        return "only one of its two inputs is quantized"
    if node.op_type in _CONVS:
        return "only its weight is quantized, and Conv has no kernel for that"
    if node.op_type in _GEMMS and (_attribute(node, "transB", 0) or _scaled(node)):
        return "only its weight is quantized, and Gemm has no kernel for that with transB, alpha or beta"
    if any(len(wiring.readers.get(name, ())) > 1 for name in weight.input):
        return "its integers, scale or zero point are shared with another layer: store them twice"
    return None


def _dynamic(activation: onnx.NodeProto, op_type: str, wiring: Wiring) -> str | None:
    quantizer = wiring.producers.get(activation.input[0])
    if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear":
        return None
    return f"its input's scale is computed at run time, and {op_type} has no kernel for that"


def _float_output(node: onnx.NodeProto, wiring: Wiring) -> str | None:
    """Return why the output of a Conv is not one QuantizeLinear's alone; a Relu may stand between."""
    readers = wiring.consumers(node)
    if len(readers) == 1 and readers[0].op_type in _CLAMPS:
        readers = wiring.consumers(readers[0])
    quantized = [reader for reader in readers if reader.op_type in QUANTIZERS]
    if not quantized:
        return "its output is not quantized: Conv needs a QuantizeLinear right behind it"
    return "its output is read in float too" if len(readers) > 1 else None


def _gemm(node: onnx.NodeProto, optimised: Wiring, model: Wiring) -> str | None:
    if len(node.input) > 2 and _dequantizer(node.input[2], optimised) is None:
        maker = model.producers.get(node.output[0])
        if maker is not None and maker.op_type == "Add":
            return "MatMul and Add on two axes became a Gemm with a float bias: write the Add as Sum"
        return "its bias is float: give it as DequantizeLinear of int32"
    return "its alpha or beta is not 1" if _scaled(node) else None


def _clamped(node: onnx.NodeProto, wiring: Wiring) -> str | None:
    """Return how a Relu or Clip behind the layer stands in the way; ONNX Runtime would take it into a Q."""
    readers = wiring.consumers(node)
    clamps = [one for one in readers if one.op_type in _CLAMPS] if len(readers) == 1 else []
    if not (clamps or node.op_type.startswith("Fused")):
        return None
    behind = wiring.consumers(clamps[0]) if clamps else readers
    if any(one.op_type in QUANTIZERS for one in behind):
        return "the Relu or Clip behind it is not spared by its QuantizeLinear: quantize that to 0 upwards"
    return (
        "the Relu or Clip behind it is read in float: quantize its output too, or add a bias by Sum before it"
    )


def _mixed(activation: onnx.NodeProto, node: onnx.NodeProto, wiring: Wiring) -> str | None:
    """Return which types meet: ONNX Runtime turns int8 to uint8, but not what several nodes read."""
    given = _grid_type(activation, wiring)
    results = {_grid_type(one, wiring) for one in wiring.consumers(node) if one.op_type == "QuantizeLinear"}
    if given is None or not results - {None, given}:
        return None
    return "its input and its output are of different types once int8 became uint8: use uint8"


def _shared_signed(activation: onnx.NodeProto, wiring: Wiring) -> str | None:
    quantizer = wiring.producers.get(activation.input[0])
    if quantizer is None or _grid_type(activation, wiring) != "INT8":
        return None
    readers = [reader for one in wiring.consumers(quantizer) for reader in wiring.consumers(one)]
    return "its int8 input is shared with another layer: use uint8" if len(readers) > 1 else None


def _scaled(node: onnx.NodeProto) -> bool:
    return any(_attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta"))


def _attribute(node: onnx.NodeProto, name: str, default: float) -> Any:
    from onnx.helper import get_attribute_value

    return next((get_attribute_value(one) for one in node.attribute if one.name == name), default)
