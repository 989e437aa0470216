"""The types that readers, the collector, validation and timing share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxq.errors import DataError
from onnxq.runtime.batch import Array, Feeds

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class InputSpec:
    """What a model wants of one input.

    Args:
        name: The input's name.
        dtype: Its element type; strings are ``object``.
        shape: One entry for each axis: a fixed size, a symbol, or None where nothing is known.
            None instead of a tuple: not even the rank is known.
        required: False where the model has a default (an initializer of the same name).

    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None
    required: bool = True

    def __str__(self) -> str:
        """Print as ``float32[batch,3,32,32]``."""
        return describe(self.dtype, self.shape)


@dataclass(frozen=True)
class Batch:
    """What one run of the model takes.

    Args:
        feeds: Input name to array, of the model's dtypes. Axis 0 is the batch, except for inputs
            that no sample owns (a scalar, or a fixed first axis beside dynamic ones).
        labels: One for each sample, or None.
        rows: How many samples this is.

    """

    feeds: Feeds
    labels: Array | None
    rows: int


class Rows(Protocol):
    """An array that is read along axis 0, so that a large file need not fit in memory."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the whole array."""

    def take(self, count: int) -> Array:
        """Return the next ``count`` entries of axis 0."""

    def whole(self) -> Array:
        """Return everything; to be called before any ``take``."""


@dataclass
class ArrayRows:
    """``Rows`` over an array that is in memory."""

    array: Array
    _at: int = field(default=0, init=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the element type."""
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the whole array."""
        shape: tuple[int, ...] = self.array.shape
        return shape

    def take(self, count: int) -> Array:
        """Return the next ``count`` entries of axis 0."""
        self._at += count
        return self.array[self._at - count : self._at]

    def whole(self) -> Array:
        """Return everything."""
        return self.array


@dataclass(frozen=True)
class Chunk:
    """What a reader hands over: raw arrays that belong together.

    Args:
        arrays: Array name to rows, not yet matched with the model.
        where: The file or item, for error messages.
        labels: One for each row, or None.
        whole: True if this is one feed as the model shall see it, neither to be cut into batches
            nor joined with the next.
        prepared: True if pixel settings were applied already.

    """

    arrays: Mapping[str, Rows]
    where: str
    labels: Rows | None = None
    whole: bool = False
    prepared: bool = False


class Source(Protocol):
    """A reader of one format; each call of ``chunks`` starts over."""

    @property
    def warning(self) -> str | None:
        """Return what the user has to know before trusting this data."""

    def count(self) -> int | None:
        """Return how many samples there are, or None if only reading can tell."""

    def chunks(self) -> Iterator[Chunk]:
        """Read from the beginning."""


def describe(dtype: np.dtype[Any], shape: tuple[int | str | None, ...] | None) -> str:
    """Return an array's type as text: ``int64[8,128]``, with ``?`` for an unknown axis."""
    name = "string" if dtype.kind in "OU" else dtype.name
    axes = "..." if shape is None else ",".join("?" if axis is None else str(axis) for axis in shape)
    return f"{name}[{axes}]"


def input_specs(model: ir.Model) -> tuple[InputSpec, ...]:
    """Return what each input of ``model`` wants, in graph order.

    Raises:
        DataError: An input is not a tensor, or has no element type.

    """
    return tuple(_input_spec(value, model.graph.initializers) for value in model.graph.inputs)


def _input_spec(value: ir.Value, initializers: Mapping[str, ir.Value]) -> InputSpec:
    import onnx_ir as ir

    name = value.name or ""
    if not isinstance(value.type, ir.TensorType):
        raise DataError(
            f"the model takes {value.type or 'an untyped value'} here, which no data format of onnxq holds",
            where=f"input {name!r}",
        )
    if value.type.dtype == ir.DataType.UNDEFINED:
        raise DataError(
            "the model does not say the element type",
            where=f"input {name!r}",
            hint="state it (such as float32), or export the model again",
        )
    dtype = np.dtype(object) if value.type.dtype == ir.DataType.STRING else value.type.dtype.numpy()
    shape = None if value.shape is None else tuple(_axis(axis) for axis in value.shape)
    return InputSpec(name, dtype, shape, required=name not in initializers)


def _axis(axis: int | ir.SymbolicDim) -> int | str | None:
    return axis if isinstance(axis, int) else axis.value
