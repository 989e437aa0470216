"""Digest and size of a model: of its file, and of the data that lies beside it and nowhere else."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxq.errors import ModelError
from onnxq.ir.store import model_digest, model_size, save_model
from onnxq.ir.text import parse

MEASURES: tuple[Callable[[Path], object], ...] = (model_digest, model_size)


@pytest.fixture
def embedded(models: Path, tmp_path: Path) -> Path:
    """Return a model that holds its weights."""
    save_model(parse((models / "mlp_3d.onnxtxt").read_text()), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def external(models: Path, tmp_path: Path) -> Path:
    """Return a model with its weights beside it."""
    model = ir.to_proto(parse((models / "mlp_3d.onnxtxt").read_text()).model)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return tmp_path / "m.onnx"


def data_of(model: Path) -> Path:
    return model.with_name("m.data")


def test_the_digest_is_that_of_the_file(embedded: Path) -> None:
    assert model_digest(embedded) == hashlib.sha256(embedded.read_bytes()).hexdigest()


def test_the_digest_covers_external_data(external: Path) -> None:
    before, data = model_digest(external), data_of(external)
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert model_digest(external) != before


def test_the_size_counts_external_data(external: Path) -> None:
    data = data_of(external).stat().st_size
    assert data > 0
    assert model_size(external) == external.stat().st_size + data


@pytest.mark.parametrize("measure", MEASURES)
def test_a_missing_file_is_an_error(measure: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        measure(tmp_path / "m.onnx")


@pytest.mark.parametrize("measure", MEASURES)
def test_data_outside_the_folder_is_refused(measure: Callable[[Path], object], external: Path) -> None:
    proto = onnx.load(external, load_external_data=False)
    for weight in proto.graph.initializer:
        for entry in weight.external_data:
            if entry.key == "location":
                entry.value = "/dev/zero"
    external.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="lies outside the model's folder") as caught:
        measure(external)
    assert str(external) in str(caught.value.where)
