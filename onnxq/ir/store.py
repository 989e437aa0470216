"""Reading and writing model files."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from onnxq.errors import InputError, ModelError, did_you_mean
from onnxq.files import replacing
from onnxq.ir.edit import Remark
from onnxq.ir.external import attach_external, external_files, read_attributes, tensors
from onnxq.ir.layers import LINEAR
from onnxq.ir.module import GraphModule, is_standard, name_of

PROTOBUF_LIMIT = 2**31 - 1
EMBEDDED_LIMIT = 1_900_000_000
"""Weights of more bytes go to a data file: the graph needs some of protobuf's 2 GiB, too."""
DATA_SUFFIX = ".data"

_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_BLOCK = 1 << 22
_NATIVE_FLOATS = (np.float32, np.float64)
_SMALL_TENSOR = 1024
_EXPORT_AGAIN = "export the model again"
_NOT_ONNX = (
    (b"PK\x03\x04", "it is a zip archive", "a PyTorch file (.pt, .pth) has to be exported to ONNX first"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the model itself", "fetch it: git lfs pull"),
    (b"\x89PNG", "it is a PNG image", "name an .onnx file"),
    (b"<!DOCTYPE", "it is a web page", "download the file itself, not the page that shows it"),
    (b"\x1f\x8b", "it is a gzip archive", "unpack it first"),
)


def load_model(path: Path) -> GraphModule:
    """Read and check a model; every node gets a unique name.

    Weights in external data files stay on disk, memory-mapped when they are used. A data file
    that lies outside the model's folder is refused before anything of it is read.

    Args:
        path: A binary ONNX file.

    Raises:
        ModelError: The file cannot be read, is not a valid model for the installed onnx, or has
            weights that are not finite.

    """
    model = _read(path)
    with _located(path):
        attach_external(model, path.absolute().parent)
        _check(model, path)
    read_attributes(model)
    _name_nodes(model.graph)
    return GraphModule(model)


def save_model(
    module: GraphModule, path: Path, *, source: Path | None = None, external_data: bool = False
) -> None:
    """Write a model whole or not at all; the same module gives the same bytes.

    Weights of more than ``EMBEDDED_LIMIT`` bytes together go to a data file beside the model,
    called like it with ``.data`` added, and are streamed.

    Args:
        module: The module, which stays as it is.
        path: The file; an older one is replaced.
        source: The file that the module was read from, which must not be overwritten.
        external_data: Write a data file even for a small model.

    Raises:
        InputError: ``path`` cannot be written or is the input model.

    """
    data = path.with_name(path.name + DATA_SUFFIX)
    model = module.model.clone()
    large = external_data or sum(tensor.nbytes for tensor in tensors(model)) > EMBEDDED_LIMIT
    targets = (data, path) if large else (path,)
    inputs = [*external_files(model), *([source] if source else [])]
    for target in targets:
        _refuse_overwriting(target, inputs)
    _sort_initializers(model.graph)
    with replacing(*targets) as staged:
        if large:
            ir.external_data.unload_from_model(
                model, staged[0].parent, data.name, size_threshold_bytes=_SMALL_TENSOR
            )
        else:
            ir.external_data.load_to_model(model)
        proto = ir.serde.serialize_model(model)
        staged[-1].write_bytes(proto.SerializeToString(deterministic=True))


def model_digest(path: Path) -> str:
    """Return the SHA-256 of the file's content, as 64 hexadecimal digits.

    For a model with external data, the names and contents of the data files follow in sorted
    order; without, it is what ``sha256sum`` prints.

    Raises:
        ModelError: The file or its data cannot be read.

    """
    digest = hashlib.sha256()
    _hash_file(digest, path)
    for file in _data_files(path):
        digest.update(str(file.relative_to(path.absolute().parent)).encode())
        _hash_file(digest, file)
    return digest.hexdigest()


def model_size(path: Path) -> int:
    """Return the bytes on disk of a model and its external data.

    Raises:
        ModelError: The file or its data cannot be read.

    """
    return sum(file.stat().st_size for file in (*_data_files(path), path))


def foreign_operators(module: GraphModule) -> list[Remark]:
    """Return a remark for every node of the main graph whose domain is not standard ONNX."""
    functions = {(domain, name) for domain, name, _ in module.model.functions}
    return [
        Remark(node.name or "", node.op_type, f"domain {node.domain!r} is not standard ONNX")
        for node in module.graph
        if node.domain not in _STANDARD_DOMAINS and (node.domain, node.op_type) not in functions
    ]


def _read(path: Path) -> ir.Model:
    """Return the model as it stands in the file, its external data not yet looked for."""
    try:
        _check_file(path)
        proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    except DecodeError as error:
        raise _not_onnx(path) from error
    if not proto.HasField("graph"):
        raise _not_onnx(path)
    if proto.graph.sparse_initializer:
        raise ModelError(
            "sparse weights are not supported", where=str(path), hint="export them as dense ones"
        )
    try:
        with _quiet_onnx_ir():
            model = ir.serde.deserialize_model(proto)
        if ir.DataType.UNDEFINED in {tensor.dtype for tensor in tensors(model)}:
            raise ValueError("a tensor has no type")
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise ModelError(
            f"the graph is not valid: {_root_cause(error)}", where=str(path), hint=_EXPORT_AGAIN
        ) from error
    return model


@contextmanager
def _quiet_onnx_ir() -> Iterator[None]:
    """Keep onnx_ir from logging what the checker is about to refuse in one clear error."""
    logger = logging.getLogger(ir.serde.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ModelError("this is a folder, not a model file", where=str(path), hint=_folder_hint(path))
    if not path.is_file():
        near = [file.name for file in path.parent.glob("*.onnx")]
        raise ModelError("there is no such file", where=str(path), hint=did_you_mean(path.name, near))
    size = path.stat().st_size
    if size == 0:
        raise ModelError("the file is empty", where=str(path), hint="download or export the model again")
    if size > PROTOBUF_LIMIT:
        raise ModelError(
            "the file is larger than protobuf's 2 GiB",
            where=str(path),
            hint="export it with external data, that is, weights in files of their own",
        )


def _folder_hint(folder: Path) -> str:
    models = sorted(file.name for file in folder.glob("*.onnx"))
    if models:
        return f"name the file in it: {folder / models[0]}"
    if (folder / "config.json").is_file():
        return f"export the model in it first: onnxq export {folder} -o DIR"
    return "name an .onnx file"


def _not_onnx(path: Path) -> ModelError:
    with path.open("rb") as file:
        start = file.read(64)
    for magic, what, hint in _NOT_ONNX:
        if start.startswith(magic):
            return ModelError(f"this is not an ONNX model: {what}", where=str(path), hint=hint)
    return ModelError(
        "this is not an ONNX model, or it was cut short",
        where=str(path),
        hint="compare the file's size with its source, and copy or export it again",
    )


def _root_cause(error: BaseException) -> str:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split())


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Put the file's name into an error that knows only the place in the graph."""
    try:
        yield
    except ModelError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        raise ModelError(error.message, where=where, hint=error.hint) from error


def _check(model: ir.Model, path: Path) -> None:
    """Raise a ModelError, without the file's name, for the first thing that is wrong."""
    if not model.graph.outputs:
        raise ModelError("the model has no outputs", hint=_EXPORT_AGAIN)
    known = onnx.defs.onnx_opset_version()
    if model.opset_imports.get("", 0) > known:
        raise ModelError(
            f"the model uses opset {model.opset_imports['']}, and the installed onnx {onnx.__version__} "
            f"knows opsets up to {known}",
            hint="pip install --upgrade onnx",
        )
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split()).replace(" ==> Context: ", "; ")
        raise ModelError(f"the graph is not valid: {text}", hint=_checker_hint(text)) from error
    _check_text(model)
    _check_finite(model.graph)


def _check_text(model: ir.Model) -> None:
    """Find text that is not UTF-8, which onnx_ir meets only when it writes."""
    try:
        "".join(model.graph.initializers)
        graph_only = model.clone()
        graph_only.graph.initializers.clear()
        ir.serde.serialize_model(graph_only)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise ModelError(f"the graph is not valid: {_root_cause(error)}", hint=_EXPORT_AGAIN) from error


def _checker_hint(text: str) -> str:
    unknown = re.search(r"No Op registered for (\S+)", text)
    if unknown:
        return (
            f"onnx {onnx.__version__} has no standard operator {unknown[1]!r}; upgrade onnx, "
            "or give a custom operator a domain of its own"
        )
    if "topologically sorted" in text:
        return "nothing computes that value, or only a later node does: export the model again"
    if "ir_version" in text:
        return "pip install --upgrade onnx"
    return _EXPORT_AGAIN


def _check_finite(graph: ir.Graph) -> None:
    """Refuse NaN in any weight, and infinities in those of linear layers: masks may hold them."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype not in _FLOATS or tensor.size < 2:
            continue
        extremes = np.array([(block.min(), block.max()) for block in _blocks(tensor)], dtype=np.float64)
        linear = any(is_standard(use.node, *LINEAR) for use in value.uses())
        if np.isnan(extremes).any() or (linear and np.isinf(extremes).any()):
            what = "NaN" if np.isnan(extremes).any() else "infinite values"
            raise ModelError(
                f"the weight holds {what}",
                where=f"initializer {name!r}",
                hint="the model was damaged in training or export; no quantization can mend it",
            )


def _blocks(tensor: ir.TensorProtocol) -> Iterator[NDArray[Any]]:
    """Yield the values in pieces of at most 32 MB, so that weights on disk stay there."""
    dtype = np.dtype(tensor.dtype.numpy())
    for start in range(0, tensor.size, _BLOCK):
        count = min(_BLOCK, tensor.size - start)
        if isinstance(tensor, ir.ExternalTensor):
            offset = (tensor.offset or 0) + start * dtype.itemsize
            block = np.fromfile(tensor.path, dtype, count, offset=offset)
        else:
            block = tensor.numpy().reshape(-1)[start : start + count]
        yield block if dtype in _NATIVE_FLOATS else block.astype(np.float32)


def _name_nodes(graph: ir.Graph) -> None:
    """Name nodes without a name after their first output, and tell namesakes apart by number."""
    nodes = list(graph.all_nodes())
    taken, counts, seen = {node.name for node in nodes}, Counter[str](), set[str]()
    for node in nodes:
        if not node.name or node.name in seen:
            base = node.name or next((name_of(v) for v in node.outputs if v.name), node.op_type)
            name = base
            while name in taken:
                counts[base] += 1
                name = f"{base}_{counts[base]}"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def _sort_initializers(graph: ir.Graph) -> None:
    values = sorted(graph.initializers.items())
    graph.initializers.clear()
    graph.initializers.update(values)


def _refuse_overwriting(target: Path, inputs: list[Path]) -> None:
    for file in inputs:
        if target.exists() and file.exists() and target.samefile(file):
            raise InputError(
                "this is the model that is being read; it is not overwritten",
                where=str(target),
                hint="write to another file",
            )


def _data_files(path: Path) -> list[Path]:
    model = _read(path)
    with _located(path):
        attach_external(model, path.absolute().parent)
    return external_files(model)


def _hash_file(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
