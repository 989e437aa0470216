"""The structure of a benchmark; times themselves never decide a test."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import onnxq.runtime.bench as timed
from onnxq.errors import DataError, ModelError, TargetError
from onnxq.runtime.bench import Spread, Timing, bench, schedule
from onnxq.runtime.fallback import refuse_fallback
from onnxq.runtime.footprint import footprint, peak_memory, size_on_disk
from onnxq.runtime.kernels import KernelNode, KernelReport, Kind
from onnxq.runtime.run import Run

Save = Callable[..., Path]
MATMUL = "main (float[N,T,4] x) => (float[N,T,8] y) { y = MatMul(x, w) }"


@pytest.mark.parametrize(("one_ms", "runs"), [(99.0, 5), (200.0, 1)])
def test_a_long_run_warms_up_by_itself(one_ms: float, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []
    monkeypatch.setattr(timed, "block_ms", lambda *args: took.append(one_ms) or one_ms)
    assert timed.warmed_ms(lambda feeds: lambda: None, {}, 5) == one_ms
    assert len(took) == runs


@pytest.fixture
def fp32(save: Save) -> Path:
    return save(MATMUL, "fp32.onnx", {"w": np.ones((4, 8), np.float32)})


def feeds(*lengths: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.ones((2, length, 4), np.float32)} for length in lengths]


def test_the_order_turns_round_every_round() -> None:
    assert list(schedule(["a", "b", "c"], 3)) == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]]


def test_models_are_timed_side_by_side(fp32: Path, qdq_matmul: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    report = bench(
        {"fp32": fp32, "int8": qdq_matmul},
        feeds(3, 5, 3),
        timing=Timing(rounds=6, memory=False),
        on_progress=lambda *step: seen.append(step),
    )
    first, second = report.models
    assert seen == [
        *(("profiling", done, 2) for done in range(3)),
        *(("timing", done, 6) for done in range(7)),
    ]
    assert len(first.rounds_ms) == len(second.rounds_ms) == report.rounds == 6
    assert second.latency_ms == Spread.of(second.rounds_ms)
    assert second.speedup == np.median(first.rounds_ms) / np.median(second.rounds_ms)
    assert second.paired_speedup == Spread.of(np.divide(first.rounds_ms, second.rounds_ms).tolist())
    assert first.paired_speedup == Spread(1, 1, 1)
    assert report.shapes == ((("x", (2, 3, 4)),), (("x", (2, 5, 4)),))
    assert (report.batch_sizes, report.threads, report.provider) == ((2,), 1, "cpu")
    assert second.kernels.kinds[Kind.INTEGER] == 1
    assert second.footprint is None
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["models"][1]["kernels"]["kinds"]["integer"] == 1
    assert plain["shapes"] == [{"x": [2, 3, 4]}, {"x": [2, 5, 4]}]


def test_a_small_budget_still_gives_five_rounds(fp32: Path) -> None:
    assert bench({"a": fp32}, feeds(3), timing=Timing(rounds=50, seconds=0, memory=False)).rounds == 5


def test_a_block_holds_three_runs_however_short_it_is_to_be(fp32: Path) -> None:
    for block_ms, runs in ((0.0, 3), (1e6, 200)):
        timing = Timing(rounds=5, seconds=0, memory=False, block_ms=block_ms)
        assert bench({"a": fp32}, feeds(3), timing=timing).block == {"a": runs}


def test_sequence_lengths_come_from_the_token_ids(save: Save) -> None:
    path = save("main (int64[N,T] ids) => (int64[N,T] y) { y = Neg(ids) }")
    report = bench(
        {"a": path},
        [{"ids": np.ones((1, t), np.int64)} for t in (7, 9)],
        timing=Timing(rounds=5, memory=False),
    )
    assert report.sequence_lengths == (7, 9)


def test_nothing_to_time_is_an_error(fp32: Path) -> None:
    for models, data in (({}, feeds(3)), ({"a": fp32}, [])):
        with pytest.raises(DataError, match="there is nothing to time"):
            bench(models, data)


def test_a_silent_fallback_is_refused() -> None:
    def node(op_type: str, provider: str, kind: Kind) -> KernelNode:
        return KernelNode(op_type, op_type, "", provider, kind, 1, 1.0, 0.5)

    report = KernelReport(
        "cuda",
        1,
        (
            node("MatMul", "CUDAExecutionProvider", Kind.FLOAT),
            node("QLinearMatMul", "CPUExecutionProvider", Kind.INTEGER),
        ),
    )
    with pytest.raises(
        TargetError,
        match=r"model 'int8': asked for 'cuda', but 1 of 2 nodes ran on CPUExecutionProvider: QLinearMatMul",
    ):
        refuse_fallback("int8", report)
    refuse_fallback("fine", KernelReport("cpu", 1, report.nodes[1:]))
    on_cuda, on_cpu = (KernelReport("tensorrt", 1, (one,)) for one in report.nodes)
    refuse_fallback("TensorRT leaves nodes to CUDA", on_cuda)
    with pytest.raises(TargetError, match="asked for 'tensorrt', but 1 of 1 nodes ran on CPU"):
        refuse_fallback("TensorRT", on_cpu)
    refuse_fallback("allowed by operator", report, ["QLinearMatMul"])
    refuse_fallback("allowed by name", report, ["QLinearMatMul", "nothing"])


def test_a_footprint_is_taken_in_a_process_of_its_own(fp32: Path, save: Save) -> None:
    weight = np.ones((2048, 2048), np.float32)
    large = save(
        "main (float[N,2048] x) => (float[N,2048] y) { y = MatMul(x, w) }", "large.onnx", {"w": weight}
    )
    small = footprint(fp32, feeds(3)[0], Run(threads=1))
    other = footprint(large, {"x": np.ones((1, 2048), np.float32)}, Run(threads=1))
    assert 0 < small.session_bytes < small.peak_bytes
    assert small.create_ms > 0
    # The weights are held at least once: 16 MiB, beside which the small model's are nothing.
    assert other.session_bytes - small.session_bytes > 0.9 * weight.nbytes


def test_a_footprint_is_taken_with_the_sessions_entries(fp32: Path) -> None:
    with pytest.raises(TargetError, match=r"measuring its memory failed: .*Invalid value for optimization"):
        footprint(fp32, feeds(3)[0], Run(entries={"optimization.minimal_build_optimizations": "X"}))


def test_entries_of_one_model_are_not_those_of_another(fp32: Path) -> None:
    models = {"a": fp32, "b": fp32}
    bench(models, feeds(3), timing=Timing(rounds=5), entries={"a": {"session.load_model_format": "ONNX"}})
    with pytest.raises(ModelError, match="Invalid value for optimization"):
        bench(models, feeds(3), entries={"b": {"optimization.minimal_build_optimizations": "X"}})


def test_the_childs_memory_does_not_hold_the_parents(fp32: Path) -> None:
    ballast = np.ones(2**24)  # 128 MiB, touched; a child with ONNX Runtime needs half
    assert footprint(fp32, feeds(3)[0]).peak_bytes < ballast.nbytes < peak_memory()


def test_text_is_handed_to_the_child(save: Save) -> None:
    path = save("main (string[N] s) => (string[N] t) { t = Identity(s) }")
    assert footprint(path, {"s": np.array(["a", "b"], object)}).peak_bytes > 0


def test_a_failing_child_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"measuring its memory failed: .*there is no such file"):
        footprint(tmp_path / "none.onnx", {})


def test_external_data_counts_as_size(save: Save) -> None:
    weights = {"w": np.ones((4, 8), np.float32), "v": np.ones((8, 8), np.float32)}
    text = "main (float[N,T,4] x) => (float[N,T,8] y) { h = MatMul(x, w) y = MatMul(h, v) }"
    inline = save(text, "inline.onnx", weights)
    split = save(
        text, "split.onnx", weights, save_as_external_data=True, location="split.data", size_threshold=0
    )
    assert size_on_disk(inline) == os.path.getsize(inline)
    data = os.path.getsize(split.parent / "split.data")
    assert data >= 4 * (32 + 64)
    assert size_on_disk(split) == os.path.getsize(split) + data


def test_external_data_outside_or_missing_is_refused(save: Save) -> None:
    options = {"save_as_external_data": True, "location": "split.data", "size_threshold": 0}
    path = save(MATMUL, "split.onnx", {"w": np.ones((4, 8), np.float32)}, **options)
    (path.parent / "split.data").unlink()
    with pytest.raises(ModelError, match=r"'w': external data 'split\.data' is missing"):
        size_on_disk(path)
    path.write_bytes(path.read_bytes().replace(b"split.data", b"../lit.dat"))
    with pytest.raises(ModelError, match=r"external data '\.\./lit\.dat' points outside the model's folder"):
        size_on_disk(path)
