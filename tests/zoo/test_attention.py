"""All attention of the zoo's exports is fused, but for what is listed, and the numbers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.fragments import expand
from onnxq.ir.store import load_model
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

from . import tedious
from .architectures import ARCHITECTURES, EXPORTERS, LAYERS, WORDS, Exporter, export
from .attention import Attention, attention_of, fused

pytestmark = pytest.mark.export
pytest.importorskip("torch", reason="needs the export extra")
pytest.importorskip("transformers", reason="needs the export extra")
UNREADABLE = frozenset({"bloom", "deberta_v2", "detr"})
"""Written by TorchScript, they hide what joins samples and heads in shapes that nobody knows before a run."""
ROUNDING = 2e-5
"""Two layers with sums of at most 128 terms, each within 6e-8 of values up to 4, and what they pass on."""
SIZES = ({"batch": 1, "tokens": 5, "memory": 6, "past": 3}, {"batch": 2, "tokens": 9, "memory": 4, "past": 0})
PADDED = ("behind", "in front", "all", "none")


def feeds_of(inputs: list[ir.Value], sizes: dict[str, int], padded: str) -> dict[str, NDArray[np.generic]]:
    """Return random inputs; half of the last sample's tokens, all of them or none are padding."""
    rng, lengths = np.random.default_rng(0), {**sizes, "all_tokens": sizes["past"] + sizes["tokens"]}
    feeds: dict[str, NDArray[np.generic]] = {}
    for value in inputs:
        shape = [size if isinstance(size, int) else lengths[str(size)] for size in value.shape or ()]
        half = shape[1] // 2
        if value.name == "attention_mask":
            flags = np.ones(shape, np.int64)
            places = {"behind": slice(half, None), "in front": slice(half), "all": slice(None)}
            flags[-1, places.get(padded, slice(0))] = 0
            feeds[value.name] = flags
        elif value.dtype is ir.DataType.INT64:
            feeds[value.name or ""] = rng.integers(3, WORDS, shape)
        else:
            feeds[value.name or ""] = rng.normal(size=shape).astype(np.float32)
    return feeds


def check(path: Path) -> Attention:
    """Hold the fused model to its source: batches, lengths and padding that it was not exported with."""
    source, (module, _) = load_model(path), fused(path)
    before, after = (
        open_session(ir.to_proto(model), Run(threads=1)) for model in (source.model, module.model)
    )
    for sizes in SIZES:
        for padded in PADDED:
            feeds = feeds_of(list(source.graph.inputs), sizes, padded)
            wanted, found = before.run(feeds), after.run(feeds)
            for name, value in wanted.items():
                np.testing.assert_allclose(found[name], value, atol=ROUNDING, err_msg=f"{name}, {padded}")
    return attention_of(path)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "clip_text", "swin"])
def test_attention_of_common_exports_is_fused(name: str, exporter: Exporter, tmp_path: Path) -> None:
    assert check(export(ARCHITECTURES[name](), tmp_path / "model.onnx", exporter)).whole


@tedious
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_of_each_export_is_fused(name: str, exporter: Exporter, tmp_path: Path) -> None:
    if (name, exporter) == ("torch_encoder", "torchscript"):
        pytest.skip("its export runs with the lengths that it was exported with alone")
    try:
        path = export(ARCHITECTURES[name](), tmp_path / "model.onnx", exporter)
    except RuntimeError as error:
        pytest.skip(f"torch cannot export it: {error}")
    whole = check(path).whole
    assert whole or (exporter == "torchscript" and name in UNREADABLE)


@tedious
def test_a_step_of_llama_keeps_its_cache_in_place(tmp_path: Path) -> None:
    path = export(ARCHITECTURES["llama_past"](), tmp_path / "model.onnx", "dynamo")
    source, module = load_model(path), load_model(path)
    pipeline = expand("@tidy, cache-in-place{padding=behind}, remove-dead, infer-shapes")
    PassManager(parse_pipeline(pipeline), find_target("cuda")).run(module)
    assert [node.op_type for node in module.graph].count("GroupQueryAttention") == LAYERS
    before, after = (
        open_session(ir.to_proto(model), Run(threads=1)) for model in (source.model, module.model)
    )
    for sizes in ({"batch": 1, "tokens": 5, "past": 3}, {"batch": 3, "tokens": 1, "past": 7}):
        feeds = feeds_of(list(source.graph.inputs), sizes, "none")
        wanted, found = before.run(feeds), after.run(feeds)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=ROUNDING, err_msg=name)
