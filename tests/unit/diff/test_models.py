"""Differences of a model with itself, with other forms of it, and with what tools made of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.diff.flat import Flat
from onnxq.diff.models import diff_models, read_graph
from onnxq.diff.result import ModelDiff
from onnxq.diff.weights import bits_per_weight, stored_weights
from onnxq.errors import InputError, ModelError
from onnxq.ir.store import save_model
from onnxq.ir.text import parse, render
from onnxq.recipe import Recipe, load_recipe

REPOSITORY = Path(__file__).resolve().parents[3]
MODELS = sorted((REPOSITORY / "models").glob("*.onnxtxt"))
Renamed = Callable[[Path], Path]

MLP = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,64] x) => (float[N,64] y)
<float[64,64] w1 = {%s}, float[64,64] w2 = {%s}, float[64] b = {%s}>
{
    [first] a = MatMul(x, w1)
    [bias] c = Add(a, b)
    [act] d = Relu(c)
    [second] y = MatMul(d, w2)
}
"""


def mlp(seed: int) -> str:
    rng = np.random.default_rng(seed)
    parts = (", ".join(f"{number:.6f}" for number in rng.normal(size=size)) for size in (4096, 4096, 64))
    return MLP % tuple(parts)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mlp.onnx"
    save_model(parse(mlp(0)), path)
    return path


def changed(model: Path, edit: Callable[[ir.Model], None]) -> Path:
    module = read_graph(model)
    edit(module.model)
    path = model.with_name("changed.onnx")
    save_model(module, path)
    return path


def node(model: ir.Model, name: str) -> ir.Node:
    return next(one for one in model.graph if one.name == name)


def patterns(diff: ModelDiff) -> dict[str, int]:
    return {row.pattern: row.count for row in diff.patterns}


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_with_itself_renamed_differs_in_nothing(path: Path, tmp_path: Path, renamed: Renamed) -> None:
    model = tmp_path / "model.onnx"
    save_model(parse(path.read_text()), model)
    diff = diff_models(model, renamed(model))
    assert not diff, diff.patterns
    assert not diff.unaligned


def test_another_attribute_is_a_rewritten_node(model: Path, renamed: Renamed) -> None:
    def edit(graph: ir.Model) -> None:
        relu = node(graph, "act")
        relu.op_type = "LeakyRelu"
        relu.attributes["alpha"] = ir.AttrFloat32("alpha", 0.5)

    first = changed(model, edit)
    second = first.with_name("second.onnx")
    module = read_graph(first)
    node(module.model, "act").attributes["alpha"] = ir.AttrFloat32("alpha", 0.25)
    save_model(module, second)
    for other in (second, renamed(second)):
        diff = diff_models(first, other)
        assert {kind: count for kind, count in diff.counts.items() if count} == {"same": 3, "rewritten": 1}
        assert patterns(diff) == {"LeakyRelu": 1}


def test_other_weights_are_told_as_values(model: Path) -> None:
    other = model.with_name("other.onnx")
    module = read_graph(model)
    weight = module.graph.initializers["w1"]
    weight.const_value = ir.Tensor(weight.const_value.numpy() + np.float32(1e-3), name="w1")
    save_model(module, other)
    diff = diff_models(model, other)
    assert diff.counts["rewritten"] == 1
    assert [(pair.before.name, pair.differs) for pair in diff.tensors] == [("w1", ("values",))]
    assert diff.tensors[0].likeness == pytest.approx(1, abs=1e-5)  # 1e-3 on values of size 1


def test_a_transposed_weight_in_a_gemm_is_found_by_its_content(model: Path, renamed: Renamed) -> None:
    def edit(graph: ir.Model) -> None:
        product = node(graph, "second")
        weight = graph.graph.initializers["w2"]
        weight.const_value = ir.Tensor(np.ascontiguousarray(weight.const_value.numpy().T), name="w2")
        product.op_type = "Gemm"
        product.attributes["transB"] = ir.AttrInt64("transB", 1)

    diff = diff_models(model, renamed(changed(model, edit)))
    assert not diff.unaligned
    assert patterns(diff) == {"MatMul -> Linear": 1}


def test_merged_weights_are_found_in_their_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(16, 16)).astype(np.float32) for _ in range(3)]
    texts = [", ".join(map(str, part.ravel())) for part in parts]
    before = parse(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        main (float[N,16] x) => (float[N,16] q, float[N,16] k, float[N,16] v)
        <float[16,16] a = {{{texts[0]}}}, float[16,16] b = {{{texts[1]}}}, float[16,16] c = {{{texts[2]}}}>
        {{ [p] q = MatMul(x, a)  [r] k = MatMul(x, b)  [s] v = MatMul(x, c) }}"""
    )
    merged = ", ".join(map(str, np.concatenate(parts, 1).ravel()))
    after = parse(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        main (float[N,16] x) => (float[N,16] one, float[N,16] two, float[N,16] three)
        <float[16,48] w = {{{merged}}}>
        {{ [all] h = MatMul(x, w)  [cut] one, two, three = Split<axis = 1, num_outputs = 3>(h) }}"""
    )
    paths = tmp_path / "before.onnx", tmp_path / "after.onnx"
    for module, path in zip((before, after), paths, strict=True):
        save_model(module, path)
    diff = diff_models(*paths)
    assert [one.after for one in diff.counterparts] == [("all",)] * 3


@pytest.mark.parametrize("options", ["", ", symmetric=true", ", bits=8"])
def test_weights_of_matmulnbits_are_read_with_their_zero_points(model: Path, options: str) -> None:
    output = model.with_name("blocks.onnx")
    pipeline = f"infer-shapes, encode-weight-blocks{{block=32{options}}}, insert-qdq, fuse-block-matmul"
    quiet = CompileOptions(validate=False, bench=False)
    compile_model(model, output, recipe=Recipe(name="blocks", pipeline=pipeline), options=quiet)
    weights = [pair for pair in diff_models(model, output).tensors if pair.kind == "weight"]
    bits = 8 if "8" in options else 4
    assert len(weights) == 2
    for pair in weights:
        assert pair.likeness is not None
        assert pair.likeness > 0.99
        assert pair.after.grid is not None
        assert pair.after.grid.granularity == "block 32"
        low, high = pair.after.grid.zero_point or (0, 0)
        assert 0 < low <= 2 ** (bits - 1) <= high < 2**bits


@pytest.mark.parametrize(("bits", "stored"), [(4, 4 + 36 / 32), (8, 8 + 40 / 32)])
def test_tables_in_blocks_are_found_and_their_bits_counted(tmp_path: Path, bits: int, stored: float) -> None:
    source, output = tmp_path / "table.onnx", tmp_path / "blocks.onnx"
    numbers = ", ".join(f"{one:.5f}" for one in np.random.default_rng(0).normal(0.2, 1, 50 * 64))
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    main (int64[N] i) => (float[N,64] y) <float[50,64] t = {{{numbers}}}> {{ [look_up] y = Gather(t, i) }}"""
    save_model(parse(text), source)
    pipeline = f"infer-shapes, encode-embeddings{{block=32, bits={bits}}}, insert-qdq, remove-dead"
    recipe, quiet = Recipe(name="table", pipeline=pipeline), CompileOptions(validate=False, bench=False)
    compile_model(source, output, recipe=recipe, options=quiet)
    (table,) = [pair for pair in diff_models(source, output).tensors if pair.kind == "weight"]
    assert table.likeness is not None
    assert table.likeness > 0.99
    assert table.after.grid is not None
    assert table.after.grid.granularity == "block 32"
    assert bits_per_weight(stored_weights(Flat.of(read_graph(output).model))) == stored


def test_operators_of_another_standard_domain_have_their_version_told(tmp_path: Path) -> None:
    path = tmp_path / "ml.onnx"
    text = """<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>
    main (float[N,4] x) => (float[N,4] y) { y = ai.onnx.ml.Normalizer<norm = "L2">(x) }"""
    save_model(parse(text), path)
    assert diff_models(path, path).before.opsets == {"ai.onnx.ml": 3}


def test_names_do_not_align_what_weights_contradict(model: Path) -> None:
    """The two products have changed names with each other."""

    def edit(graph: ir.Model) -> None:
        first, second = node(graph, "first"), node(graph, "second")
        first.name, second.name = "second", "first"
        for name, other in (("w1", "w2"), ("w2", "w1")):
            graph.graph.initializers[name].name = f"{other}_"
        first.outputs[0].name = "d_"
        node(graph, "act").outputs[0].name = "a"
        first.outputs[0].name = "d"

    assert not diff_models(model, changed(model, edit))


@pytest.mark.parametrize("recipe", ["portable", "cpu", "cpu-dynamic"])
@pytest.mark.parametrize("names", ["kept", "lost"])
def test_every_product_of_a_compiled_model_is_found(
    model: Path, tmp_path: Path, renamed: Renamed, recipe: str, names: str
) -> None:
    from onnxq.calibration.data import DataOptions, input_specs, open_data

    data = open_data("random", input_specs(read_graph(model).model), DataOptions(limit=4))
    output = tmp_path / "out.onnx"
    quiet = CompileOptions(validate=False, bench=False, tune=False)
    compile_model(model, output, recipe=load_recipe(recipe), data=data, options=quiet)
    diff = diff_models(model, output if names == "kept" else renamed(output))
    assert not diff.unaligned
    kinds = {node: change.kind for change in diff.changes for node in change.before}
    assert kinds["first"] == kinds["second"] == "replaced"
    weights = [pair for pair in diff.tensors if pair.kind == "weight"]
    assert [pair.after.dtype for pair in weights] == ["int8", "int8"]
    assert all("encoding" in pair.differs for pair in weights)


def test_quantize_dynamic_of_onnxruntime_is_understood(model: Path, renamed: Renamed) -> None:
    from onnxruntime.quantization import quantize_dynamic

    output = model.with_name("dynamic.onnx")
    quantize_dynamic(model, output, per_channel=True)
    for path in (output, renamed(output)):
        diff = diff_models(model, path)
        assert not diff.unaligned
        assert patterns(diff) == {"MatMul -> DynamicQuantizeLinear, 2 Mul, MatMulInteger, Cast": 2}


def test_dumps_of_a_pipeline_are_read(model: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "1.onnxtxt", tmp_path / "2.onnxtxt"
    before.write_text(render(read_graph(model), elide_above=64))
    after.write_text(render(read_graph(model), elide_above=64).replace("Relu", "Elu"))
    diff = diff_models(before, after)
    assert patterns(diff) == {"Relu -> Elu": 1}
    with pytest.raises(InputError, match="a graph as text is not run: its large weights are left out"):
        diff_models(before, after, iter(()))


def test_a_text_that_is_no_graph_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnxtxt"
    path.write_text("nothing")
    with pytest.raises(ModelError, match=r"wrong\.onnxtxt: this is not ONNX text"):
        read_graph(path)
    with pytest.raises(ModelError, match=r"missing\.onnxtxt: it cannot be read"):
        read_graph(tmp_path / "missing.onnxtxt")
