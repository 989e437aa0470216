"""Every reader of onnxq: whole files to begin with, and what is done with one that may be damaged."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from measuring import REPOSITORY
from mutations import Form
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration.data import DataOptions, InputSpec, input_specs, open_data
from onnxq.calibration.table import CalibrationTable
from onnxq.comparison import CompileOptions
from onnxq.compile import calibrate_model, compile_model
from onnxq.diff.flat import Flat
from onnxq.diff.picture import picture_of_model
from onnxq.inspection import Inspection
from onnxq.ir.store import load_model, model_digest, save_model
from onnxq.ir.text import parse, render
from onnxq.manifest import session_options_beside
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import load_recipe, load_recipe_table
from onnxq.report.tables_of_model import inspection_tables
from onnxq.report.text import draw
from onnxq.story import read_story

PIXELS = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
ROWS = (InputSpec("x", np.dtype(np.float32), ("N", 9)),)
TOKENS = tuple(InputSpec(name, np.dtype(np.int64), ("N", "T")) for name in ("input_ids", "attention_mask"))
UNTIMED = CompileOptions(validate=False, bench=False, tune=False, choose=False, threads=1)
MOST_BATCHES = 50
QUANTIZED = {"conv_residual": "weight-only", "gemm_transposed": "cpu-size", "mlp_3d": "cpu-dynamic"}
"""Small models that are tried quantized, too, and the recipe of each."""


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Args:
        form: How files of this kind are damaged.
        seeds: Returns whole ones.
        use: Reads one from its content, in a folder that is empty; raises OnnxqError where it is refused.
        weight: How often it is tried, compared with others.

    """

    form: Form
    seeds: Callable[[], tuple[bytes, ...]]
    use: Callable[[bytes, Path], None]
    weight: int = 1


def _saved(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


@cache
def small_models() -> tuple[bytes, ...]:
    """Return the repository's small models, some that are quantized, and some with what those lack."""
    found = []
    with TemporaryDirectory() as folder:
        for path in sorted((REPOSITORY / "models").glob("*.onnxtxt")):
            save_model(parse(path.read_text(encoding="utf-8")), plain := Path(folder, f"{path.stem}.onnx"))
            found.append(plain.read_bytes())
            if path.stem in QUANTIZED:
                quantized, recipe = Path(folder, "quantized.onnx"), load_recipe(QUANTIZED[path.stem])
                compile_model(plain, quantized, recipe=recipe, options=UNTIMED)
                found.append(quantized.read_bytes())
    return (*(model for model in found if len(model) < 40_000), _with_functions(), _folding(), _nested())


def _model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> bytes:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 9]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], tensors)
    imports = [helper.make_opsetid("", 17), *([helper.make_opsetid("f", 1)] if functions else [])]
    return _saved(helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8))


def _with_functions() -> bytes:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    inner = helper.make_function(
        "f", "Inner", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], imports[:1]
    )
    nodes = [
        helper.make_node("Inner", ["a"], ["t"], domain="f"),
        helper.make_node("LeakyRelu", ["t"], ["b"], alpha=0.5),
    ]
    outer = helper.make_function("f", "Outer", ["a", "c"], ["b"], nodes, imports)
    calls = [
        helper.make_node("Outer", ["x"], ["h"], domain="f"),
        helper.make_node("Outer", ["h"], ["y"], domain="f"),
    ]
    return _model(calls, {}, (inner, outer))


def _folding() -> bytes:
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["grown"]),
        helper.make_node("Tile", ["grown", "times"], ["tiled"]),
        helper.make_node("Concat", ["tiled", "tiled"], ["doubled"], axis=0),
        helper.make_node("Range", ["zero", "end", "step"], ["range"]),
        helper.make_node("ConstantOfShape", ["shape"], ["filled"]),
        helper.make_node("Pad", ["filled", "pads"], ["padded"]),
        helper.make_node("ReduceSum", ["doubled"], ["s0"], keepdims=0),
        helper.make_node("ReduceMax", ["range"], ["s1"], keepdims=0),
        helper.make_node("ReduceMax", ["padded"], ["s2"], keepdims=0),
        helper.make_node("Cast", ["s1"], ["s3"], to=1),
        helper.make_node("Sum", ["x", "s0", "s2", "s3"], ["y"]),
    ]
    weights = {
        "one": np.ones((1, 1), np.float32),
        "shape": np.array([4, 4]),
        "times": np.array([2, 2]),
        "pads": np.array([1, 1, 1, 1]),
        "zero": np.array(0),
        "end": np.array(5),
        "step": np.array(1),
    }
    return _model(nodes, weights)


def _nested() -> bytes:
    def branch(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        info = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "b", [], [info])

    inner = [helper.make_node("MatMul", ["x", "w"], ["leaf"])]
    for level in range(4):
        other = branch([helper.make_node("Identity", ["x"], [f"e{level}"])])
        output = "y" if level == 3 else f"o{level}"
        inner = [helper.make_node("If", ["c"], [output], then_branch=branch(inner), else_branch=other)]
    weight = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    return _model(inner, {"c": np.array(True), "w": weight})


def use_model(content: bytes, folder: Path) -> None:
    """Inspect a model, print it as text, and compile it without running it."""
    path = folder / "m.onnx"
    path.write_bytes(content)
    model_digest(path)
    module = load_model(path)
    flat = Flat.of(module.model)
    for table in inspection_tables(Inspection.of(path, module), limit=24):
        draw(table)
    picture_of_model(flat, "m", None)
    render(module, elide_above=64)
    compile_model(path, folder / "out.onnx", recipe=load_recipe("cpu-dynamic"), options=UNTIMED)


@cache
def _external() -> tuple[bytes, ...]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "w.onnx")
        module = parse((REPOSITORY / "models" / "mlp_3d.onnxtxt").read_text(encoding="utf-8"))
        save_model(module, path, external_data=True)
        model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "w.data" if entry.key == "location" else entry.value
    return (_saved(model),)


def _use_external(content: bytes, folder: Path) -> None:
    (folder / "w.data").write_bytes(bytes(1 << 16))
    use_model(content, folder)


@cache
def _texts() -> tuple[bytes, ...]:
    written = (
        b'# encode x: scale=0.5 zero_point=0 readers=act+"b c"\n'
        b"# fact x: count=4 low=-1.0 high=2.0 axis=-1 channel_low=[-1.0, 0.0] channel_high=[0.0, 2.0]\n"
        b'<ir_version: 10, opset_import: ["" : 21]>\nmain (float[N,2] x) => (float[N,2] y, float[N,2] z)\n'
        b'{\n    [act] y = Relu(x)\n    ["b c"] z = Neg(x)\n}\n'
    )
    return written, *(path.read_bytes() for path in sorted((REPOSITORY / "models").glob("*.onnxtxt")))


def _use_text(content: bytes, folder: Path) -> None:
    module = parse(content.decode("utf-8", "replace"))
    render(module)


@cache
def _calibrated() -> tuple[bytes, bytes]:
    """Return a small model and its calibration table."""
    with TemporaryDirectory() as folder:
        path, data = Path(folder, "m.onnx"), Path(folder, "x.npy")
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(9, 9)).astype(np.float32)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
        path.write_bytes(_model(nodes, {"w": weight}))
        np.save(data, rng.normal(size=(16, 9)).astype(np.float32))
        dataset = open_data(str(data), input_specs(load_model(path).model))
        table = calibrate_model(path, dataset, recipe=load_recipe("cpu"))
        return path.read_bytes(), table.to_json().encode()


def _use_table(content: bytes, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(_calibrated()[0])
    (folder / "t.json").write_bytes(content)
    table = CalibrationTable.load(folder / "t.json")
    recipe = load_recipe("cpu")
    compile_model(folder / "m.onnx", folder / "o.onnx", recipe=recipe, table=table, options=UNTIMED)


@cache
def _manifests() -> tuple[bytes, ...]:
    found = []
    with TemporaryDirectory() as folder:
        model, table = _calibrated()
        Path(folder, "m.onnx").write_bytes(model)
        path, output = Path(folder, "m.onnx"), Path(folder, "o.onnx")
        facts = CalibrationTable.from_json(table.decode())
        for recipe, given, options in (
            ("cpu", facts, UNTIMED),
            ("cpu-dynamic", None, CompileOptions(tune=False, choose=False, threads=1)),
        ):
            compile_model(path, output, recipe=load_recipe(recipe), table=given, options=options)
            found.append(output.with_suffix(".manifest.json").read_bytes())
    return tuple(found)


def _use_manifest(content: bytes, folder: Path) -> None:
    path = folder / "o.manifest.json"
    path.write_bytes(content)
    session_options_beside(folder / "o.onnx")
    read_story(path)
    load_recipe(path)
    load_recipe_table(path)


@cache
def _recipes() -> tuple[bytes, ...]:
    folder = REPOSITORY / "onnxq" / "recipes"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.toml")))


def _use_recipe(content: bytes, folder: Path) -> None:
    (folder / "r.toml").write_bytes(content)
    recipe = load_recipe(folder / "r.toml")
    parse_pipeline(recipe.pipeline)
    recipe.to_toml()


def _read_all(source: Path, inputs: tuple[InputSpec, ...], options: DataOptions | None = None) -> None:
    dataset = open_data(str(source), inputs, options)
    _ = dataset.samples
    for _, _ in zip(dataset.batches(), range(MOST_BATCHES), strict=False):
        pass


@cache
def _arrays() -> tuple[bytes, ...]:
    array, found = np.ones((4, 9), np.float32), []
    for save, given in (
        (np.savez, {"x": array}),
        (np.savez_compressed, {"x": array, "labels": np.arange(4)}),
        (np.savez, {"x": np.asfortranarray(np.ones((4, 9)))}),
    ):
        file = io.BytesIO()
        save(file, **given)
        found.append(file.getvalue())
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", _npy()[0])
        archive.writestr("notes.txt", "none")
    return (*found, file.getvalue())


@cache
def _npy() -> tuple[bytes, ...]:
    found = []
    for array in (np.ones((4, 9), np.float32), np.asfortranarray(np.ones((4, 9))), np.ones(9, np.float32)):
        np.save(file := io.BytesIO(), array)
        found.append(file.getvalue())
    return tuple(found)


def _use_data(suffix: str) -> Callable[[bytes, Path], None]:
    def use(content: bytes, folder: Path) -> None:
        (folder / f"x{suffix}").write_bytes(content)
        _read_all(folder / f"x{suffix}", ROWS)

    return use


TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "WordLevel",
        "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2, "good": 3, "film": 4},
        "unk_token": "[UNK]",
    },
}
LINES = {
    ".jsonl": b'{"text": "a good film", "label": 1}\n{"text": "film", "label": 0}\n',
    ".csv": b'text,label\n"a good, ""film""",1\nfilm,0\na,2\n',
    ".tsv": b"sentence\tlabel\na good film\t1\nfilm\t0\n",
    ".txt": b"a good film\nfilm\n\na\n",
}
CONFIG = {
    "pad_token": "[PAD]",
    "padding_side": "right",
    "model_max_length": 128,
    "eos_token": {"content": "[SEP]"},
}


def _use_lines(suffix: str) -> Callable[[bytes, Path], None]:
    def use(content: bytes, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        (folder / f"t{suffix}").write_bytes(content)
        _read_all(folder / f"t{suffix}", TOKENS, DataOptions(tokenizer=folder))

    return use


def _use_tokenizer(name: str) -> Callable[[bytes, Path], None]:
    def use(content: bytes, folder: Path) -> None:
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        (folder / name).write_bytes(content)
        (folder / "t.txt").write_bytes(LINES[".txt"])
        _read_all(folder / "t.txt", TOKENS, DataOptions(tokenizer=folder))

    return use


def _tokenizers() -> tuple[bytes, ...]:
    trained = (REPOSITORY / "models" / "bert_tiny_spam.tokenizer.json").read_bytes()
    return json.dumps(TOKENIZER).encode(), trained


PREPROCESSING: tuple[dict[str, Any], ...] = (
    {
        "do_resize": True,
        "size": {"height": 8, "width": 8},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 0.00392,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    {"size": {"shortest_edge": 10, "longest_edge": 20}, "do_center_crop": True, "crop_size": 8},
    {"size": {"shortest_edge": 8}, "crop_pct": 0.9, "image_mean": 0.5, "image_std": 0.5},
)


@cache
def _images() -> tuple[bytes, ...]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (10, 12, 3)).astype(np.uint8)
    found = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        Image.fromarray(pixels).save(file := io.BytesIO(), form)
        found.append(file.getvalue())
    return tuple(found)


def _use_image(content: bytes, folder: Path) -> None:
    (folder / "0.png").write_bytes(content)
    options = DataOptions(size=(8, 8), scale=1 / 255)
    _read_all(folder, (PIXELS,), options)


def _use_preprocessing(content: bytes, folder: Path) -> None:
    (folder / "0.png").write_bytes(_images()[0])
    (folder / "preprocessor_config.json").write_bytes(content)
    _read_all(folder, (PIXELS,))


def _use_labels(content: bytes, folder: Path) -> None:
    (folder / "0.png").write_bytes(_images()[0])
    (folder / "labels.csv").write_bytes(content)
    _read_all(folder, (PIXELS,), DataOptions(size=(8, 8), scale=1 / 255))


def _use_tensor(content: bytes, folder: Path) -> None:
    (folder / "test_data_set_0").mkdir()
    (folder / "test_data_set_0" / "input_0.pb").write_bytes(content)
    _read_all(folder, ROWS)


@cache
def _tensors() -> tuple[bytes, ...]:
    array = np.ones((4, 9), np.float32)
    listed = helper.make_tensor("x", TensorProto.FLOAT, [4, 9], array.ravel())
    return numpy_helper.from_array(array, "x").SerializeToString(), listed.SerializeToString()


READERS: dict[str, Reader] = {
    "model": Reader("model", small_models, use_model, weight=12),
    "external": Reader("model", _external, _use_external, weight=2),
    "text": Reader("bytes", _texts, _use_text, weight=2),
    "table": Reader("json", lambda: _calibrated()[1:], _use_table, weight=2),
    "manifest": Reader("json", _manifests, _use_manifest, weight=2),
    "recipe": Reader("bytes", _recipes, _use_recipe),
    "npz": Reader("bytes", _arrays, _use_data(".npz"), weight=2),
    "npy": Reader("bytes", _npy, _use_data(".npy")),
    "jsonl": Reader("json lines", lambda: (LINES[".jsonl"],), _use_lines(".jsonl")),
    "csv": Reader("bytes", lambda: (LINES[".csv"],), _use_lines(".csv")),
    "tsv": Reader("bytes", lambda: (LINES[".tsv"],), _use_lines(".tsv")),
    "txt": Reader("bytes", lambda: (LINES[".txt"],), _use_lines(".txt")),
    "tokenizer": Reader("json", _tokenizers, _use_tokenizer("tokenizer.json")),
    "tokenizer_config": Reader(
        "json", lambda: (json.dumps(CONFIG).encode(),), _use_tokenizer("tokenizer_config.json")
    ),
    "preprocessor_config": Reader(
        "json",
        lambda: tuple(json.dumps(config).encode() for config in PREPROCESSING),
        _use_preprocessing,
    ),
    "labels": Reader("bytes", lambda: (b"file,label\n0.png,3\n",), _use_labels),
    "image": Reader("bytes", _images, _use_image, weight=2),
    "tensor": Reader("tensor", _tensors, _use_tensor),
}
"""Reader by name."""
