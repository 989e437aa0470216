"""The tables of layers and of what can be run."""

from onnxq.report.tables import invariance_table, layers_summary, layers_table
from onnxq.report.tables_of_model import available_tables
from onnxq.runtime.available import Available, RegisteredKernel
from onnxq.runtime.invariance import InvarianceReport, OutputInvariance
from onnxq.runtime.kernels import LayerKernel, LayerState, Provenance

LAYERS = (
    LayerKernel("up", "MatMul", LayerState.INTEGER, ("MatMulIntegerToFloat",), 0.5, 0.05),
    LayerKernel("down", "Gemm", LayerState.INTEGER, ("MatMul", "MatMul", "QGemm"), 0.1, 0.05),
    LayerKernel("conv", "Conv", LayerState.UNFUSED, ("Conv",), 0.02, 0.03, "its output is not quantized"),
    LayerKernel("mask", "Gather", LayerState.GONE, (), 0.0, 0.0),
)
PROVENANCE = Provenance(LAYERS, untraced=2)


def test_what_should_not_be_stands_first_then_the_slowest() -> None:
    assert layers_table(PROVENANCE).rows == (
        ("conv", "unfused", "Conv", "2.00 %", "3.00 %"),
        ("up", "integer", "MatMulIntegerToFloat", "50.00 %", "5.00 %"),
        ("down", "integer", "2 x MatMul, QGemm", "10.00 %", "5.00 %"),
        ("mask", "gone", "", "0.00 %", "0.00 %"),
    )


def test_layers_beyond_the_limit_share_a_row() -> None:
    assert layers_table(PROVENANCE, limit=2).rows[2:] == (("2 more", "", "", "10.00 %", "5.00 %"),)


def test_one_sentence_counts_the_layers() -> None:
    assert layers_summary(PROVENANCE) == (
        "Layers of the source: 2 integer, 1 unfused, 1 gone. "
        "2 nodes could not be traced; each counts to what reads it."
    )


def test_operators_are_listed_by_place_with_what_they_take() -> None:
    def kernel(since: int, until: int | None, *types: tuple[str, ...]) -> RegisteredKernel:
        named = dict(zip(("T1", "T2"), types, strict=True))
        return RegisteredKernel("QLinearConv", "", "CPUExecutionProvider", since, until, named)

    found = Available(
        opset=26,
        ir_version=13,
        kernels=(
            kernel(10, 20, ("uint8",), ("uint8",)),
            kernel(21, None, ("uint8",), ("uint8", "int8")),
            kernel(21, None, ("int8",), ("int8",)),
        ),
        source="onnxruntime 1.32.0, its own list",
        bits={"MatMulNBits": (4, 8)},
        cpu_flags=(),
        processor="unknown",
        products="exact",
    )
    facts, kernels = available_tables(found)
    assert facts.rows[0] == ("highest opset, IR version", "26, 13")
    assert facts.rows[3] == ("kernels as listed by", "onnxruntime 1.32.0")
    assert kernels.rows == (
        ("QLinearConv", "standard, 10+", "CPU", "uint8 x uint8/int8, int8 x int8"),
        ("MatMulNBits", "com.microsoft", "CPU", "blocks of 4, 8 bits"),
    )


def test_invariance_is_a_row_for_each_output() -> None:
    outputs = (
        OutputInvariance("tokens", 0.0, 0.0, 6.0),
        OutputInvariance("pooled", 1e-6, None, 2.0),
        OutputInvariance("pairs", float("inf"), None, 1.0),
    )
    found = InvarianceReport("model", 4, 3, outputs)
    assert not found.holds
    assert invariance_table(found).rows == (
        ("tokens", "identical", "0", "0", "6"),
        ("pooled", "rounding", "1e-06", "-", "2"),
        ("pairs", "moves", "-", "-", "1"),
    )
