"""Which integer kernels of ONNX Runtime saturate on this processor: worst cases against exact arithmetic.

Each case is one layer as QuantizeLinear and DequantizeLinear around its operator. Its activation is the
largest integer everywhere, and so is its weight. ONNX Runtime fuses it into a kernel, and runs the same file
once more with all optimisations off, where every sum is exact: it is a whole number below 2**24 in float32.
``kept`` is the smallest part of a true sum that the kernel gives: 1 means that nothing saturated. ``error``
is the largest difference where weights and inputs are one end of their types or the other, at random, as a
part of the largest possible sum; a convolution's output is rounded to 1/200 of that.

    python tools/check_saturation.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from measuring import parser, show
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxq.processor import at_hand
from onnxq.runtime.environment import cpu_name
from onnxq.runtime.profile import Kind, kind_of
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

HEADER = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'
STEPS = 200
"""A convolution's output is quantized too, or it would run in float; its true sums are so many steps."""
KEEP_INT8 = {"session.qdqisint8allowed": "1"}
ONE = np.array(1, np.float32)
KERNELS = (Kind.INTEGER, Kind.WEIGHT_ONLY, Kind.FLOAT)
Outputs = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """One layer.

    Args:
        operator: With its attributes, as ONNX's text writes it.
        activation: The shape of its input.
        weight: The shape of its weight.
        products: How many products each output adds up.
        dtype: The type of the activation: ``uint8``, ``int8``, or ``dynamic`` for uint8 at run time.
        weight_dtype: The type of the weight.
        block: The length of the blocks of its weight; None for one scale.
        config: Session configuration entries.

    """

    operator: str
    activation: tuple[int, ...]
    weight: tuple[int, ...]
    products: int
    dtype: str = "uint8"
    weight_dtype: str = "int8"
    block: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def convolves(self) -> bool:
        """Whether its kernel wants a quantized output."""
        return self.operator.startswith("Conv")


def cases() -> Iterator[Case]:
    """Yield the layers: every operator with an integer kernel, dense, in groups, and depthwise."""
    for rows in (1, 2, 8, 128):
        yield Case("MatMul", (rows, 64), (64, 48), 64)
        yield Case("MatMul", (rows, 64), (64, 48), 64, dtype="dynamic")
    yield Case("MatMul", (8, 7), (7, 5), 7)
    yield Case("MatMul", (4, 8, 64), (4, 64, 48), 64)
    yield Case("Gemm", (8, 64), (64, 48), 64)
    yield Case("Gemm <transB = 1>", (8, 64), (48, 64), 64)
    yield Case("Conv", (1, 64, 10, 10), (32, 64, 1, 1), 64)
    yield Case("Conv", (1, 64, 10, 10), (32, 64, 3, 3), 576)
    yield Case("Conv", (1, 3, 20, 20), (16, 3, 3, 3), 27)
    yield Case("Conv", (1, 16, 40), (16, 16, 3), 48)
    yield Case("Conv", (1, 4, 6, 6, 6), (8, 4, 3, 3, 3), 108)
    yield Case("Conv <strides = [2, 2], dilations = [2, 2]>", (1, 16, 20, 20), (32, 16, 3, 3), 144)
    yield Case("Conv <group = 4>", (1, 64, 10, 10), (64, 16, 3, 3), 144)
    yield Case("Conv <group = 32>", (1, 64, 10, 10), (64, 2, 3, 3), 18)
    yield from depthwise()
    yield Case("ConvTranspose", (1, 16, 10, 10), (16, 8, 2, 2), 16)
    yield Case("MatMul", (8, 64), (64, 48), 64, dtype="int8")
    yield Case("MatMul", (8, 64), (64, 48), 64, dtype="int8", config=KEEP_INT8)
    yield Case("Conv", (1, 64, 10, 10), (32, 64, 3, 3), 576, dtype="int8")
    yield Case("Conv", (1, 64, 10, 10), (32, 64, 3, 3), 576, dtype="int8", config=KEEP_INT8)
    yield Case("MatMul", (8, 64), (64, 48), 64, weight_dtype="uint8")
    yield Case("Conv", (1, 64, 10, 10), (32, 64, 3, 3), 576, weight_dtype="uint8")
    yield Case("MatMul", (8, 64), (64, 48), 64, dtype="float", block=32)
    yield Case("MatMul", (1, 64), (64, 48), 64, dtype="float", block=32)
    yield Case("MatMul", (8, 64), (64, 48), 64, dtype="float", weight_dtype="uint8", block=32)
    yield Case("MatMul", (8, 64), (64, 48), 64, dtype="float")


def depthwise() -> Iterator[Case]:
    """Yield depthwise convolutions of several forms; with two outputs a channel they are none for MLAS."""
    for channels in (1, 3, 16, 17, 64):
        for size in (1, 2, 3, 5, 7):
            yield Case(
                f"Conv <group = {channels}>", (1, channels, 16, 16), (channels, 1, size, size), size**2
            )
    yield Case("Conv <group = 16, strides = [2, 2]>", (1, 16, 16, 16), (16, 1, 3, 3), 9)
    yield Case("Conv <group = 16, dilations = [2, 2]>", (1, 16, 16, 16), (16, 1, 3, 3), 9)
    yield Case("Conv <group = 16>", (1, 16, 40), (16, 1, 3), 3)
    yield Case("Conv <group = 16>", (1, 16, 8, 8, 8), (16, 1, 3, 3, 3), 27)
    yield Case("Conv <group = 16>", (1, 16, 16, 16), (32, 1, 3, 3), 9)
    yield Case("Conv <group = 16>", (1, 16, 16, 16), (16, 1, 3, 3), 9, dtype="int8")


def model_of(case: Case, weight: NDArray[Any]) -> onnx.ModelProto:
    """Return the layer as QDQ."""
    x = "x" if case.dtype == "float" else "x_dq"
    quantized = "x_q = QuantizeLinear(x, x_scale, x_zero) x_dq = DequantizeLinear(x_q, x_scale, x_zero)"
    if case.dtype == "dynamic":
        quantized = "x_q, s, z = DynamicQuantizeLinear(x) x_dq = DequantizeLinear(x_q, s, z)"
    if case.dtype == "float":
        quantized = ""
    blocks = "" if case.block is None else f"<axis = 0, block_size = {case.block}>"
    ending = "h_q = QuantizeLinear(h, h_scale, h_zero) y = DequantizeLinear(h_q, h_scale, h_zero)"
    ending = ending if case.convolves else "y = Identity(h)"
    shape = ", ".join(map(str, case.activation))
    body = (
        f"main (float[{shape}] x) => (float y) {{ {quantized} "
        f"w_dq = DequantizeLinear {blocks} (w, w_scale, w_zero) h = {case.operator} ({x}, w_dq) {ending} }}"
    )
    model = onnx.parser.parse_model(f"{HEADER}\n{body}")
    for name, array in _constants(case, weight).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def _constants(case: Case, weight: NDArray[Any]) -> dict[str, NDArray[Any]]:
    scales = () if case.block is None else (case.weight[0] // case.block, *case.weight[1:])
    h_scale = np.array(case.products * 255 * 127 / STEPS, np.float32)
    constants: dict[str, NDArray[Any]] = {
        "w": weight,
        "w_scale": np.ones(scales, np.float32),
        "w_zero": np.zeros(scales, weight.dtype),
        "x_scale": ONE,
        "x_zero": np.array(0, "uint8" if case.dtype != "int8" else "int8"),
    }
    if case.dtype in ("float", "dynamic"):
        del constants["x_scale"], constants["x_zero"]
    if case.convolves:
        constants |= {"h_scale": h_scale, "h_zero": np.array(0, "int8" if case.dtype == "int8" else "uint8")}
    return constants


def both_ways(case: Case, x: NDArray[Any], weight: NDArray[Any], path: Path) -> tuple[Outputs, Outputs]:
    """Return what the kernel gives, and the exact sums; ``path`` gets the optimised graph."""
    model, feeds = model_of(case, weight), {"x": x.astype(np.float32)}
    run = Run(threads=1, entries=case.config)
    fused = open_session(model, run, optimized_model_path=path).run(feeds)["y"]
    return fused, open_session(model, Run(threads=1), optimization="none").run(feeds)["y"]


def row_of(case: Case, folder: Path) -> dict[str, Any]:
    """Run one case on its worst input, and on a random one."""
    path, rng = folder / "optimised.onnx", np.random.default_rng(0)
    least, most = (0, 255) if case.dtype != "int8" else (-128, 127)
    ends = np.iinfo(case.weight_dtype)
    worst = np.full(case.activation, most), np.full(case.weight, ends.max, case.weight_dtype)
    fused, exact = both_ways(case, *worst, path)
    x, weight = rng.choice([least, most], case.activation), rng.choice([-ends.max, ends.max], case.weight)
    others = both_ways(case, x, np.maximum(weight, ends.min).astype(case.weight_dtype), path)
    blocks = "" if case.block is None else f", blocks of {case.block}"
    return {
        "layer": case.operator,
        "input": "x".join(map(str, case.activation)),
        "weight": "x".join(map(str, case.weight)),
        "types": f"{case.dtype} {case.weight_dtype}{' kept int8' if case.config else ''}{blocks}",
        "kernel": " ".join(
            node.op_type for node in onnx.load(path).graph.node if kind_of(node.op_type) in KERNELS
        ),
        "kept": round(float((fused / exact).min()), 3),
        "error": round(float(np.abs(others[0] - others[1]).max() / exact.max()), 3),
    }


def main() -> None:
    """Print the table."""
    options = parser(__doc__).parse_args()
    with TemporaryDirectory() as folder:
        rows = [row_of(case, Path(folder)) for case in cases()]
    note = f"processor: {at_hand().name} ({cpu_name()}); command: python tools/check_saturation.py"
    show("Saturation of integer products", rows, [note], as_json=options.json)


if __name__ == "__main__":
    main()
