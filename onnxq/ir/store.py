"""Reading and writing model files."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxq.errors import InputError, ModelError, OnnxqError, did_you_mean
from onnxq.files import replacing, require_utf8
from onnxq.heap import trim
from onnxq.ir.aside import aside_of, note_aside, put_back, set_aside
from onnxq.ir.check import EXPORT_AGAIN, check, check_outputs, root_cause
from onnxq.ir.external import (
    MappedTensor,
    attach_external,
    believe_tensors,
    external_in,
    external_tensors,
    files_of,
    read_embedded,
    settle_tensors,
    tensors,
)
from onnxq.ir.inference import infer_types
from onnxq.ir.mending import checkable, is_stated, mend
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.records import Remark
from onnxq.ir.stored import StoredTensor

FIRST_IR_VERSION = 4
"""Before it, weights had to be inputs; ONNX Runtime opens no model with others. It may list them still."""
PROTOBUF_LIMIT = 2**31 - 1
EMBEDDED_LIMIT = 1_900_000_000
"""Weights of more bytes go to a data file: the graph needs some of protobuf's 2 GiB, too."""
STREAMED_LIMIT = 1 << 28
"""So do weights of more bytes that come from a data file: ONNX Runtime maps what it would have to copy."""
WRITERS = 2
"""So many weights are computed and written at once, and no more are held."""
DATA_SUFFIX = ".data"

_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})
_BLOCK = 1 << 20
_SMALL_TENSOR = 1024
_NOT_ONNX = (
    (b"PK\x03\x04", "it is a zip archive", "a PyTorch file (.pt, .pth) has to be exported to ONNX first"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the model itself", "fetch it: git lfs pull"),
    (b"\x89PNG", "it is a PNG image", "name an .onnx file"),
    (b"<!DOCTYPE", "it is a web page", "download the file itself, not the page that shows it"),
    (b"\x1f\x8b", "it is a gzip archive", "unpack it first"),
)


def load_model(path: Path | str) -> GraphModule:
    """Read and check a model; every node gets a unique name.

    Weights in external data files stay on disk, memory-mapped when they are used. A data file
    that lies outside the model's folder is refused before anything of it is read.

    Args:
        path: A binary ONNX file.

    Raises:
        ModelError: The file cannot be read, is not a valid model for the installed onnx, or has
            weights that are not finite.

    """
    path = Path(path)
    with _at_the_door(path):
        model, checked = _read(path)
        read_embedded(model)
        believe_tensors(model)
        attach_external(external_tensors(model), path.absolute().parent)
        settle_tensors(model)
        check(model, checked)
    _shorten_domain(model)
    if any(value.type is None or value.shape is None for value in model.graph.outputs):
        infer_types(model)
    _free_negative_axes(model)
    model.ir_version = max(model.ir_version, FIRST_IR_VERSION)
    _name_nodes(model.graph)
    trim()
    return GraphModule(model)


def save_model(
    module: GraphModule, path: Path | str, *, source: Path | None = None, external_data: bool = False
) -> None:
    """Write a model whole or not at all; the same module gives the same bytes.

    Weights of more than ``EMBEDDED_LIMIT`` bytes together go to a data file beside the model,
    called like it with ``.data`` added, and are streamed; of more than ``STREAMED_LIMIT`` where some of them
    lie in a data file already.

    Args:
        module: The module, which stays as it is.
        path: The file; an older one is replaced.
        source: The file that the module was read from, which must not be overwritten.
        external_data: Write a data file even for a small model.

    Raises:
        InputError: ``path`` cannot be written or is the input model.

    """
    targets = output_files(module, Path(path), source, external_data=external_data)
    with replacing(*targets) as staged:
        write_model(module, staged)


def write_model(
    module: GraphModule, files: Sequence[Path], metadata: Callable[[], Mapping[str, str]] = dict
) -> None:
    """Write the files of a model as they are named, over whatever is there; the module stays as it is.

    Args:
        module: The module.
        files: What ``output_files`` names: perhaps a data file, and the model; or the same elsewhere.
        metadata: What the model says of itself besides; asked for once the data file is written.

    """
    *data, path = files
    model = module.model
    with _unchanged(model):
        _sort_initializers(model.graph)
        for file in data:
            ir.external_data.unload_from_model(
                model, file.parent, file.name, size_threshold_bytes=_SMALL_TENSOR, max_workers=WRITERS
            )
        if not data:
            ir.external_data.load_to_model(model)
        model.metadata_props.update(metadata())
        path.write_bytes(proto_of(model).SerializeToString(deterministic=True))
    trim()


@contextmanager
def _unchanged(model: ir.Model) -> Iterator[None]:
    """Let the block change where weights lie, their order, and what the model says of itself, for a while."""
    order, said = dict(model.graph.initializers), dict(model.metadata_props)
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    weights = [value.const_value for value in values]
    try:
        yield
    finally:
        for value, weight in zip(values, weights, strict=True):
            value.const_value = weight
        model.graph.initializers.clear()
        model.graph.initializers.update(order)
        model.metadata_props.clear()
        model.metadata_props.update(said)


def proto_of(model: ir.Model) -> onnx.ModelProto:
    """Return the whole model, with what waits beside it; see ``aside``."""
    proto = ir.serde.serialize_model(model)
    computed = [value for value in proto.graph.value_info if value.name not in model.graph.initializers]
    del proto.graph.value_info[:]  # of a constant its tensor says all
    proto.graph.value_info.extend(computed)
    if (aside := aside_of(model)) is not None:
        put_back(proto, aside)
    return proto


def output_files(
    module: GraphModule, path: Path, source: Path | None = None, *, external_data: bool = False
) -> tuple[Path, ...]:
    """Return what ``save_model`` writes: the data file of a large model, then ``path``.

    Raises:
        InputError: One of them is the input model or its data.

    """
    large = external_data or _must_stream(module.model)
    targets = (path.with_name(path.name + DATA_SUFFIX), path) if large else (path,)
    there = [target for target in targets if target.exists()]
    if there:
        data = files_of(external_tensors(module.model))
        _refuse_overwriting(there, [*data, *(model_files(source) if source else [])])
    return targets


def _must_stream(model: ir.Model) -> bool:
    """Tell whether the weights are too large for the model's own file."""
    weights = list(tensors(model))
    in_files = any(isinstance(tensor, MappedTensor | StoredTensor) for tensor in weights)
    return sum(tensor.nbytes for tensor in weights) > (STREAMED_LIMIT if in_files else EMBEDDED_LIMIT)


def model_files(path: Path) -> list[Path]:
    """Return the files that a model consists of: its data files, sorted, and itself.

    Raises:
        ModelError: The file cannot be read, or its data are missing.

    """
    return [*_data_files(path), path]


def model_digest(path: Path) -> str:
    """Return the SHA-256 of the file's content, as 64 hexadecimal digits.

    For a model with external data, the names and contents of the data files follow in sorted
    order; without, it is what ``sha256sum`` prints.

    Raises:
        ModelError: The file or its data cannot be read.

    """
    data_files, digest = _data_files(path), hashlib.sha256()
    _hash_file(digest, path)
    for file in data_files:
        digest.update(str(file.relative_to(path.absolute().parent)).encode())
        _hash_file(digest, file)
    return digest.hexdigest()


def model_size(path: Path) -> int:
    """Return the bytes on disk of a model and its external data.

    Raises:
        ModelError: The file or its data cannot be read.

    """
    return sum(file.stat().st_size for file in model_files(path))


def foreign_operators(module: GraphModule) -> list[Remark]:
    """Return a remark for every node of the main graph whose domain is not standard ONNX."""
    functions = {(domain, name) for domain, name, _ in module.model.functions}
    return [
        Remark(node.name or "", node.op_type, f"domain {node.domain!r} is not standard ONNX")
        for node in module.graph
        if node.domain not in _STANDARD_DOMAINS and (node.domain, node.op_type) not in functions
    ]


def _message(path: Path) -> onnx.ModelProto:
    """Return the message that the file holds, its external data not yet looked for."""
    try:
        with _readable(path):
            _check_file(path)
            proto = onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise _not_onnx(path) from error
    if not proto.HasField("graph"):
        raise _not_onnx(path)
    return proto


def _read(path: Path) -> tuple[ir.Model, Path | onnx.ModelProto]:
    """Return the model in the file, and what to check as ONNX.

    The latter is the file itself, unless something had to be said otherwise.
    """
    proto = _message(path)
    if proto.graph.sparse_initializer:
        raise ModelError(
            "sparse weights are not supported", where=str(path), hint="export them as dense ones"
        )
    check_outputs(proto.graph)
    checked = checkable(proto) if mend(proto) or not is_stated(proto) else path
    aside = set_aside(proto)
    try:
        with _quiet_onnx_ir():
            model = ir.serde.deserialize_model(proto)
        if ir.DataType.UNDEFINED in {tensor.dtype for tensor in tensors(model)}:
            raise ValueError("a tensor has no type")
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    note_aside(model, aside)
    return model, checked


@contextmanager
def _at_the_door(path: Path) -> Iterator[None]:
    """Put the file's name into each error, and take what libraries raise as said about the file.

    Nothing but reading happens here, in libraries that raise whatever a damaged file makes them meet.
    """
    try:
        with _located(path):
            yield
    except OnnxqError:
        raise
    except MemoryError as error:
        raise ModelError(
            "it needs more memory than there is", where=str(path), hint="use a machine with more memory"
        ) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    return ModelError(f"the graph is not valid: {root_cause(error)}", where=str(path), hint=EXPORT_AGAIN)


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


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell of a file that the system does not let us read."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"the file cannot be read: {error.strerror}",
            where=str(path),
            hint="check its name and permissions",
        ) from error


def _check_file(path: Path) -> None:
    require_utf8(path, ModelError)
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


@contextmanager
def _located(path: Path) -> Iterator[None]:
    """Put the file's name into an error that knows only the place in the graph."""
    try:
        yield
    except ModelError as error:
        if error.where == str(path):
            raise
        where = f"{path}, {error.where}" if error.where else str(path)
        raise ModelError(error.message, where=where, hint=error.hint) from error


def _shorten_domain(model: ir.Model) -> None:
    """Let the import of ``ai.onnx`` have its other name, the empty one, as onnx_ir's nodes have it."""
    imports = [model.opset_imports, *(function.opset_imports for function in model.functions.values())]
    for versions in imports:
        if "ai.onnx" in versions:
            versions[""] = versions.pop("ai.onnx")


def _free_negative_axes(model: ir.Model) -> None:
    """Take axes of length -1 for what older exporters mean by them, and ONNX Runtime too: of any length."""
    graphs: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for graph in graphs:
        for value in (*graph.inputs, *graph.outputs, *(value for node in graph for value in node.outputs)):
            sizes = () if value.shape is None else tuple(value.shape)
            if any(isinstance(size, int) and size < 0 for size in sizes):
                value.shape = ir.Shape(None if isinstance(size, int) and size < 0 else size for size in sizes)


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


def _refuse_overwriting(targets: Sequence[Path], inputs: Sequence[Path]) -> None:
    for target, file in product(targets, inputs):
        if file.exists() and target.samefile(file):
            raise InputError(
                "this is the model that is being read; it is not overwritten",
                where=str(target),
                hint="write to another file",
            )


def _data_files(path: Path) -> list[Path]:
    with _readable(path):
        _check_file(path)
        if not _may_have_data_files(path):
            return []
    with _at_the_door(path):
        external = external_in(_message(path))
        attach_external(external, path.absolute().parent)
    return files_of(external)


def _may_have_data_files(path: Path) -> bool:
    """Look for the key that every reference to a data file has; cheaper than parsing the weights."""
    key, tail = b"location", b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if key in tail + block:
                return True
            tail = block[1 - len(key) :]
    return False


def _hash_file(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        hashlib.file_digest(file, lambda: digest)
