"""Fit arrays to a model's inputs by name, dtype and shape, or say which does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxq.calibration.data.base import InputSpec, Rows, describe
from onnxq.calibration.data.options import DataOptions
from onnxq.calibration.data.pixels import channel_axis, pixels_from
from onnxq.errors import DataError, did_you_mean
from onnxq.runtime.batch import Array

ROW_AXIS = 0


@dataclass(frozen=True)
class Match:
    """Which array serves which input.

    Args:
        names: Input name to array name.
        extra: Arrays that no input takes.
        single: True if the arrays are one sample and lack the batch axis.

    """

    names: Mapping[str, str]
    extra: tuple[str, ...]
    single: bool


@dataclass(frozen=True)
class Matcher:
    """Match and convert for one model.

    Args:
        inputs: What the model wants.
        options: Their pixel settings decide whether integers may become floats.

    """

    inputs: Sequence[InputSpec]
    options: DataOptions
    carriers: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Decide once which inputs have samples along axis 0."""
        object.__setattr__(self, "carriers", _carriers([spec for spec in self.inputs if spec.required]))

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the model's shapes prescribe, if they do."""
        first = [spec.shape[ROW_AXIS] for spec in self.inputs if spec.name in self.carriers and spec.shape]
        return first[0] if first and isinstance(first[0], int) else None

    @property
    def batch_symbols(self) -> frozenset[str]:
        """The symbols that stand for the batch."""
        first = {spec.shape[ROW_AXIS] for spec in self.inputs if spec.name in self.carriers and spec.shape}
        return frozenset(axis for axis in first if isinstance(axis, str))

    @property
    def counted_apart(self) -> bool:
        """Whether first axes have several names, so that one may count nodes and another edges."""
        return len(self.batch_symbols) > 1

    @property
    def batch_elsewhere(self) -> bool:
        """Whether some input has the batch on another axis, so that samples cannot be cut or joined."""
        shared = [spec for spec in self.inputs if spec.required and spec.name not in self.carriers]
        return any(axis in self.batch_symbols for spec in shared for axis in spec.shape or ())

    def match(self, arrays: Mapping[str, Rows], where: str, *, whole: bool = False) -> Match:
        """Return which array serves which input; nothing is read yet.

        Args:
            arrays: Array name to rows.
            where: The file or item, for messages.
            whole: The arrays are one feed, so a fixed batch axis has to fit as well.

        Raises:
            DataError: An input is missing, or its array's dtype or shape does not fit.

        """
        names = self._names(arrays, where)
        single = self._lacks_batch_axis(arrays, names)
        for spec in self.inputs:
            if spec.name in names:
                self._check(spec, arrays[names[spec.name]], where, single=single, whole=whole)
        return Match(names, tuple(sorted(set(arrays) - set(names.values()))), single)

    def convert(self, spec: InputSpec, array: Array, where: str) -> Array:
        """Return ``array``, which ``match`` accepted, in the dtype of ``spec``.

        Raises:
            DataError: An integer does not fit into the narrower type.

        """
        pixels = pixels_from(self.options)
        if pixels is not None and array.dtype.kind in "iu" and is_float(spec.dtype):
            axis = channel_axis(spec, self.options.layout)
            return pixels.apply(array, axis, where).astype(spec.dtype, copy=False)
        with np.errstate(over="ignore"):
            result = array.astype(spec.dtype, copy=False)
        if array.dtype.kind in "iu" and not np.array_equal(result, array):
            raise DataError(
                f"input {spec.name!r}: a value of {array[result != array][0]} does not fit {spec.dtype}",
                where=where,
                hint="check that the array belongs to this input",
            )
        return result

    def _names(self, arrays: Mapping[str, Rows], where: str) -> dict[str, str]:
        required = [spec for spec in self.inputs if spec.required]
        if len(required) == 1 and len(arrays) == 1:
            return {required[0].name: next(iter(arrays))}
        for spec in required:
            if spec.name not in arrays:
                raise self._missing(spec, arrays, where)
        return {spec.name: spec.name for spec in self.inputs if spec.name in arrays}

    def _missing(self, spec: InputSpec, arrays: Mapping[str, Rows], where: str) -> DataError:
        known = {other.name for other in self.inputs}
        free = [name for name in arrays if name not in known]
        return DataError(
            f"input {spec.name!r}: {spec} is missing; the data has: {', '.join(sorted(arrays)) or 'nothing'}",
            where=where,
            hint=did_you_mean(spec.name, free) or "name the arrays after the model's inputs",
        )

    def _lacks_batch_axis(self, arrays: Mapping[str, Rows], names: Mapping[str, str]) -> bool:
        ranks = {
            len(arrays[names[spec.name]].shape) - len(spec.shape)
            for spec in self.inputs
            if spec.name in self.carriers and spec.shape is not None
        }
        return ranks == {-1}

    def _check(self, spec: InputSpec, rows: Rows, where: str, *, single: bool, whole: bool) -> None:
        carrier = spec.name in self.carriers
        shape = (1, *rows.shape) if single and carrier else rows.shape
        found = describe(rows.dtype, rows.shape)
        if not _fits_shape(spec, shape, skip=1 if carrier and not whole else 0):
            raise DataError(
                f"input {spec.name!r}: the model wants {spec}, the data has {found}",
                where=where,
                hint=_shape_hint(spec, shape),
            )
        if not self._converts(rows.dtype, spec.dtype):
            raise DataError(
                f"input {spec.name!r}: the model wants {spec}, the data has {found}",
                where=where,
                hint=_dtype_hint(rows.dtype, spec.dtype),
            )

    def _converts(self, source: np.dtype[Any], target: np.dtype[Any]) -> bool:
        as_pixels = source.kind in "iu" and is_float(target) and pixels_from(self.options) is not None
        return as_pixels or convertible(source, target)


def convertible(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Tell whether ``source`` may become ``target`` without a word from the user.

    Floats become floats; integers become integers or booleans where every value fits (checked on
    the values); booleans become anything numeric. Floats never become integers, and integers become
    floats only by ``Pixels``.
    """
    if is_float(source):
        return is_float(target)
    if source.kind in "iu":
        return target.kind in "iub"
    if source.kind == "b":
        return target.kind in "iub" or is_float(target)
    return source.kind in "OU" and target.kind == "O"


def is_float(dtype: np.dtype[Any]) -> bool:
    """Tell whether ``dtype`` is a float, those of ml_dtypes included."""
    return dtype.name.startswith(("float", "bfloat"))


def _carriers(specs: Sequence[InputSpec]) -> frozenset[str]:
    """Return the inputs with samples along axis 0: the dynamic ones, or all if they agree on a size.

    None has where axes count other things than samples, as the nodes and edges of a graph.
    """
    ranked = [spec for spec in specs if spec.shape != ()]
    firsts = {spec.name: spec.shape[ROW_AXIS] if spec.shape else None for spec in ranked}
    dynamic = [name for name, first in firsts.items() if not isinstance(first, int)]
    if dynamic:
        return frozenset() if any(_counts_others(spec, specs) for spec in specs) else frozenset(dynamic)
    return frozenset(firsts) if len(set(firsts.values())) == 1 else frozenset()


def _counts_others(spec: InputSpec, specs: Sequence[InputSpec]) -> bool:
    """Tell whether an input, such as edges of shape [2, E], is as long as no sample of the others is.

    Its axes are then named otherwise than the samples, and than all axes behind them.
    """
    first, *rest = spec.shape or (None,)
    if not isinstance(first, int) or first < 2:
        return False
    others = [one.shape for one in specs if one.shape and not isinstance(one.shape[ROW_AXIS], int)]
    samples, own = {shape[ROW_AXIS] for shape in others}, {axis for axis in rest if isinstance(axis, str)}
    shared = samples if len(samples) == 1 else set()
    return bool(own) and own.isdisjoint(shared.union(*(shape[1:] for shape in others)))


def _fits_shape(spec: InputSpec, shape: tuple[int, ...], skip: int) -> bool:
    if spec.shape is None:
        return True
    pairs = zip(spec.shape[skip:], shape[skip:], strict=False)
    return len(spec.shape) == len(shape) and all(
        want == found for want, found in pairs if isinstance(want, int)
    )


def _shape_hint(spec: InputSpec, shape: tuple[int, ...]) -> str:
    want = spec.shape or ()
    if len(want) != len(shape):
        return (
            f"each sample needs {max(len(want) - 1, 0)} axes, and the file one more in front for the samples"
        )
    if sorted(map(str, want[1:])) == sorted(map(str, shape[1:])):
        return "the axes are in another order: transpose the array"
    return "prepare the data as for the original model, or export the model with dynamic axes"


def _dtype_hint(source: np.dtype[Any], target: np.dtype[Any]) -> str:
    if source.kind in "iu" and is_float(target):
        return "say how integers become floats: --scale 1 keeps the values, --mean and --std normalise pixels"
    return f"convert the array; onnxq never turns {source} into {target} by itself"
