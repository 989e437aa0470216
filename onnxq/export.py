"""Exporting a Hugging Face model to ONNX, through optimum.

Nothing here is imported by the rest of onnxq, and optimum, transformers and PyTorch only when a
model is exported.
"""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from onnxq.errors import InputError, ModelError, TargetError
from onnxq.files import replacing_folder
from onnxq.overwriting import is_same
from onnxq.reading import parse_json

_KEPT = (
    "tokenizer*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
)
"""The files of a model folder that turn text or images into inputs."""

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_UNREACHABLE = frozenset(
    {"ConnectionError", "ConnectTimeout", "ReadTimeout", "LocalEntryNotFoundError", "OfflineModeIsEnabled"}
)
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Exported:
    """What an export has left in its folder.

    Args:
        folder: The folder.
        task: The task that the model was exported for.
        models: Names of the ONNX files.
        files: Names of all files, the models' too.
        tolerance: The absolute difference to PyTorch's outputs that optimum allowed for, and found
            kept, when it ran both; None if it found more, which a remark then tells.
        remarks: What optimum had to say.

    """

    folder: Path
    task: str
    models: tuple[str, ...]
    files: tuple[str, ...]
    tolerance: float | None
    remarks: tuple[str, ...]


def export_model(
    model: str,
    output: Path,
    *,
    task: str | None = None,
    opset: int | None = None,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Exported:
    """Export a model to ``output``, whole or not at all, with its tokenizer and preprocessor files.

    A local folder is exported without the network. optimum runs the model in PyTorch and in ONNX
    Runtime and compares the outputs. A model of sentence-transformers is exported as the plain
    transformer in it, so that the result does not depend on what else is installed.

    Args:
        model: A folder in the Hugging Face layout, or a model's name on the Hub.
        output: A folder that does not exist or is empty.
        task: Such as ``feature-extraction``; by default the one the model was made for.
        opset: The version of the ONNX operators; by default optimum's choice for the model.
        trust_remote_code: Run Python code that comes with the model.
        force: Write into a folder that has files in it, but not the model's own, and replace those of the
            same name.

    Raises:
        ModelError: It is no model folder, has no weights, or optimum cannot export it.
        InputError: The task does not fit the model, or ``output`` cannot be written.
        TargetError: The export extra is not installed.

    """
    if local := _is_local(model):
        _check_folder(Path(model))
        _refuse_own_folder(Path(model), output)
    main_export, tasks = _import_optimum()
    options = {"opset": opset, "trust_remote_code": trust_remote_code, "local_files_only": local}
    with replacing_folder(output, force=force) as staged, _settled(local) as log:
        with _failures_of(model):
            library = tasks.infer_library_from_model(model).replace("sentence_transformers", "transformers")
            chosen = _choose_task(tasks, model, library, task)
            main_export(model, staged, task=chosen, library_name=library, **options)
        if local:
            _copy_kept(Path(model), staged)
        files = sorted(str(file.relative_to(staged)) for file in staged.rglob("*") if file.is_file())
    models = tuple(name for name in files if name.endswith(".onnx"))
    return Exported(output, chosen, models, tuple(files), _tolerance(log), _remarks(log))


def _import_optimum() -> tuple[Any, Any]:
    """Return optimum's ``main_export`` and its ``TasksManager``."""
    try:
        from optimum.exporters.onnx import main_export
        from optimum.exporters.tasks import TasksManager
    except ImportError as error:
        raise TargetError(
            f"export needs optimum, transformers and PyTorch ({error})", hint='pip install "onnxq[export]"'
        ) from error
    return main_export, TasksManager


def _is_local(model: str) -> bool:
    """Tell a path from a name on the Hub, which has one slash at most."""
    return Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") > 1


def _check_folder(folder: Path) -> None:
    if folder.suffix == ".onnx" and folder.is_file():
        raise ModelError(
            "this is an ONNX model already", where=str(folder), hint=f"onnxq compile {folder} -o OUT.onnx"
        )
    if not folder.is_dir():
        raise ModelError(
            "there is no such folder", where=str(folder), hint="name a model's folder or its name on the Hub"
        )
    config = folder / "config.json"
    if not config.is_file():
        inside = sorted(file.parent.name for file in folder.glob("*/config.json"))
        hint = (
            f"did you mean {folder / inside[0]}?"
            if inside
            else "name the folder that holds config.json and the weights"
        )
        raise ModelError("this is not a model folder: it has no config.json", where=str(folder), hint=hint)
    _read_config(folder)
    if not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise ModelError(
            "the folder has no weights",
            where=str(folder),
            hint="put model.safetensors or pytorch_model.bin beside config.json",
        )


def _refuse_own_folder(model: Path, output: Path) -> None:
    """Raise where optimum's config.json would replace the model's own."""
    if is_same(output, model):
        raise InputError(
            "this is the model's own folder; its files are not overwritten",
            where=str(output),
            hint="name a new folder",
        )


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"config.json cannot be read: {error}", where=str(folder), hint="copy it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError("config.json holds no object", where=str(folder), hint="copy it again")
    return config


def _choose_task(tasks: Any, model: str, library: str, wanted: str | None) -> str:
    """Return the task in optimum's words, checked against what the model's type can be exported for."""
    config = _read_config(Path(model)) if _is_local(model) else {}
    supported = _supported_tasks(tasks, config, library)
    if wanted is None:
        return _infer_task(tasks, model, library, config, supported)
    task = str(tasks.map_from_synonym(wanted))
    if supported and task not in supported:
        raise InputError(
            f"a model of type {config['model_type']!r} cannot be exported for the task {wanted!r}",
            where="--task",
            hint=f"choose from: {', '.join(supported)}",
        )
    return task


def _supported_tasks(tasks: Any, config: dict[str, Any], library: str) -> list[str]:
    """Return the tasks of the model's type, nothing if the type is not known yet."""
    if "model_type" not in config or library != "transformers":
        return []
    try:
        return sorted(
            tasks.get_supported_tasks_for_model_type(config["model_type"], "onnx", library_name=library)
        )
    except KeyError as error:
        raise ModelError(
            f"optimum cannot export models of type {config['model_type']!r}",
            hint="export it with torch.onnx.export, and give onnxq the .onnx file",
        ) from error


def _infer_task(tasks: Any, model: str, library: str, config: dict[str, Any], supported: list[str]) -> str:
    if not _is_local(model):
        return str(tasks.infer_task_from_model(model, library_name=library))
    transformers = import_module("transformers")
    kinds = [getattr(transformers, name, None) for name in config.get("architectures") or ()]
    try:
        return str(tasks.infer_task_from_model(next(kind for kind in kinds if kind is not None)))
    except (StopIteration, ValueError) as error:
        raise InputError(
            "the folder does not tell what task the model is for",
            where="--task",
            hint=f"choose from: {', '.join(supported)}",
        ) from error


@contextmanager
def _failures_of(model: str) -> Iterator[None]:
    """Turn whatever optimum, transformers or PyTorch raise into one clear line."""
    try:
        yield
    except (InputError, TargetError) as error:
        raise type(error)(error.message, where=error.where or model, hint=error.hint) from error
    except Exception as error:
        raise _explain(error, model) from error


def _explain(error: Exception, model: str) -> ModelError:
    text = " ".join(str(error).split())
    if not _is_local(model) and not _UNREACHABLE.isdisjoint(_names_of_causes(error)):
        return ModelError(
            "the Hugging Face Hub cannot be reached, and the model is not in the local cache",
            where=model,
            hint="download the model where there is a network, and name its folder",
        )
    if "trust_remote_code" in text:
        return ModelError(
            "the model needs Python code that comes with it, which is not run unasked",
            where=model,
            hint="read that code, then use --trust-remote-code",
        )
    reason = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
    return ModelError(
        f"optimum cannot export it: {type(error).__name__}: {reason}",
        where=model,
        hint="check that transformers loads the model, or export it with torch.onnx.export",
    )


def _names_of_causes(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield type(error).__name__
        error = error.__cause__ or error.__context__


def _copy_kept(source: Path, target: Path) -> None:
    """Copy the original files over those that optimum wrote anew, or could not load."""
    for pattern in _KEPT:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


@contextmanager
def _setting(module: str, name: str, value: object) -> Iterator[None]:
    """Set a library's global, where it has one of this name, for as long as the block runs."""
    holder: Any = import_module(module)
    with ExitStack() as stack:
        if hasattr(holder, name):
            stack.callback(setattr, holder, name, getattr(holder, name))
            setattr(holder, name, value)
        yield


@contextmanager
def _settled(offline: bool) -> Iterator[_Log]:
    """Collect the log, keep PyTorch from dumping graphs to standard output, and go offline if asked."""
    with ExitStack() as stack:
        if offline:
            stack.enter_context(_setting("huggingface_hub.constants", "HF_HUB_OFFLINE", True))
        stack.enter_context(_setting("torch._C", "_jit_onnx_log", lambda *_: None))
        yield stack.enter_context(_listening())


class _Log(logging.Handler):
    """Keeps records instead of printing them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _listening() -> Iterator[_Log]:
    """Collect what optimum logs, and keep the tracer's and transformers' warnings off the screen."""
    optimum, transformers, log = logging.getLogger("optimum"), logging.getLogger("transformers"), _Log()
    handlers, levels = optimum.handlers, (optimum.level, transformers.level)
    optimum.handlers = [log]
    optimum.setLevel(logging.INFO)
    transformers.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield log
    finally:
        optimum.handlers = handlers
        optimum.setLevel(levels[0])
        transformers.setLevel(levels[1])


def _tolerance(log: _Log) -> float | None:
    texts = [record.getMessage() for record in log.records]
    if any("values not close enough" in text for text in texts):
        return None
    found = (re.search(r"all values close \(atol: (.+)\)", text) for text in texts)
    return next((float(match[1]) for match in found if match), None)


def _remarks(log: _Log) -> tuple[str, ...]:
    texts = [record.getMessage() for record in log.records if record.levelno == logging.WARNING]
    return tuple(" ".join(re.sub(r"The exported model was saved at: .*", "", text).split()) for text in texts)
