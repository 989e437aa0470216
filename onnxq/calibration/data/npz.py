"""NumPy files: .npz with one array for each input, .npy for a single input, or a folder of them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from onnxq.calibration.data.base import ArrayRows, Chunk, InputSpec, Rows
from onnxq.calibration.data.matching import ROW_AXIS, Matcher
from onnxq.calibration.data.options import DataOptions
from onnxq.errors import DataError
from onnxq.limits import ITEM_BYTES
from onnxq.reading import UnreadableError, untrusted
from onnxq.runtime.batch import Array

SUFFIXES = (".npy", ".npz")
LABELS = ("labels", "y")
LARGEST_HEADER = 1 << 16
"""Bytes of an array's header; one of numbers has some hundred."""


@dataclass(frozen=True)
class ArrayFiles:
    """One array file, or a folder of them in the order of their names."""

    files: Sequence[Path]
    inputs: Sequence[InputSpec]
    options: DataOptions
    warning: str | None = None

    def count(self) -> int:
        """Return the number of samples; reads only the files' headers."""
        matcher = Matcher(self.inputs, self.options)
        return sum(_count(chunk, matcher) for chunk in self.chunks())

    def chunks(self) -> Iterator[Chunk]:
        """Open one file after the other."""
        for path in self.files:
            with ExitStack() as stack:
                arrays = _open_arrays(path, stack)
                labels = arrays.pop(self._label_key(arrays, path) or "", None)
                yield Chunk(arrays, str(path), labels)

    def _label_key(self, arrays: dict[str, Rows], path: Path) -> str | None:
        asked = self.options.label_column
        if asked is not None:
            if asked not in arrays:
                raise DataError(
                    f"no array {asked!r} for the labels",
                    where=str(path),
                    hint=f"it has: {', '.join(sorted(arrays))}",
                )
            return str(asked)
        taken = {spec.name for spec in self.inputs}
        return next((key for key in LABELS if key in arrays and key not in taken and len(arrays) > 1), None)


@dataclass
class NpyRows:
    """``Rows`` of an open .npy stream, plain or inside a .npz."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    where: str

    def take(self, count: int) -> Array:
        """Return the next ``count`` entries of axis 0."""
        return self._read((count, *self.shape[1:]))

    def whole(self) -> Array:
        """Return everything."""
        return self._read(self.shape)

    def _read(self, shape: tuple[int, ...]) -> Array:
        wanted = prod(shape) * self.dtype.itemsize
        ITEM_BYTES.check(wanted, f"reading {list(shape)} at once takes", self.where, DataError)
        with reading(self.where):
            data = self.file.read(wanted)
        if len(data) < wanted:
            raise DataError(
                f"the file is cut short: {len(data)} bytes left where {wanted} were expected",
                where=self.where,
                hint="write or copy it again",
            )
        return np.frombuffer(data, self.dtype).reshape(shape)


@dataclass
class FortranRows:
    """``Rows`` of an array stored column by column: all of it is read when the first rows are asked for."""

    stored: NpyRows
    _read: ArrayRows | None = field(default=None, init=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the element type."""
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the whole array."""
        return self.stored.shape[::-1]

    def take(self, count: int) -> Array:
        """Return the next ``count`` entries of axis 0."""
        if self._read is None:
            self._read = ArrayRows(self.whole())
        return self._read.take(count)

    def whole(self) -> Array:
        """Return everything."""
        return self.stored.whole().T


@dataclass(frozen=True)
class _Header:
    """The start of a stream, of which no more is read at once than a header has."""

    file: IO[bytes]

    def read(self, count: int = 0, /) -> bytes:
        if count > LARGEST_HEADER:
            raise ValueError(f"a header of {count} bytes")
        return self.file.read(count)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what NumPy and zipfile raise on damaged files into a DataError."""
    try:
        with untrusted():
            yield
    except UnreadableError as error:
        raise DataError(
            f"not a readable NumPy file ({error})",
            where=where,
            hint="write it again with np.save or np.savez",
        ) from error


def _open_arrays(path: Path, stack: ExitStack) -> dict[str, Rows]:
    if path.suffix == ".npy":
        with reading(str(path)):
            file = stack.enter_context(path.open("rb"))
        return {path.stem: _open_npy(file, str(path))}
    with reading(str(path)):
        archive = stack.enter_context(zipfile.ZipFile(path))
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        members = {name: stack.enter_context(archive.open(name)) for name in names}
    return {name.removesuffix(".npy"): _open_npy(file, f"{path}[{name}]") for name, file in members.items()}


def _open_npy(file: IO[bytes], where: str) -> Rows:
    """Read the header; the data follows on demand.

    Source:
        The .npy format, numpy.lib.format (NEP 1).

    """
    with reading(where):
        shape, fortran, dtype = _header(_Header(file))
    if dtype.hasobject:
        raise DataError(
            "the array holds pickled Python objects, which are refused: reading them can run any code",
            where=where,
            hint="save arrays of numbers: np.save(file, array.astype(np.float32))",
        )
    if fortran:
        return FortranRows(NpyRows(file, dtype, shape[::-1], where))
    return NpyRows(file, dtype, shape, where)


def _header(file: _Header) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether it is stored column by column, and type."""
    version = npy_format.read_magic(file)
    read_header = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of the format, which is only for structured arrays")
    shape, fortran, dtype = read_header(file)
    if not all(type(axis) is int and axis >= 0 for axis in shape):
        raise ValueError(f"{shape} is no shape")
    return shape, fortran, dtype


def _count(chunk: Chunk, matcher: Matcher) -> int:
    match = matcher.match(chunk.arrays, chunk.where)
    carried = [array for name, array in match.names.items() if name in matcher.carriers]
    return 1 if match.single or not carried else chunk.arrays[carried[0]].shape[ROW_AXIS]
