from importlib.util import find_spec
from pathlib import Path

import pytest

from onnxq.errors import InputError, ModelError, TargetError
from onnxq.export import export_model


def refusal(folder: Path | str, output: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        export_model(str(folder), output)
    assert caught.value.where == str(folder)
    assert not output.exists()
    return caught.value


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none", tmp_path / "out")
    assert error.message == "there is no such folder"
    assert error.hint == "name a model's folder or its name on the Hub"


@pytest.mark.parametrize("text", ["./none", "a/b/c", "~/none"])
def test_what_cannot_be_a_name_on_the_hub_is_a_folder(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match="there is no such folder"):
        export_model(text, tmp_path / "out")


def test_an_onnx_file_need_not_be_exported(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    error = refusal(path, tmp_path / "out")
    assert error.message == "this is an ONNX model already"
    assert error.hint == f"onnxq compile {path} -o OUT.onnx"


def test_a_folder_without_config_is_an_error_that_looks_one_level_deeper(tmp_path: Path) -> None:
    error = refusal(tmp_path, tmp_path / "out")
    assert error.message == "this is not a model folder: it has no config.json"
    assert error.hint == "name the folder that holds config.json and the weights"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert refusal(tmp_path, tmp_path / "out").hint == f"did you mean {tmp_path / 'model'}?"


@pytest.mark.parametrize(
    ("text", "message"), [("{", "config.json cannot be read: "), ("[]", "config.json holds no object")]
)
def test_a_broken_config_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    error = refusal(tmp_path, tmp_path / "out")
    assert error.message.startswith(message)
    assert error.hint == "copy it again"


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    error = refusal(tmp_path, tmp_path / "out")
    assert error.message == "the folder has no weights"
    assert error.hint == "put model.safetensors or pytorch_model.bin beside config.json"


@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_without_optimum_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(TargetError, match="export needs optimum, transformers and PyTorch") as caught:
        export_model(str(tmp_path), tmp_path / "out")
    assert caught.value.hint == 'pip install "onnxq[export]"'
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spelled", ["{}", "{}/../{name}", "{}.link"])
def test_the_models_own_folder_is_not_written_into(tmp_path: Path, spelled: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    Path(f"{folder}.link").symlink_to(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    with pytest.raises(InputError, match="this is the model's own folder") as caught:
        export_model(str(folder), Path(spelled.format(folder, name=folder.name)), force=True)
    assert caught.value.hint == "name a new folder"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
