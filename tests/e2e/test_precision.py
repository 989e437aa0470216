"""Precision by name, end to end: layers and values have in the written graph what the recipe assigns."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_recipe, open_feeds
from onnxq.calibration.data import input_specs
from onnxq.compile import CompileResult
from onnxq.digits import DIGITS_MODEL
from onnxq.errors import RecipeError
from onnxq.ir.store import load_model
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.precision import Precision
from onnxq.recipe import Recipe
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.provenance import LayerState
from onnxq.search.forms import groups_of
from onnxq.target import find_target

QUICK = CompileOptions(bench=False, tune=False, choose=False)
BUILT = CompileOptions(bench=False, tune=False, choose=False, validate=False)
WEIGHTS = {"w1": (8, 1, 3, 3), "w2": (16, 8, 3, 3), "w3": (16, 64), "w4": (64, 64), "w5": (64, 10)}
GRAPH = """main (float[N,1,8,8] x) => (float[N,10] y)
{
    [first] a = Conv<pads = [1, 1, 1, 1]>(x, w1)
    b = Relu(a)
    [second] c = Conv(b, w2)
    d = Relu(c)
    e = GlobalAveragePool(d)
    f = Flatten(e)
    [gemm] h = Gemm(f, w3, b3)
    i = Relu(h)
    [proj] j = MatMul(i, w4)
    [head] y = MatMul(j, w5)
}"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, graph = np.random.default_rng(0), onnx.parser.parse_graph(GRAPH)
    for name, shape in (WEIGHTS | {"b3": (64,)}).items():
        weight = rng.normal(size=shape).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    path = tmp_path_factory.mktemp("precision") / "model.onnx"
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def data(model: Path) -> Dataset:
    x = np.random.default_rng(1).normal(size=(16, 1, 8, 8)).astype(np.float32)
    return open_feeds("x", lambda: [{"x": x}], input_specs(load_model(model).model))


def compiled(
    model: Path, data: Dataset | None, output: Path, recipe: Recipe, **assigned: str
) -> CompileResult:
    """Compile with precisions of layers, whose names stand for themselves, and ``all`` for every one."""
    layers = {name.replace("all", "*"): precision for name, precision in assigned.items()}
    given = data if recipe.needs_data else None
    return compile_model(
        model, output, recipe=recipe.with_precision(Precision(layers)), data=given, options=QUICK
    )


def weights(output: Path) -> list[str]:
    """Return the types of the weights in the file, in the order of the layers."""
    types = {
        tensor.name.removesuffix("_q"): tensor.data_type for tensor in onnx.load(output).graph.initializer
    }
    return [onnx.TensorProto.DataType.Name(types[name]).lower() for name in WEIGHTS]


def mixed(name: str) -> Recipe:
    """Return a shipped recipe that can store weights in blocks, too."""
    recipe = load_recipe(name)
    text = recipe.pipeline.replace(", encode-embeddings", ", encode-weight-blocks, encode-embeddings")
    return recipe.model_copy(update={"pipeline": text.replace("minimum=13", "minimum=21")})


def test_layers_stay_in_float_by_name_a_gemm_taken_apart_as_well(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    result = compiled(model, data, tmp_path / "o.onnx", load_recipe("cpu"), gemm="float", second="float")
    assert weights(result.output) == ["int8", "float", "float", "int8", "int8"]
    assert [(one.name, one.assigned, one.given) for one in result.manifest.precision] == [
        ("second", "float", "float"),
        ("gemm", "float", "float"),
    ]
    skipped = {one.node: one.reason for record in result.manifest.passes for one in record.skipped}
    assert skipped["second"] == "the recipe assigns float to it"


def test_weights_of_4_and_8_bits_and_of_float_stand_in_one_file(model: Path, tmp_path: Path) -> None:
    recipe = load_recipe("cpu-size")
    result = compiled(model, None, tmp_path / "o.onnx", recipe, gemm="w8", head="float")
    assert weights(result.output) == ["int8", "int8", "uint8", "uint4", "float"]


@pytest.mark.parametrize(("name", "convolutions"), [("cpu", "int8"), ("cpu-dynamic", "float")])
def test_a_layer_in_blocks_reads_floats_among_layers_in_integers(
    name: str, convolutions: str, model: Path, data: Dataset, tmp_path: Path
) -> None:
    result = compiled(model, data, tmp_path / "o.onnx", mixed(name), all="int8", proj="w4")
    assert weights(result.output) == [convolutions, convolutions, "int8", "uint4", "int8"]
    graph = onnx.load(result.output).graph
    product = next(node for node in graph.node if node.op_type == "MatMul" and node.output[0] == "j")
    makers = {output: node.op_type for node in graph.node for output in node.output}
    assert makers[product.input[0]] not in ("DequantizeLinear", "DynamicQuantizeLinear")
    assert result.accuracy is not None
    # Blocks of 32 normal weights reach to 2.1 sigma on both sides: a step of 15 is 0.28 sigma wide, and the
    # error 0.28 / sqrt(12) = 8 % of the weights, a cosine of 0.997; 8 bits in other layers add little.
    assert result.accuracy.outputs[0].cosine > 0.99
    missed = [one.name for one in result.manifest.precision if one.given != one.assigned]
    assert missed == ([] if name == "cpu" else ["first", "second"])
    told = "not in the precision that the recipe assigns: layer 'first' (float, not int8)"
    assert any(one.startswith(told) for one in result.manifest.warnings) == bool(missed)


@pytest.mark.usefixtures("kernels_of_the_processor")
@pytest.mark.parametrize(
    ("name", "usual", "table"),
    [
        ("cpu", LayerState.INTEGER, {"node_MatMul_4[0-9]": "float", "node_MatMul_44": "int8"}),
        ("cpu-size", LayerState.WEIGHT_ONLY, {"node_MatMul_4?": "float", "node_MatMul_44": "w8"}),
    ],
)
def test_a_trained_model_runs_each_layer_in_the_kernel_of_its_precision(
    name: str, usual: LayerState, table: dict[str, str], tmp_path: Path
) -> None:
    """Of the digits transformer, MatMul_40, 42 and 46 and the head, a Gemm, are put into float."""
    images = {"image": np.random.default_rng(0).random((8, 1, 8, 8), np.float32)}
    data = open_feeds("noise", lambda: [images], input_specs(load_model(DIGITS_MODEL).model))
    plain = load_recipe(name)
    states = []
    for recipe in (plain, plain.with_precision(Precision({**table, "node_linear_12": "float"}))):
        output = tmp_path / f"{len(states)}.onnx"
        compile_model(DIGITS_MODEL, output, recipe=recipe, data=data, options=BUILT)
        report = kernel_report(output, images, source=DIGITS_MODEL)
        states.append({layer.name: layer.state for layer in report.provenance.layers})
    moved = {layer for layer, state in states[0].items() if states[1][layer] is not state}
    assert moved == {"node_MatMul_40", "node_MatMul_42", "node_MatMul_46", "node_linear_12"}
    assert {states[0][layer] for layer in moved} == {usual}
    assert {states[1][layer] for layer in moved} == {LayerState.FLOAT}
    assert "## Precision by name" in (tmp_path / "1.report.md").read_text()


def test_values_have_what_is_assigned_to_them(model: Path, data: Dataset, tmp_path: Path) -> None:
    recipe = load_recipe("cpu").with_options(["convert-opset.minimum=21"])
    recipe = recipe.with_precision(Precision(values={"?": "uint8", "i": "uint16", "x": "float"}))
    result = compile_model(model, tmp_path / "o.onnx", recipe=recipe, data=data, options=QUICK)
    graph = onnx.load(result.output).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    quantized = {
        node.input[0]: types[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"
    }
    assert "x" not in quantized
    assert list(quantized.values()).count(onnx.TensorProto.UINT16) == 1
    assert set(quantized.values()) == {onnx.TensorProto.UINT16, onnx.TensorProto.UINT8}
    given = {one.name: one.given for one in result.manifest.precision}
    assert (given["i"], given["x"], given["b"]) == ("uint16", "float", "uint8")


def test_an_old_operator_set_has_no_16_bits_and_a_warning_says_so(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    proto = onnx.load(model)
    proto.opset_import[0].version = 17
    onnx.save(proto, old := tmp_path / "old.onnx")
    recipe = load_recipe("cpu").with_precision(Precision(values={"i": "uint16"}))
    result = compile_model(old, tmp_path / "o.onnx", recipe=recipe, data=data, options=QUICK)
    assert any("value 'i' (float, not uint16)" in one for one in result.manifest.warnings)
    reasons = {one.reason for record in result.manifest.passes for one in record.skipped}
    needed = "operator set 17 has no uint16: convert-opset{minimum=21} brings it"
    assert f"'i' stays in float: {needed}" in reasons


def test_a_manifest_repeats_what_was_assigned(model: Path, data: Dataset, tmp_path: Path) -> None:
    first = compiled(model, data, tmp_path / "a.onnx", mixed("cpu"), all="int8", proj="w4", gemm="float")
    again = load_recipe(tmp_path / "a.manifest.json")
    assert again == first.manifest.recipe
    assert list(again.precision.layers) == ["*", "proj", "gemm"]
    compile_model(model, tmp_path / "b.onnx", recipe=again, data=data, options=QUICK)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_fits_nothing_or_cannot_be_had_is_refused(model: Path, data: Dataset, tmp_path: Path) -> None:
    for layers, message, hint in (
        ({"haed": "float"}, "precision.layers: 'haed': no layer is called so", "did you mean 'head'?"),
        (
            {"head": "w4"},
            "no pass of the pipeline gives layers the precision 'w4'",
            "choose from: float, int8",
        ),
    ):
        with pytest.raises(RecipeError, match=message) as caught:
            compiled(model, data, tmp_path / "o.onnx", load_recipe("cpu"), **layers)
        assert caught.value.hint == hint
        assert not (tmp_path / "o.onnx").exists()


def test_a_recipe_that_decides_nothing_refuses_a_name_that_fits_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no layer is called so"):
        compiled(model, None, tmp_path / "o.onnx", load_recipe("fp32"), haed="float")


def test_tuning_leaves_alone_what_is_assigned(model: Path) -> None:
    module = load_model(model)
    PassManager(parse_pipeline("infer-shapes, encode-weights"), find_target("cpu")).run(module)
    assert len(groups_of(module, Precision())) == len(WEIGHTS)
    assert [*groups_of(module, Precision({"proj": "int8", "first": "int8", "?e*": "int8"}))] == []
    assert [*groups_of(module, Precision({"proj": "int8", "gemm": "float", "first": "int8"}))] == [
        "Conv 16x8x3x3",
        "MatMul 64x10",
    ]
