"""Which kernels ran, on hand-written models whose answer is known."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq.runtime import kernels
from onnxq.runtime.kernels import KernelNode, KernelReport, Kind, kernel_report, kind_of
from onnxq.runtime.profile import executed_nodes
from onnxq.runtime.run import Run
from onnxq.runtime.wiring import Wiring, without_weights

Save = Callable[..., Path]
X = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32)


def test_a_qdq_matmul_runs_as_one_integer_kernel(qdq_matmul: Path) -> None:
    report = kernel_report(qdq_matmul, {"x": X}, Run(threads=1))
    assert [(node.op_type, node.domain, node.kind) for node in report.nodes] == [
        ("QuantizeLinear", "", Kind.QUANTIZE),
        ("MatMulIntegerToFloat", "com.microsoft", Kind.INTEGER),
        ("Add", "", Kind.OTHER),
        ("Relu", "", Kind.OTHER),
    ]
    assert {kind: count for kind, count in report.kinds.items() if count} == {
        Kind.INTEGER: 1,
        Kind.QUANTIZE: 1,
        Kind.OTHER: 2,
    }
    assert report.kinds[Kind.DEQUANTIZE] == 0
    assert report.nodes[2].name == "bias"
    assert report.nodes[2].outputs == ("a",)
    assert all(node.calls == 1 for node in report.nodes)


def test_shares_sum_to_one_and_the_summary_is_sorted(qdq_matmul: Path) -> None:
    # Enough work that the profiler, which counts whole microseconds, sees every node.
    report = kernel_report(qdq_matmul, {"x": np.tile(X, (200, 10, 1))}, Run(threads=1), runs=3)
    assert sum(node.share for node in report.nodes) == pytest.approx(1)
    assert report.providers == {"CPUExecutionProvider": pytest.approx(1)}
    shares = [row.share for row in report.summary]
    assert shares == sorted(shares, reverse=True)
    assert sum(row.count for row in report.summary) == len(report.nodes)
    assert report.runs == 3
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["kinds"]["integer"] == 1
    assert plain["nodes"][1]["op_type"] == "MatMulIntegerToFloat"


def test_a_slow_model_is_profiled_in_fewer_runs(qdq_matmul: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ENOUGH_SECONDS", 0.0)
    report = kernel_report(qdq_matmul, {"x": X})
    assert report.runs == 1
    assert {node.calls for node in report.nodes} == {1}


def test_a_float_model_has_float_kernels(save: Save) -> None:
    path = save(
        "main (float[N,T,4] x) => (float[N,T,4] y) { y = MatMul(x, w) }",
        weights={"w": np.ones((4, 4), np.float32)},
    )
    assert [node.kind for node in kernel_report(path, {"x": X}).nodes] == [Kind.FLOAT]


def test_nodes_in_a_loop_are_listed_with_their_calls(save: Save) -> None:
    path = save(
        """main (float[N] x, int64 n) => (float[N] y)
        {
            y = Loop(n, , x) <body = inner (int64 i, bool c, float[N] a) => (bool d, float[N] b)
                { d = Identity(c) [turn] b = Neg(a) }>
        }"""
    )
    report = kernel_report(path, {"x": np.ones(3, np.float32), "n": np.array(4)})
    assert "Loop" not in {node.op_type for node in report.nodes}
    assert next(node.calls for node in report.nodes if node.name == "turn") == 4


@pytest.mark.parametrize(
    ("op_type", "kind"),
    [
        ("QLinearConv", Kind.INTEGER),
        ("QLinearAdd", Kind.INTEGER),
        ("QGemm", Kind.INTEGER),
        ("ConvInteger", Kind.INTEGER),
        ("DynamicQuantizeMatMul", Kind.INTEGER),
        ("MatMulNBits", Kind.WEIGHT_ONLY),
        ("FusedConv", Kind.FLOAT),
        ("FusedMatMul", Kind.FLOAT),
        ("DynamicQuantizeLinear", Kind.QUANTIZE),
        ("DequantizeLinear", Kind.DEQUANTIZE),
        ("Softmax", Kind.OTHER),
    ],
)
def test_kernels_are_told_apart(op_type: str, kind: Kind) -> None:
    assert kind_of(op_type) is kind


def test_weights_may_lie_beside_the_model(save: Save) -> None:
    path = save(
        "main (float[N,T,4] x) => (float[N,T,4] y) { y = MatMul(x, w) }",
        weights={"w": np.ones((4, 4), np.float32)},
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    report = kernel_report(path, {"x": X}, source=path)
    assert [(layer.name, layer.kernels) for layer in report.provenance.layers] == [("y", ("MatMul",))]


def test_nothing_is_left_behind(qdq_matmul: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    kernel_report(qdq_matmul, {"x": X})
    assert os.listdir(work) == os.listdir(temporary) == []
    assert sorted(os.listdir(tmp_path)) == ["qdq.onnx", "temporary", "work"]


def node(op_type: str, provider: str, share: float, *types: str) -> KernelNode:
    kind = kind_of(op_type)
    return KernelNode(op_type.lower(), op_type, "", provider, kind, 1, 100 * share, share, types=types)


def test_only_real_work_elsewhere_is_misplaced() -> None:
    fine = KernelReport("cuda", 1, (node("MatMul", "CUDA", 0.95), node("Shape", "CPU", 0.05, "int64")))
    assert fine.misplaced("CUDA") == ()
    product = KernelReport("cuda", 1, (node("MatMul", "CUDA", 0.99), node("QLinearMatMul", "CPU", 0.01)))
    assert [one.op_type for one in product.misplaced("CUDA")] == ["QLinearMatMul"]
    little = KernelReport("cuda", 1, (node("MatMul", "CUDA", 0.99), node("Erf", "CPU", 0.01, "float16")))
    assert [one.op_type for one in little.misplaced("CUDA")] == ["Erf"]
    unknown = KernelReport("cuda", 1, (node("MatMul", "CUDA", 0.8), node("TopK", "CPU", 0.2)))
    assert [one.op_type for one in unknown.misplaced("CUDA")] == ["TopK"]
    assert unknown.providers == {"CUDA": 0.8, "CPU": 0.2}


def test_copies_between_devices_are_named() -> None:
    report = KernelReport("cuda", 1, (node("MemcpyToHost", "CUDA", 0.1), node("MatMul", "CUDA", 0.9)))
    assert [one.name for one in report.copies] == ["memcpytohost"]
    assert report.to_dict()["copies"] == ["memcpytohost"]


def test_one_interrupted_call_says_nothing_of_a_node() -> None:
    def event(name: str, microseconds: int) -> dict[str, Any]:
        args = {"op_name": "Conv", "provider": "CPUExecutionProvider", "node_index": name}
        return {"name": f"{name}_kernel_time", "dur": microseconds, "args": args}

    times = {"a": [10, 10, 20_000, 10, 10], "b": [30, 30, 30, 30, 30]}
    events = [event(name, spent) for name, all_spent in times.items() for spent in all_spent]
    a, b = executed_nodes(events, [], runs=5)
    assert (a.microseconds, a.share) == (10, 0.25)
    assert (b.microseconds, b.share) == (30, 0.75)


def test_the_profile_tells_what_a_node_computes(save: Save) -> None:
    path = save("main (float[N,4] x) => (float[N,4] y, int64[2] s) { y = Relu(x) s = Shape(y) }")
    nodes = kernel_report(path, {"x": X[0]}, Run(threads=1)).nodes
    assert {one.op_type: (one.types, one.counts) for one in nodes} == {
        "Relu": (("float",), False),
        "Shape": (("int64",), True),
    }


def test_the_wiring_of_a_model_needs_no_weights(qdq_matmul: Path) -> None:
    graph = onnx.load(qdq_matmul).graph
    light = without_weights(graph)
    assert Wiring.of(light) == Wiring.of(graph)
    assert not any(weight.raw_data or weight.float_data for weight in light.initializer)
