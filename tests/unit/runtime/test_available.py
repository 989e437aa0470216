"""What the installed build says that it can run, held against what it runs."""

import json

import pytest

from onnxq.kernels import load_kernels
from onnxq.processor import PRETENDED, PROCESSORS
from onnxq.report.tables_of_model import available_tables
from onnxq.runtime import available as module
from onnxq.runtime.available import Available, available, cpu_kernels, saturates
from onnxq.runtime.profile import Kind, kind_of


@pytest.fixture(scope="module")
def found() -> Available:
    return available()


def types(found: Available, op_type: str, *operands: str) -> set[tuple[str, ...]]:
    """Return what the newest kernels of an operator take, one entry for each combination."""
    kernels = [one for one in found.kernels if one.op_type == op_type and one.until is None]
    return {tuple(" ".join(kernel.types[name]) for name in operands) for kernel in kernels}


def test_the_kernels_that_onnxq_builds_on_are_there(found: Available) -> None:
    for op_type in ("MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul"):
        assert ("uint8", "int8 uint8") in types(found, op_type, "T1", "T2")
    assert ("uint8", "int8 uint8") in types(found, "QGemm", "TA", "TB")
    assert ("float", "int8 uint8") in types(found, "DynamicQuantizeMatMul", "T1", "T2")


def test_only_quantized_operators_and_attention_are_listed(found: Available) -> None:
    others = {one.op_type for one in found.kernels if kind_of(one.op_type) in (Kind.FLOAT, Kind.OTHER)}
    assert others == {"Attention"}
    assert min(one.since for one in found.kernels if one.op_type == "Attention") == 23


def test_widths_are_tried(found: Available) -> None:
    # onnxruntime refuses widths that do not divide a byte, though its schema allows them.
    assert found.bits == {"MatMulNBits": (2, 4, 8), "GatherBlockQuantized": (2, 4, 8)}


def test_the_highest_versions_are_those_a_session_takes(found: Available) -> None:
    assert found.opset >= 21  # what onnxq writes
    assert found.ir_version >= 10


def test_everything_is_plain(found: Available) -> None:
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["opset"] == found.opset


def test_the_processor_is_the_one_that_is_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRETENDED, "avx2")
    found = available()
    assert found.processor == "avx2"
    assert found.products == PROCESSORS["avx2"].summary


def test_features_tell_whether_products_saturate() -> None:
    assert saturates(["avx2", "fma"])
    assert not saturates(["avx2", "avx512_vnni"])
    assert not saturates(["asimd", "asimddp"])


def test_a_build_that_cannot_list_its_kernels_is_told_of_from_our_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # onnxruntime-gpu ends the process that asks, where TensorRT is missing.
    monkeypatch.setattr(module, "_LIST", "raise SystemExit(1)")
    module._kernel_lists.cache_clear()
    try:
        found = available()
        assert cpu_kernels() is load_kernels("cpu")
    finally:
        module._kernel_lists.cache_clear()
    assert {"CPUExecutionProvider", "CUDAExecutionProvider"} == {one.provider for one in found.kernels}
    can_run, kernels = available_tables(found)
    assert all(value for _, value in can_run.rows)
    assert {"QGemm", "QLinearConv", "MatMulIntegerToFloat", "Attention"} <= {row[0] for row in kernels.rows}
    assert dict(can_run.rows)["kernels as listed by"].startswith("onnxruntime-gpu ")
