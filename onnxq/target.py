"""Targets: what an execution provider runs, and what it runs fast."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.errors import RecipeError, did_you_mean


@dataclass(frozen=True)
class Target:
    """One place where a model shall run.

    Args:
        name: What the command line calls it.
        provider: The execution provider's short name, as sessions take it.
        summary: One line for listings.
        integer_operators: Operators with an integer kernel, or that any runtime takes as QDQ.
        source: Where these statements come from.

    """

    name: str
    provider: str
    summary: str
    integer_operators: frozenset[str]
    source: str


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
            integer_operators=frozenset({"MatMul"}),
            source="onnxruntime 1.31.1: DequantizeLinear and MatMul run as MatMulNBits, GatherBlockQuantized",
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
            source="onnxruntime-gpu 1.31.1: kernels registered in the wheel; nothing was timed",
        ),
    )
}


def find_target(name: str) -> Target:
    """Return the target called ``name``.

    Raises:
        RecipeError: There is none.

    """
    if name not in TARGETS:
        raise RecipeError(f"unknown target {name!r}", hint=did_you_mean(name, TARGETS))
    return TARGETS[name]
