"""Opening and running models, and the messages when that fails."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import DataError, ModelError, TargetError
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.fallback import refuse_fallback
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.run import Run
from onnxq.runtime.session import ValueSpec, open_session, short_reason, usable_provider

Save = Callable[..., Path]
HAS_CUDA = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()
RELU = "main (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"
TWO = "main (float[N,4] x, int64[K] i) => (float[K,4] y) { y = Gather(x, i) }"
X = np.array([[-1, 0, 1, 2]], np.float32)


def test_a_session_tells_its_inputs_outputs_and_provider(save: Save) -> None:
    session = open_session(save(TWO), Run(threads=1))
    assert [(spec.name, spec.dtype, spec.shape) for spec in session.inputs] == [
        ("x", np.dtype("float32"), ("N", 4)),
        ("i", np.dtype("int64"), ("K",)),
    ]
    assert session.outputs == (ValueSpec("y", "tensor(float)", ("K", 4)),)
    assert session.outputs[0].to_dict() == {"name": "y", "type": "tensor(float)", "shape": ["K", 4]}
    assert session.providers == ("CPUExecutionProvider",)
    assert session.create_ms > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.source = "other"  # type: ignore[misc]


@pytest.mark.parametrize("form", ["path", "bytes", "proto"])
def test_every_form_of_a_model_runs(save: Save, form: str) -> None:
    path = save(RELU)
    forms = {"path": path, "bytes": path.read_bytes(), "proto": onnx.load(path)}
    np.testing.assert_array_equal(open_session(forms[form]).run({"x": X})["y"], np.maximum(X, 0))


@pytest.mark.parametrize("form", ["path", "bytes", "proto"])
def test_inner_values_come_out_when_asked_for(save: Save, form: str) -> None:
    path = save("main (float[N,4] x) => (float[N,4] y) { h = Neg(x) y = Relu(h) }")
    forms = {"path": path, "bytes": path.read_bytes(), "proto": onnx.load(path)}
    before = path.read_bytes()
    session = open_session(forms[form], extra_outputs=["h", "y"])
    assert session.output_names == ("y", "h")
    np.testing.assert_array_equal(session.run({"x": X})["h"], -X)
    assert path.read_bytes() == before
    assert [value.name for value in forms["proto"].graph.output] == ["y"]


def test_external_data_is_found_with_and_without_inner_values(save: Save) -> None:
    weight = np.eye(4, dtype=np.float32) * 3
    path = save(
        "main (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) y = Relu(h) }",
        "external.onnx",
        {"w": weight},
        save_as_external_data=True,
        location="external.data",
        size_threshold=0,
    )
    np.testing.assert_array_equal(open_session(path).run({"x": X})["y"], np.maximum(3 * X, 0))
    np.testing.assert_array_equal(open_session(path, extra_outputs=["h"]).run({"x": X})["h"], 3 * X)
    session = open_session(path.read_bytes(), external_data_folder=path.parent)
    np.testing.assert_array_equal(session.run({"x": X})["y"], np.maximum(3 * X, 0))


def test_a_missing_data_file_is_named(save: Save) -> None:
    path = save(
        "main (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }",
        "external.onnx",
        {"w": np.eye(4, dtype=np.float32)},
        save_as_external_data=True,
        location="external.data",
        size_threshold=0,
    )
    (path.parent / "external.data").unlink()
    with pytest.raises(ModelError, match=r"cannot load it: External data .*does not exist.*external\.data"):
        open_session(path)


def test_initializers_listed_as_inputs_need_no_data(save: Save) -> None:
    path = save(
        "main (float[N,4] x, float[4] b) => (float[N,4] y) { y = Add(x, b) }", weights={"b": np.ones(4, "f4")}
    )
    session = open_session(path)
    assert [spec.name for spec in session.inputs] == ["x"]
    np.testing.assert_array_equal(session.run({"x": X})["y"], X + 1)


def test_surplus_feeds_are_dropped(save: Save) -> None:
    assert list(open_session(save(RELU)).select({"x": X, "z": X})) == ["x"]


def test_missing_feeds_are_named_with_what_there_is(save: Save) -> None:
    with pytest.raises(DataError, match=r"model\.onnx: no data for input 'i'") as caught:
        open_session(save(TWO)).run({"x": X, "ids": np.zeros(1, np.int64)})
    assert caught.value.hint == "the data has: ids, x"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (X.astype(np.float64), "input 'x': the data is float64, the model wants float32"),
        (X[:, :3], r"input 'x': the data has shape \[1, 3\], the model wants \['N', 4\]"),
        (X[0], r"input 'x': the data has shape \[4\], the model wants \['N', 4\]"),
    ],
)
def test_feeds_that_do_not_fit_are_explained(save: Save, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_session(save(RELU)).run({"x": array})


def test_a_failing_run_gives_one_line(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"failed on these feeds: .*out of data bounds, idx=7") as caught:
        open_session(save(TWO)).run({"x": X, "i": np.array([7])})
    assert "\n" not in str(caught.value)
    assert (caught.value.hint or "").startswith("it was fed x float32[1, 4], i int64[1]; sizes or values may")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_a_missing_provider_names_those_there_are(save: Save) -> None:
    with pytest.raises(TargetError, match="has no provider 'cuda'") as caught:
        open_session(save(RELU), Run("cuda"))
    assert caught.value.hint == 'it has: cpu; pip install "onnxq[cuda]" for an NVIDIA GPU'


@pytest.mark.cuda
@pytest.mark.skipif(usable_provider("tensorrt") is None, reason="needs TensorRT and an NVIDIA GPU")
def test_tensorrt_runs_when_it_is_there(save: Save) -> None:
    path = save("main (float[4,4] x) => (float[4,4] y) { a = MatMul(x, x) y = Softmax(a) }")
    session = open_session(path, Run("tensorrt"))
    assert session.providers[0] == "TensorrtExecutionProvider"
    x = np.eye(4, dtype=np.float32)
    # 1e-3: TensorRT may multiply in TF32, which has 10 bits of precision.
    np.testing.assert_allclose(session.run({"x": x})["y"], open_session(path).run({"x": x})["y"], atol=1e-3)
    refuse_fallback("compiled", kernel_report(path, {"x": x}, Run("tensorrt")))


@pytest.mark.cuda
@pytest.mark.skipif(usable_provider("cuda") is None, reason="needs onnxruntime-gpu and an NVIDIA GPU")
def test_cuda_runs_when_there_is_one(save: Save) -> None:
    session = open_session(save(RELU), Run("cuda"))
    assert session.providers[0] == "CUDAExecutionProvider"
    np.testing.assert_array_equal(session.run({"x": X})["y"], np.maximum(X, 0))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: there is no such file"):
        open_session(tmp_path / "none.onnx")


@pytest.mark.parametrize("extra", [(), ("h",)])
def test_bytes_that_are_no_model_are_refused(
    tmp_path: Path, extra: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\xff not a model")
    with pytest.raises(ModelError, match=r"bad\.onnx: .*(Protobuf parsing failed|not an ONNX model)"):
        open_session(path, extra_outputs=extra)
    assert capfd.readouterr().err == ""


def test_an_unknown_operator_is_named(save: Save) -> None:
    path = save("main (float[N,4] x) => (float[N,4] y) { y = com.microsoft.Nothing(x) }")
    with pytest.raises(ModelError, match=r"cannot load it: Fatal error: com\.microsoft:Nothing"):
        open_session(path)


def test_reasons_lose_codes_paths_and_signatures() -> None:
    error = RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 "
        "onnxruntime::Model::Model(onnx::ModelProto&&, const Options&) Unsupported model IR version: 99\n"
    )
    assert short_reason(error) == "Unsupported model IR version: 99"
    assert short_reason(ValueError("x" * 500)) == "x" * 297 + "..."


def test_nothing_is_written_beside_the_model_or_in_the_working_directory(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(RELU)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    open_session(path, extra_outputs=["y"]).run({"x": X})
    assert os.listdir(work) == []
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "work"]


def test_text_and_sequences_go_through(save: Save) -> None:
    path = save(
        """main (string[N] s, float[N] x) => (string[N] t, seq(float[N]) q)
        { t = Identity(s) q = SequenceConstruct(x, x) }"""
    )
    result = open_session(path).run({"s": np.array(["a", "b"]), "x": np.ones(2, np.float32)})
    assert result["t"].tolist() == ["a", "b"]
    assert len(result["q"]) == 2


def test_threads_and_optimization_reach_the_options(save: Save, tmp_path: Path) -> None:
    text = "main (float[N,4] x) => (float[N,4] y) { h = Identity(x) y = Relu(h) }"
    saved = {level: tmp_path / f"{level}.onnx" for level in ("none", "all")}
    for level, path in saved.items():
        session = open_session(save(text), Run(threads=1), optimization=level, optimized_model_path=path)  # type: ignore[arg-type]
        assert session.inference.get_session_options().intra_op_num_threads == 1
    assert {level: len(onnx.load(path).graph.node) for level, path in saved.items()} == {"none": 2, "all": 1}


def test_float32_is_rounded_where_the_model_takes_float16(save: Save) -> None:
    session = open_session(save("main (float16[N] x) => (float16[N] y) { y = Neg(x) }"), Run(threads=1))
    fed = session.select({"x": np.array([1, 1 / 3], np.float32)})["x"]
    assert (fed.dtype, fed.tolist()) == (np.float16, [1, float(np.float16(1 / 3))])
    with pytest.raises(DataError, match="the data is float64, the model wants float16"):
        session.select({"x": np.ones(2)})
