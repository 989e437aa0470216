"""A manifest is read into what was written, or refused with one clause that says what is wrong with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compilation import CompileResult
from onnxq.compile import compile_model
from onnxq.errors import OnnxqError
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.manifest import manifest_path, read_manifest
from onnxq.recipe import load_recipe
from onnxq.runtime.metrics import Metric


class _NoNumber:
    """A metric that has no value, as accuracy has none where nothing is labelled."""

    def update(self, results: Any, batch: Any) -> None:
        """Take nothing."""

    def result(self) -> float:
        """Return no number."""
        return float("nan")


@pytest.fixture(scope="module")
def compiled(models: Path, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    """Return what tuning chose: on some processors the source, which needs no data."""
    return _compiled(models, tmp_path_factory.mktemp("manifest"), tune=True)


def _compiled(models: Path, folder: Path, *, tune: bool) -> CompileResult:
    save_model(parse((models / "mlp_3d.onnxtxt").read_text()), folder / "m.onnx")
    x = np.random.default_rng(14).normal(size=(24, 5, 4)).astype(np.float32)
    data = open_feeds("x", lambda: [{"x": x}], input_specs(load_model(folder / "m.onnx").model))
    return compile_model(
        *(folder / "m.onnx", folder / "out.onnx"),
        recipe=load_recipe("cpu"),
        data=data,
        options=CompileOptions(threads=1, tune=tune, metric=Metric("nothing", _NoNumber)),
    )


def test_what_is_read_is_what_was_written(compiled: CompileResult) -> None:
    path = manifest_path(compiled.output)
    found = read_manifest(path)
    assert found.to_json() == path.read_text()
    assert found.latency == compiled.latency
    assert found.kernels == compiled.manifest.kernels
    assert found.tuning == compiled.manifest.tuning
    assert found.choices == compiled.manifest.choices
    assert found.accuracy is not None
    assert np.isnan(found.accuracy.metric.reference)


def test_what_older_versions_did_not_know_may_be_missing(models: Path, tmp_path: Path) -> None:
    content = json.loads(_compiled(models, tmp_path, tune=False).manifest.to_json())
    for key in ("session_options", "processor", "choices", "tuning"):
        del content[key]
    del content["data"]["measured"]
    del content["kernels"]["nodes"][0]["types"]
    (path := tmp_path / "old.manifest.json").write_text(json.dumps(content))
    assert read_manifest(path).tuning is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema_version": 2}, "its schema version is 2, and this onnxq reads 1"),
        ({"colour": "red"}, "the manifest is damaged: unknown key 'colour'"),
        ({"source": {"name": "m.onnx", "digest": "d"}}, "there is no key 'source.size_bytes'"),
        ({"latency": {"models": [], "shapes": []}}, "latency: Value error, source and result are timed"),
        ({"kernels": {"asked": "cpu", "runs": 5}}, "there is no key 'kernels.nodes'"),
        ({"kernels": {"asked": "cpu", "runs": 5, "nodes": [], "new": 1}}, "unknown key 'kernels.new'"),
        ({"table": {"schema": 1}}, "the calibration table"),
        ({"output": {"name": "", "digest": "d", "size_bytes": 1}}, "output.name: Value error, no name of"),
        ({"versions": {"numpy": "2"}}, "versions: Value error, the version of onnxq is missing"),
    ],
)
def test_what_is_wrong_is_one_clause(
    compiled: CompileResult, tmp_path: Path, change: dict[str, Any], fault: str
) -> None:
    content = json.loads(compiled.manifest.to_json())
    (path := tmp_path / "wrong.manifest.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(OnnxqError) as refused:
        read_manifest(path)
    assert fault in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.hint
