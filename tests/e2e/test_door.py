"""Models that ONNX Runtime runs are compiled, in whatever way they are said; it is the judge of both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq import CompileOptions, compile_model, load_recipe

QUIET = CompileOptions(bench=False, choose=False, tune=False)
WEIGHTS = {
    "w": np.random.default_rng(1).normal(0, 0.2, (64, 128)).astype(np.float32),
    "v": np.random.default_rng(2).normal(0, 0.2, (128, 64)).astype(np.float32),
    "one": np.ones(64, np.float32),
    "kernel": np.random.default_rng(3).normal(0, 0.2, (16, 3, 3, 3)).astype(np.float32),
    "scale": np.random.default_rng(4).normal(1, 0.2, 4).astype(np.float32),
    "shift": np.random.default_rng(5).normal(0, 0.2, 4).astype(np.float32),
}
LAYERS = (
    helper.make_node("MatMul", ["x", "w"], ["a"]),
    helper.make_node("Relu", ["a"], ["r"]),
    helper.make_node("MatMul", ["r", "v"], ["y"]),
)
FLOAT, TEXT = TensorProto.FLOAT, TensorProto.STRING
ROWS = helper.make_tensor_value_info("x", FLOAT, ["n", 64])
RESULT = helper.make_tensor_value_info("y", FLOAT, ["n", 64])


def model(
    nodes: Sequence[onnx.NodeProto] = LAYERS,
    given: onnx.ValueInfoProto = ROWS,
    result: onnx.ValueInfoProto = RESULT,
    opsets: Mapping[str, int] = {"": 17},
    ir_version: int = 8,
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    weights = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in read]
    graph = helper.make_graph(nodes, "g", [given], [result], weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def normalized(op_type: str, opset: int) -> onnx.ModelProto:
    first = helper.make_node(op_type, ["x", "one"], ["h"], axis=-1, epsilon=1e-6)
    return model([first, helper.make_node("MatMul", ["h", "w"], ["a"]), *LAYERS[1:]], opsets={"": opset})


def grouped() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["h"], pads=[1] * 4),
        helper.make_node("GroupNormalization", ["h", "scale", "shift"], ["y"], num_groups=4, epsilon=1e-3),
    ]
    image = helper.make_tensor_value_info("x", FLOAT, ["n", 3, 8, 8])
    return model(nodes, image, helper.make_tensor_value_info("y", FLOAT, ["n", 16, 8, 8]), {"": 18})


def scaled(op_type: str, domain: str, **attributes: Any) -> onnx.ModelProto:
    """Return a model with an operator of a domain that it does not import."""
    last = helper.make_node(op_type, ["y"], ["z"], domain=domain, **attributes)
    return model([*LAYERS, last], result=helper.make_tensor_value_info("z", FLOAT, ["n", 64]))


FORMS = {
    "root mean square in the standard domain": normalized("SimplifiedLayerNormalization", 17),
    "layer normalization before it was standard": normalized("LayerNormalization", 13),
    "a scale for each group": grouped(),
    "nodes in another order": model(LAYERS[::-1]),
    "no import of an operator of ONNX Runtime": scaled("QuickGelu", "com.microsoft", alpha=1.0),
    "no import of a standard domain": scaled("Scaler", "ai.onnx.ml", offset=[0.5] * 64, scale=[2.0] * 64),
    "no import of the standard operators": model(opsets={"com.microsoft": 1}),
    "weights that are no inputs in IR version 3": model(opsets={"": 9}, ir_version=3),
    "an input without a shape": model(given=helper.make_tensor_value_info("x", FLOAT, None)),
    "an output without a shape": model(result=helper.make_tensor_value_info("y", FLOAT, None)),
    "an output without a type": model(result=onnx.ValueInfoProto(name="y")),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_onnx_runtime_runs_is_compiled(form: str, tmp_path: Path) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(FORMS[form], source)
    shape = (2, 3, 8, 8) if form == "a scale for each group" else (2, 64)
    fed = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    before = run(source, fed)
    compile_model(source, output, recipe=load_recipe("fp32"), options=QUIET)
    # float32 sums of at most 128 terms, in another order: 128 * 2**-24 of values around 10
    np.testing.assert_allclose(run(output, fed), before, rtol=1e-4, atol=1e-4)
    compile_model(source, output, recipe=load_recipe("cpu-dynamic"), options=QUIET)
    noise = np.square(run(output, fed) - before).sum() / np.square(before).sum()
    assert noise < 10**-2, "8 bits give 30 dB and more of layers like these"


def run(path: Path, fed: Mapping[str, np.ndarray]) -> np.ndarray:
    (found,) = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, dict(fed))
    return np.asarray(found)


ROWS_OF_MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TEXT, helper.make_tensor_type_proto(FLOAT, []))
)


def zipped() -> onnx.ModelProto:
    last = helper.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_strings=names(64))
    return model([*LAYERS, last], result=helper.make_value_info("z", ROWS_OF_MAPS))


def test_maps_come_out_as_before(tmp_path: Path) -> None:
    onnx.save(zipped(), tmp_path / "model.onnx")
    compile_model(
        tmp_path / "model.onnx", tmp_path / "out.onnx", recipe=load_recipe("cpu-dynamic"), options=QUIET
    )
    fed = {"x": np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)}
    found = onnx.load(tmp_path / "out.onnx").graph
    assert [(one.name, one.type) for one in found.output] == [("z", ROWS_OF_MAPS)]
    rows = [ort.InferenceSession(tmp_path / name).run(["z"], fed)[0] for name in ("model.onnx", "out.onnx")]
    before, after = (np.array([[row[name] for name in names(64)] for row in one]) for one in rows)
    assert 0 < np.square(after - before).sum() < 10**-2 * np.square(before).sum()


def test_maps_are_compared_for_a_provider_that_is_not_here(tmp_path: Path) -> None:
    """On the CPU, with float16 rounded as there: each number by at most 2**-11, so far more than 40 dB."""
    from onnxq.runtime.session import usable_provider

    if usable_provider("cuda") is not None:
        pytest.skip("CUDA is here")
    proto = zipped()
    onnx.save(proto, tmp_path / "model.onnx")
    found = compile_model(
        tmp_path / "model.onnx", tmp_path / "out.onnx", recipe=load_recipe("cuda"), options=QUIET
    )
    assert found.manifest.accuracy is not None
    (output,) = found.manifest.accuracy.outputs
    assert (output.name, output.sqnr_db is not None and output.sqnr_db > 40) == ("z", True)


@pytest.mark.parametrize("op_type", ["CastMap", "DictVectorizer"])
def test_maps_go_in_as_before(op_type: str, tmp_path: Path) -> None:
    keys = {"CastMap": TensorProto.INT64, "DictVectorizer": TEXT}
    settings: dict[str, dict[str, Any]] = {
        "CastMap": {"cast_to": "TO_FLOAT", "map_form": "SPARSE", "max_map": 64},
        "DictVectorizer": {"string_vocabulary": names(64)},
    }
    first = helper.make_node(op_type, ["d"], ["x"], domain="ai.onnx.ml", **settings[op_type])
    kind = helper.make_map_type_proto(keys[op_type], helper.make_tensor_type_proto(FLOAT, []))
    proto = model([first, *LAYERS], helper.make_value_info("d", kind), opsets={"": 17, "ai.onnx.ml": 1})
    onnx.save(proto, tmp_path / "model.onnx")
    compile_model(
        tmp_path / "model.onnx", tmp_path / "out.onnx", recipe=load_recipe("cpu-dynamic"), options=QUIET
    )
    assert "not compared, as random inputs do not run" in (tmp_path / "out.report.md").read_text()
    fed = {"d": {5: 1.0} if op_type == "CastMap" else {"k5": 1.0}}
    before, after = (
        ort.InferenceSession(tmp_path / name).run(None, fed)[0] for name in ("model.onnx", "out.onnx")
    )
    assert 0 < np.square(after - before).sum() < 10**-2 * np.square(before).sum()


def names(count: int) -> list[str]:
    return [f"k{number}" for number in range(count)]
