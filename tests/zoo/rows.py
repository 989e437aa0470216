"""What a recipe makes of an export: one row of the zoo's table."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq import CompileOptions, compile_model, load_model, load_recipe, open_feeds
from onnxq.calibration.data import Dataset, input_specs
from onnxq.errors import OnnxqError, ToleranceError
from onnxq.ir.module import GraphModule
from onnxq.ir.store import model_size
from onnxq.manifest import Manifest, manifest_path, read_manifest

from .architectures import ARCHITECTURES, EXPORTERS, Example, Exporter, export
from .networks import FINISHED, NETWORKS, PIPELINES, fitted

RECIPES = {"cpu": True, "cpu-dynamic": False, "cpu-size": False, "portable": True, "cuda": False}
"""Recipes, and whether they are given data."""
SAMPLES = 16
OPTIONS = CompileOptions(bench=False, choose=False, tune=False, keep_floor=False)
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
INDICES = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL, ir.DataType.STRING})
FEWEST = 256
"""Matrices of fewer numbers are tables of something else, or as small as what describes them."""
NO_PASS = "no pass of the recipe quantizes it"
"""What the command line says of weights on which no pass remarked anything."""
GRIDS = frozenset({"QuantizeLinear", "DequantizeLinear", "GatherBlockQuantized", "MatMulNBits"})
"""What reads scales: they are no weights."""
ATTENTION = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
RECURRENT_BIASES = frozenset({("LSTM", 3), ("GRU", 3), ("RNN", 3), ("DynamicQuantizeLSTM", 3)})


@dataclass(frozen=True)
class Row:
    """One export, compiled.

    Args:
        architecture: Its name in the zoo.
        exporter: What wrote it.
        recipe: What it was compiled with.
        refused: Why it was not; None if it was.
        quantized: The share of its matrices' numbers that are stored in 8 bits and fewer (in 16, for CUDA).
        exceptions: The numbers that are not, by reason.
        cosine: The smallest of an output on the samples that ranges were measured on; None without floats.
        size: The bytes of the result over those of the source.
        attention: How many nodes of the result are attention as a whole, and how many a softmax by itself.

    """

    architecture: str
    exporter: str
    recipe: str
    refused: str | None = None
    quantized: float | None = None
    exceptions: Mapping[str, int] = field(default_factory=dict)
    cosine: float | None = None
    size: float | None = None
    attention: tuple[int, int] | None = None


def exports(name: str, folder: Path) -> Iterator[tuple[str, Path, list[dict[str, Any]]]]:
    """Yield the name of each exporter that can write an architecture, what it wrote, and samples."""
    if name in PIPELINES:
        rng = np.random.default_rng(1)
        rows = [{"X": rng.normal(size=(1, 20)).astype(np.float32)} for _ in range(SAMPLES)]
        yield "skl2onnx", fitted(name, folder / f"{name}.onnx"), rows
        return
    example = {**ARCHITECTURES, **NETWORKS}[name]()
    for exporter in EXPORTERS:
        path = folder / f"{name}.{exporter}.onnx"
        try:
            _exported(name, example, path, exporter)
        except RuntimeError as error:
            warnings.warn(f"{name}: torch's {exporter} cannot write it: {error}", stacklevel=1)
            continue
        yield exporter, path, samples_of(example)


def _exported(name: str, example: Example, path: Path, exporter: Exporter) -> None:
    """Write an export, unless it is there."""
    if path.exists():
        return
    with redirect_stdout(sys.stderr):  # where torch tells how far it is
        export(example, path, exporter)
    FINISHED.get(name, lambda path: None)(path)


def samples_of(example: Example) -> list[dict[str, Any]]:
    """Return samples as the example's inputs: other numbers, words in another order, the same flags."""
    rng = np.random.default_rng(1)
    inputs = {name: value.numpy() for name, value in example.inputs.items()}
    return [{name: _drawn(array, rng) for name, array in inputs.items()} for _ in range(SAMPLES)]


def _drawn(array: Any, rng: np.random.Generator) -> Any:
    if array.dtype.kind == "f":
        return rng.normal(size=array.shape).astype(array.dtype)
    return array if array.max() <= 1 else rng.permuted(array.reshape(-1)).reshape(array.shape)


def compiled(name: str, exporter: str, recipe: str, source: Path, samples: list[dict[str, Any]]) -> Row:
    """Compile an export, without timing anything, and tell what came of it."""
    output = source.with_suffix(f".{recipe}.onnx")
    try:
        data = dataset(source, samples)
        compile_model(
            source,
            output,
            recipe=load_recipe(recipe),
            data=data if RECIPES[recipe] else None,
            options=CompileOptions(**{**vars(OPTIONS), "validation_data": data}),
        )
    except ToleranceError:
        pass  # it is written, and its cosine tells
    except OnnxqError as error:
        return Row(name, exporter, recipe, refused=f"{type(error).__name__}: {error}")
    manifest = read_manifest(manifest_path(output))
    module = load_model(output)
    share, exceptions = weights(module, manifest, narrow=recipe == "cuda")
    cosines = [one.cosine for one in (manifest.accuracy.outputs if manifest.accuracy else ())]
    least = min((one for one in cosines if one is not None), default=None)
    size = model_size(output) / model_size(source)
    kinds = [node.op_type for node in module.graph]
    attention = sum(kind in ATTENTION for kind in kinds), kinds.count("Softmax")
    return Row(name, exporter, recipe, None, share, exceptions, least, size, attention)


def dataset(source: Path, samples: list[dict[str, Any]]) -> Dataset:
    """Return the samples as data for a model."""
    return open_feeds("zoo", lambda: samples, input_specs(load_model(source).model))


def weights(module: GraphModule, manifest: Manifest, *, narrow: bool) -> tuple[float, Mapping[str, int]]:
    """Return the share of the numbers in matrices that are quantized, and why the others are not.

    Args:
        module: The result.
        manifest: What was done, and what left alone.
        narrow: Whether 16 bits are as few as the recipe gives.

    """
    wide = FLOATS - {ir.DataType.FLOAT16, ir.DataType.BFLOAT16} if narrow else FLOATS
    reasons = {one.node: one.reason for pass_ in manifest.passes for one in pass_.skipped}
    few, left = 0, Counter[str]()
    for value in _matrices(module):
        readers = [node for node in value.consumers() if node.op_type not in GRIDS]
        if value.dtype not in wide:
            few += int(value.const_value.size) if value.const_value is not None else 0
        elif readers and value.const_value is not None:
            kind = readers[0].op_type
            told = next((reasons[node.name] for node in readers if node.name in reasons), None)
            left[f"{kind}: {told or NO_PASS}"] += int(value.const_value.size)
    total = few + left.total()
    return (few / total if total else 1.0), dict(left.most_common())


def _matrices(module: GraphModule) -> Iterator[ir.Value]:
    """Yield what is multiplied or looked up in: biases of recurrent layers have two axes, too."""
    for graph in module.model.graphs():
        for value in graph.initializers.values():
            tensor, biases = value.const_value, {(use.node.op_type, use.idx) for use in value.uses()}
            if tensor is None or value.dtype in INDICES or biases & RECURRENT_BIASES:
                continue
            if len(tensor.shape) > 1 and tensor.size >= FEWEST:
                yield value
