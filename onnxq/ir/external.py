"""A model's tensors, and the data files beside the model that hold some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, cast

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import ModelError
from onnxq.ir.check import EXPORT_AGAIN


def tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Yield every initializer and every attribute tensor, those of subgraphs and functions included."""
    for graph in model.graphs():
        yield from (
            value.const_value for value in graph.initializers.values() if value.const_value is not None
        )
    for node in _all_nodes(model):
        yield from _attribute_tensors(node)


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield the tensors whose data lie in other files."""
    return (tensor for tensor in tensors(model) if isinstance(tensor, ir.ExternalTensor))


def external_in(model: onnx.ModelProto) -> list[ir.ExternalTensor]:
    """Return the same of a model that is a message still, of which nothing else is looked at."""
    external = onnx.TensorProto.EXTERNAL
    stored = [tensor for tensor in _messages(model) if tensor.data_location == external]
    return [cast("ir.ExternalTensor", ir.serde.deserialize_tensor(tensor)) for tensor in stored]


def files_of(external: Iterable[ir.ExternalTensor]) -> list[Path]:
    """Return the data files in which these tensors lie, sorted."""
    return sorted({Path(tensor.path) for tensor in external})


def attach_external(external: Iterable[ir.ExternalTensor], folder: Path) -> None:
    """Let external tensors read their files from ``folder``, after all of them were checked.

    Only names and sizes of files are looked at.

    Raises:
        ModelError: A file is missing, too short, outside ``folder`` or reachable by other names.

    """
    for tensor in external:
        tensor.base_dir = folder
        problem = _name_problem(tensor) or _location_problem(tensor, folder) or _size_problem(tensor)
        if problem is not None:
            raise ModelError(problem[0], where=f"tensor {tensor.name!r}", hint=problem[1])


def _read_attributes(model: ir.Model) -> None:
    """Read the external tensors among node attributes into memory, as onnx_ir would not when saving."""
    for node in _all_nodes(model):
        for name, attr in node.attributes.items():
            if attr.type == ir.AttributeType.TENSOR and isinstance(attr.value, ir.ExternalTensor):
                stored = attr.value
                tensor = ir.Tensor(stored.numpy().copy(), dtype=stored.dtype, name=stored.name)
                node.attributes[name] = ir.AttrTensor(name, tensor)


def believe_tensors(model: ir.Model) -> None:
    """Let initializers have the type and shape of their tensors, as in ONNX Runtime, whatever else is stated.

    Raises:
        ModelError: An input states another type, or a shape that its default does not have.

    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            if value.is_graph_input():
                _check_default(value, tensor)
            else:
                value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())


def _check_default(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    sizes = tensor.shape.numpy()
    stated = list(sizes) if value.shape is None else list(value.shape)
    fits = len(stated) == len(sizes) and all(
        axis == size for axis, size in zip(stated, sizes, strict=True) if isinstance(axis, int)
    )
    if value.dtype not in (None, tensor.dtype) or not fits:
        raise ModelError(
            f"its default is {tensor.dtype.name.lower()}{list(sizes)}, which it does not allow",
            where=f"input {value.name!r}",
            hint=EXPORT_AGAIN,
        )


def read_embedded(model: ir.Model) -> None:
    """Take the weights out of the protobuf message, which copies a weight each time that it is asked for.

    Raises:
        ModelError: The bytes of a tensor do not fit its type and shape.

    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.TensorProtoTensor):
                value.const_value = _in_memory(value.const_value)
    for node in _all_nodes(model):
        for name, attr in node.attributes.items():
            if attr.type == ir.AttributeType.TENSOR and isinstance(attr.value, ir.TensorProtoTensor):
                node.attributes[name] = ir.AttrTensor(name, _in_memory(attr.value), attr.doc_string)


def _in_memory(tensor: ir.TensorProtoTensor) -> ir.TensorProtocol:
    """Return the tensor with an array of its own; what is smaller than a byte would be padded unseen."""
    try:
        if tensor.dtype.bitwidth in (2, 4) and _stored_bytes(tensor) != tensor.nbytes:
            raise ValueError("too few or too many bytes")
        array = tensor.numpy()
    except (ValueError, TypeError, OverflowError, MemoryError, AssertionError) as error:
        stated = f"{tensor.dtype.name.lower()}{list(tensor.shape)}"
        raise ModelError(
            f"its bytes do not fit its type and shape, {stated}",
            where=f"tensor {tensor.name!r}",
            hint="the file is damaged: copy it again, or export the model again",
        ) from error
    return ir.Tensor(
        array,
        dtype=tensor.dtype,
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=tensor.metadata_props,
    )


def _stored_bytes(tensor: ir.TensorProtoTensor) -> int:
    """Return how many bytes a tensor of numbers smaller than a byte has in its message."""
    proto = tensor.raw
    return len(proto.raw_data) if proto.HasField("raw_data") else len(proto.int32_data)


def _messages(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every initializer and every attribute tensor of a message."""
    yield from _messages_of(model.graph)
    for function in model.functions:
        yield from _messages_of_nodes(function.node)


def _messages_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _messages_of_nodes(graph.node)


def _messages_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in chain.from_iterable(node.attribute for node in nodes):
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from _messages_of(graph)


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _attribute_tensors(node: ir.Node) -> Iterator[ir.TensorProtocol]:
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.TENSOR:
            yield attr.value  # as_tensor looks all members of its protocol up, each time
        elif attr.type == ir.AttributeType.TENSORS:
            yield from attr.value


def _name_problem(tensor: ir.ExternalTensor) -> tuple[str, str] | None:
    """Tell whether the location is one that a file can have; onnx_ir takes any text."""
    location = str(tensor.location)
    if not location or not location.isprintable():
        return f"{location!r} is no name of a data file", EXPORT_AGAIN
    return None


def _location_problem(tensor: ir.ExternalTensor, folder: Path) -> tuple[str, str] | None:
    file = folder / tensor.location
    if not file.resolve().is_relative_to(folder.resolve()):
        return (
            f"its data file {str(tensor.location)!r} lies outside the model's folder and is not read",
            "put the data file beside the model, as a file and not as a link",
        )
    if not file.is_file():
        return (
            f"its data file {str(tensor.location)!r} is missing",
            "copy the model together with its data files",
        )
    if file.stat().st_nlink > 1:
        return (
            f"its data file {str(tensor.location)!r} has a second name (a hard link) and is not read",
            "make a real copy of the data file",
        )
    return None


def _size_problem(tensor: ir.ExternalTensor) -> tuple[str, str] | None:
    start, length = tensor.offset or 0, tensor.length
    if any(axis < 0 for axis in tensor.shape.numpy()):
        return f"an axis of its shape {list(tensor.shape)} is negative", EXPORT_AGAIN
    if length not in (None, tensor.nbytes):
        return (
            f"its place in {str(tensor.location)!r} (offset {start}, length {length}) does not fit "
            f"its {tensor.nbytes} bytes",
            EXPORT_AGAIN,
        )
    size = Path(tensor.path).stat().st_size
    if start + tensor.nbytes > size:
        return (
            f"its data file {str(tensor.location)!r} is too short: {size} bytes, "
            f"but the tensor ends at {start + tensor.nbytes}",
            "copy the data file again, or export the model again",
        )
    return None


EMBEDDED_BYTES = 4096
"""External tensors up to this size are read at once: onnx's own tools look into them, wherever they run."""


class MappedTensor(ir.ExternalTensor):
    """A tensor in a file that is mapped whenever it is asked for; the map lasts as long as the array.

    One of onnx_ir 1.1 keeps its map, and with it every page that was ever read, in the process's memory.
    """

    @classmethod
    def of(cls, tensor: ir.ExternalTensor) -> MappedTensor:
        """Return the same tensor, mapped only while it is used."""
        return cls(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=tensor.metadata_props,
            base_dir=tensor.base_dir,
        )

    def numpy(self) -> NDArray[Any]:
        """Return the values, read-only."""
        return self._opened().numpy()

    def __array__(self, dtype: Any = None) -> NDArray[Any]:
        """Return the values."""
        return self._opened().__array__(dtype)

    def tobytes(self) -> bytes:
        """Return a copy of the bytes."""
        return self._opened().tobytes()

    def _opened(self) -> ir.ExternalTensor:
        where = self.location, self.offset, self.length, self.dtype
        return ir.ExternalTensor(*where, shape=self.shape, name=self.name or "", base_dir=self.base_dir)


def settle_tensors(model: ir.Model) -> None:
    """Read what is small, or an attribute, into memory; map other initializers whenever they are used."""
    _read_attributes(model)
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _kept(value.const_value, main=graph is model.graph)


def _kept(tensor: ir.ExternalTensor, *, main: bool) -> ir.TensorProtocol:
    if main and tensor.nbytes <= EMBEDDED_BYTES:
        return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    return MappedTensor.of(tensor)
