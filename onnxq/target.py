"""Targets: what an execution provider runs, and what it runs fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnxq.analysis.layers import Layer, is_depthwise
from onnxq.errors import RecipeError, did_you_mean
from onnxq.ir.module import GraphModule, array_of
from onnxq.kernels import KernelList, load_kernels
from onnxq.processor import EXACT_LIMIT, PROCESSORS, Processor, find_processor, here

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators that ONNX Runtime's CPU provider runs on integers; ConvTranspose has no such kernel (1.32.0)."""


@dataclass(frozen=True)
class Target:
    """One place where a model shall run.

    Args:
        name: What the command line calls it.
        provider: The execution provider's short name, as sessions take it.
        summary: One line for listings.
        integer_operators: Operators with an integer kernel, or that any runtime takes as QDQ.
        source: Where these statements come from.
        kernel_list: The name of the list of its kernels in ``onnxq.kernels``; None where a session tells.
        block_columns: By width in bits, what the columns of a weight in blocks must be a multiple of for
            the fast kernel; empty where all are run alike.
        block_rows: By what weights are stored in, as ``onnxq.analysis.rows`` calls it, with how many rows of
            a product they were timed to be faster than float16; with more they were slower.
        float8_rows: What the rows of a weight in float8 must be a multiple of for its fast kernel.
        session_options: By operator, the session configuration entries that its fast kernel asks for.
        processor: What runs the CPU provider's kernels.

    """

    name: str
    provider: str
    summary: str
    integer_operators: frozenset[str]
    source: str
    kernel_list: str | None = None
    block_columns: Mapping[int, int] = field(default_factory=dict)
    block_rows: Mapping[str, int] = field(default_factory=dict)
    float8_rows: int = 1
    session_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    processor: Processor = PROCESSORS["unknown"]

    @property
    def kernels(self) -> KernelList | None:
        """The kernels of its provider, where they are listed."""
        return None if self.kernel_list is None else load_kernels(self.kernel_list)

    def weight_limit(self, layer: Layer) -> int | None:
        """Return the largest integer for the int8 weight of a layer whose input is quantized to 8 bits.

        None if every integer of int8 is right: where nothing saturates, on this processor or in the kernel
        of this layer. A depthwise convolution's multiplies in 16 bits.

        Source:
            ``tools/check_saturation.py``, which runs each kernel on its worst case.

        """
        exact = self.provider != "cpu" or not self.processor.saturates
        if exact or layer.node.op_type not in PRODUCTS or is_depthwise(layer.node, array_of(layer.weight)):
            return None
        return EXACT_LIMIT

    @property
    def session_entries(self) -> frozenset[tuple[str, str]]:
        """Every session entry that the target may ask for."""
        return frozenset(entry for entries in self.session_options.values() for entry in entries.items())

    def options_for(self, module: GraphModule) -> dict[str, str]:
        """Return the session configuration entries that ``module`` asks for."""
        operators = {node.op_type for node in module.graph}
        wanted = (entries for operator, entries in self.session_options.items() if operator in operators)
        return {key: value for entries in wanted for key, value in entries.items()}


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="cpu",
            provider="cpu",
            summary="QDQ patterns that ONNX Runtime's CPU provider fuses into integer kernels",
            integer_operators=frozenset({"Conv", "Gemm", "MatMul"}),
            source="onnxruntime 1.31.1: optimised graphs of each pattern, dumped and timed",
        ),
        Target(
            name="cpu-size",
            provider="cpu",
            summary="the smallest file that ONNX Runtime's CPU provider still runs well",
            integer_operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            source="onnxruntime 1.31.1: DequantizeLinear and MatMul run as MatMulNBits, other weights are "
            "restored in each run; GatherBlockQuantized",
        ),
        Target(
            name="portable",
            provider="cpu",
            summary="plain QDQ for any runtime that reads standard ONNX",
            integer_operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            source="ONNX operators QuantizeLinear and DequantizeLinear",
        ),
        Target(
            name="cuda",
            provider="cuda",
            summary="half precision, and weights in blocks, for ONNX Runtime's CUDA provider",
            integer_operators=frozenset(),
            source="onnxruntime-gpu 1.31.1: kernels registered in the wheel, and what its messages say of "
            "MatMulNBits (float16 without zero points, blocks of 32); onnxruntime's pull requests "
            "29585, 29622 and 32324, its page on MatMulBlockQuantizedFp8Weight (rows in multiples of 16); "
            "timed by tools/check_cuda.py on an NVIDIA H200",
            kernel_list="cuda",
            block_columns={4: 64, 8: 32},
            block_rows={"4 bits": 8, "8 bits": 1, "float8": 8},
            float8_rows=16,
            session_options={"MatMulNBits": {"ep.cuda.fpa_intb_gemm": "1"}},
        ),
        Target(
            name="tensorrt",
            provider="tensorrt",
            summary="explicit QDQ, int8 or float8 symmetric around zero, as TensorRT wants it; not run",
            integer_operators=frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
            source="TensorRT 10 developer guide, Working with Quantized Types: explicit quantization, "
            "symmetric int8 and FP8 (E4M3, up to 448), weights per channel; nothing was run",
        ),
    )
}


def find_target(name: str, processor: str | None = None) -> Target:
    """Return the target called ``name``.

    Args:
        name: A key of ``TARGETS``.
        processor: The name of what runs it; None for ``onnxq.processor.here()``.

    Raises:
        RecipeError: There is no such target.
        TargetError: There is no such processor.

    """
    if name not in TARGETS:
        raise RecipeError(f"unknown target {name!r}", hint=did_you_mean(name, TARGETS))
    return replace(TARGETS[name], processor=here() if processor is None else find_processor(processor))
