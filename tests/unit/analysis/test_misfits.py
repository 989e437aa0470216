"""What cannot run is told from what can: sizes that ONNX Runtime looks at only once a model runs."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxq.analysis.misfits import contradicts_itself
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.errors import ModelError
from onnxq.recipe import load_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

UNTIMED = CompileOptions(validate=False, bench=False, tune=False, choose=False, threads=1)

RUNS = [
    (8, "float[N,3] x, float[3,2] w, float[2] b", "Gemm(x, w, b)"),
    (8, "float[3,N] x, float[2,3] w, float[N,1] b", "Gemm<transA=1, transB=1>(x, w, b)"),
    (8, "float[N,3] x, float[3,2] w, float[1,1] b", "Gemm(x, w, b)"),
    (8, "float[N,M] x, float[3,2] w, float[L] b", "Gemm(x, w, b)"),
    (21, "float[N,3] x, float[3,2] w, float b", "Gemm(x, w, b)"),
    (8, "float[N,4,8,8] x, float[6,2,3,3] w, float[6] b", "Conv<group=2>(x, w, b)"),
    (8, "float[N,4,8] x, float[4,3,2] w, float[6] b", "ConvTranspose<group=2>(x, w, b)"),
    (8, "float[N,4,8] x, float[4] s, float[4] t", "BatchNormalization(x, s, t, s, t)"),
    (8, "float[N,4,8] x, float[32] s", "BatchNormalization<spatial=0>(x, s, s, s, s)"),
]
FAILS = [
    (
        *(8, "float[N,7] x, float[3,2] w, float[2] b", "Gemm(x, w, b)"),
        "axis 1 of 'x' is of length 7, and axis 0 of 'w' asks for 3",
    ),
    (
        *(11, "float[7,N] x, float[2,3] w, float[2] b", "Gemm<transA=1, transB=1>(x, w, b)"),
        "axis 0 of 'x' is of length 7, and axis 1 of 'w' asks for 3",
    ),
    (
        *(21, "float[N,3] x, float[3,2] w, float[5] b", "Gemm(x, w, b)"),
        "axis -1 of 'b' is of length 5, and axis 1 of 'w' asks for 2",
    ),
    (
        *(21, "float[4,3] x, float[3,2] w, float[5,1] b", "Gemm(x, w, b)"),
        "axis -2 of 'b' is of length 5, and axis 0 of 'x' asks for 4",
    ),
    (
        *(21, "float[N,3,8,8] x, float[6,2,3,3] w", "Conv<group=2>(x, w)"),
        "axis 1 of 'x' is of length 3, and axis 1 of 'w' asks for 4",
    ),
    (
        *(21, "float[N,2,8,8] x, float[6,2,3,3] w, float[5] b", "Conv(x, w, b)"),
        "axis 0 of 'b' is of length 5, and axis 0 of 'w' asks for 6",
    ),
    (
        *(21, "float[N,3,8] x, float[4,3,2] w", "ConvTranspose(x, w)"),
        "axis 1 of 'x' is of length 3, and axis 0 of 'w' asks for 4",
    ),
    (
        *(21, "float[N,4,8] x, float[4,3,2] w, float[3] b", "ConvTranspose<group=2>(x, w, b)"),
        "axis 0 of 'b' is of length 3, and axis 1 of 'w' asks for 6",
    ),
    (
        *(9, "float[N,4,8] x, float[5] s, float[4] t", "BatchNormalization(x, t, t, t, s)"),
        "axis 0 of 's' is of length 5, and axis 1 of 'x' asks for 4",
    ),
]


def model(opset: int, inputs: str, call: str) -> ir.Model:
    rank = inputs.split("]")[0].count(",")
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]>
    main ({inputs}) => (float[{",".join("ABCD"[: rank + 1])}] y) {{ [node] y = {call} }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize(("opset", "inputs", "call"), RUNS)
def test_what_fits_is_not_refused(opset: int, inputs: str, call: str) -> None:
    assert contradicts_itself(model(opset, inputs, call)) is None


@pytest.mark.parametrize(("opset", "inputs", "call", "reason"), FAILS)
def test_what_onnxruntime_opens_though_it_cannot_run_is_named(
    opset: int, inputs: str, call: str, reason: str
) -> None:
    operator = call.partition("(")[0].partition("<")[0]
    open_session(ir.to_proto(model(opset, inputs, call)), Run(threads=1), optimization="none")
    assert contradicts_itself(model(opset, inputs, call)) == f"{operator} 'node' cannot run, as {reason}"


def test_it_is_looked_for_behind_other_nodes_in_functions_and_in_branches() -> None:
    text = """<ir_version: 8, opset_import: ["" : 11, "own" : 1]>
    main (float[N,4] x, float[4,5] v, float[3,2] w, bool c) => (float[N,M] y) {
        h = MatMul(x, v)
        y = If (c) <then_branch = a () => (float[N,M] p) { p = own.Product(h, w) },
                    else_branch = b () => (float[N,M] q) { q = Identity(h) }> }
    <domain: "own", opset_import: ["" : 11]> Product (a, b) => (c) { c = Gemm(a, b) }"""
    reason = contradicts_itself(ir.from_proto(onnx.parser.parse_model(text)))
    assert reason is not None
    assert reason.endswith("cannot run, as axis 1 of 'h' is of length 5, and axis 0 of 'w' asks for 3")


def test_what_onnx_finds_is_named() -> None:
    reason = contradicts_itself(model(21, "float[N,7] x, float[3,2] w", "MatMul(x, w)"))
    assert reason is not None
    assert "node name: node" in reason
    assert "Incompatible dimensions for matrix multiplication" in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("opset", "body", "weights"),
    [
        (8, "[node] h = Gemm(x, w, b) y = Relu(h)", {"w": (3, 2), "b": (2,)}),
        (21, "[node] h = Gemm(x, w, b) y = Relu(h)", {"w": (7, 2), "b": (3,)}),
        (
            *(9, "h = Gemm(x, w, c) [node] y = BatchNormalization(h, b, b, b, b)"),
            {"w": (7, 2), "b": (3,), "c": (2,)},
        ),
    ],
)
def test_compiling_such_a_model_fails_on_the_users_side(
    opset: int, body: str, weights: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> main (float[N,7] x) => (float[N,2] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    proto.graph.initializer.extend(tensors)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    open_session(path, Run(threads=1))
    with pytest.raises(ModelError, match=r"the model is not valid: .* 'node' cannot run") as caught:
        compile_model(path, tmp_path / "o.onnx", recipe=load_recipe("cpu-dynamic"), options=UNTIMED)
    assert caught.value.where == str(path)
