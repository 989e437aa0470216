"""From raw chunks to the batches a model takes: match, cut, join, convert, check, digest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxq.calibration.data.base import Batch, Chunk, InputSpec, Rows, Source
from onnxq.calibration.data.batching import SampleDigest, join, limited
from onnxq.calibration.data.matching import ROW_AXIS, Match, Matcher, is_float
from onnxq.calibration.data.options import DataOptions
from onnxq.calibration.data.pixels import pixels_from
from onnxq.errors import DataError
from onnxq.runtime.batch import Array, Feeds

DEFAULT_BATCH = 8
BESIDE_THE_MODEL = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
"""What readers look for in the model's folder."""


@dataclass
class Dataset:
    """Batches of one source for one model; iterate as often as you like.

    Memory is bounded by a batch or by one item of the source, whichever is larger.

    Args:
        name: What the user wrote after ``--data``.
        inputs: What the model wants.
        source: The reader.
        options: How to batch.

    """

    name: str
    inputs: Sequence[InputSpec]
    source: Source
    options: DataOptions = field(default_factory=DataOptions)
    _notes: dict[str, None] = field(default_factory=dict, init=False, repr=False)
    _digest: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Build the matcher once, and say so where the model overrules the batch size."""
        self._matcher = Matcher(self.inputs, self.options)
        asked, limit = self.options.batch_size, self.options.limit
        if asked is not None and self.batch_size not in (asked, limit):
            self._note(f"the model's inputs allow batches of {self.batch_size} only, not of {asked}")

    @property
    def warning(self) -> str | None:
        """What the user has to know before trusting results on this data."""
        return self.source.warning

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders that are read, those beside the model included."""
        tokenizer, folder = self.options.tokenizer, self.options.model_dir
        beside = [] if folder is None else [folder / name for name in BESIDE_THE_MODEL]
        named = [Path(self.name), *([] if tokenizer is None else [tokenizer])]
        return tuple(path for path in (*named, *beside) if os.path.exists(path))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or decided so far while reading, each said once."""
        return tuple(self._notes)

    @property
    def batch_size(self) -> int:
        """How many samples a full batch has; feeds that are given whole keep their own size."""
        return batch_size_for(self.inputs, self.options)

    @property
    def samples(self) -> int | None:
        """How many samples there will be, for a progress bar; None if only reading can tell."""
        count = self.source.count()
        if count is None:
            return None
        fixed = self._matcher.fixed_batch or 1
        return min(count, self.options.limit or count) // fixed * fixed

    @property
    def expected(self) -> int | None:
        """How many batches there will be; None if only reading can tell."""
        samples = self.samples
        return None if samples is None else -(-samples // self.batch_size)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from the beginning.

        Raises:
            DataError: The data cannot be read, does not fit the model, holds NaN or infinity, is
                empty, or differs from what an earlier call gave.

        """
        digest, empty = SampleDigest(self._matcher.carriers), True
        joined = join(self._pieces(), self.batch_size, self._matcher.carriers)
        for batch in self._full(limited(joined, self.options.limit, self._matcher.carriers)):
            digest.update(batch)
            empty = False
            yield batch
        if empty:
            raise DataError("there is no sample in it", where=self.name, hint=self._empty_hint())
        self._remember(digest.hexdigest())

    def digest(self) -> str:
        """Return the SHA-256 of all samples as the model gets them; reads them if nobody has yet.

        Names, dtypes, shapes and bytes count, file format, batch size and labels do not. Only
        padding makes a sample depend on its batch.
        """
        if self._digest is None:
            for _ in self.batches():
                pass
        return str(self._digest)

    def _pieces(self) -> Iterator[tuple[Batch, bool]]:
        """Match each chunk and cut it into batches of at most ``batch_size``; True marks whole feeds."""
        seen = 0
        for chunk in self.source.chunks():
            match = self._matcher.match(chunk.arrays, chunk.where, whole=chunk.whole)
            if match.extra:
                self._note(f"not an input of the model, ignored: {', '.join(match.extra)}")
            whole = chunk.whole or self._is_one_graph(chunk, match)
            for piece in self._cut(chunk, match, whole=whole):
                feeds = {spec.name: self._convert(spec, piece, chunk, seen) for spec in self._used(match)}
                seen += piece.rows
                if piece.rows:
                    yield replace(piece, feeds=feeds), whole

    def _is_one_graph(self, chunk: Chunk, match: Match) -> bool:
        """Tell whether arrays are of different lengths, and may be: of so many nodes and so many edges."""
        carried = [name for name in match.names if name in self._matcher.carriers]
        shapes = [chunk.arrays[match.names[name]].shape for name in carried]
        lengths = {shape[ROW_AXIS] for shape in shapes if shape}
        return self._matcher.counted_apart and len(lengths) > 1 and not match.single

    def _used(self, match: Match) -> list[InputSpec]:
        return [spec for spec in self.inputs if spec.name in match.names]

    def _cut(self, chunk: Chunk, match: Match, *, whole: bool) -> Iterator[Batch]:
        arrays = {name: chunk.arrays[array] for name, array in match.names.items()}
        carried = {name: rows for name, rows in arrays.items() if name in self._matcher.carriers}
        shared = {name: rows.whole() for name, rows in arrays.items() if name not in carried}
        if match.single:
            one = {name: rows.whole()[None] for name, rows in carried.items()}
            yield Batch({**shared, **one}, _labels(chunk, 1), 1)
        elif whole or not carried:
            feeds = {**shared, **{name: rows.whole() for name, rows in carried.items()}}
            rows = self._rows(feeds)
            yield Batch(feeds, _labels(chunk, rows), rows)
        else:
            yield from self._slices(chunk, carried, shared)

    def _slices(self, chunk: Chunk, carried: dict[str, Rows], shared: dict[str, Array]) -> Iterator[Batch]:
        left = _common_length(carried, chunk)
        while left:
            count = min(left, self.batch_size)
            feeds = {name: rows.take(count) for name, rows in carried.items()}
            labels = None if chunk.labels is None else chunk.labels.take(count)
            yield Batch({**shared, **feeds}, labels, count)
            left -= count

    def _rows(self, feeds: Feeds) -> int:
        """Return the common length of axis 0, or 1 if this feed has none."""
        lengths = {len(array) for name, array in feeds.items() if name in self._matcher.carriers}
        return lengths.pop() if len(lengths) == 1 else 1

    def _convert(self, spec: InputSpec, piece: Batch, chunk: Chunk, seen: int) -> Array:
        raw = piece.feeds[spec.name]
        array = self._matcher.convert(spec, raw, chunk.where)
        if is_float(array.dtype):
            self._check_finite(spec, array, chunk, seen)
        if is_float(raw.dtype) and not chunk.prepared and pixels_from(self.options) is not None:
            self._note(f"{spec.name!r} is float already: scale, mean and std are not applied to it")
        return array

    def _check_finite(self, spec: InputSpec, array: Array, chunk: Chunk, seen: int) -> None:
        finite = np.isfinite(array)
        if finite.all():
            return
        at = np.argwhere(~finite)[0]
        row = seen + int(at[ROW_AXIS]) if spec.name in self._matcher.carriers else seen
        raise DataError(
            f"input {spec.name!r}: sample {row} (counted from 0) has {array[tuple(at)]} as {array.dtype}",
            where=chunk.where,
            hint="leave the sample out, or find out where the value comes from",
        )

    def _full(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Leave out batches that a model with a fixed batch size cannot take."""
        fixed = self._matcher.fixed_batch
        for batch in batches:
            if fixed is None or batch.rows == fixed:
                yield batch
            else:
                self._note(f"{batch.rows} samples left out: the model's batch size is fixed at {fixed}")

    def _remember(self, digest: str) -> None:
        if self._digest not in (None, digest):
            raise DataError(
                "reading it again gave other data",
                where=self.name,
                hint="seed the random numbers inside it, so that each reading gives the same",
            )
        self._digest = digest

    def _note(self, text: str) -> None:
        self._notes.setdefault(text)

    def _empty_hint(self) -> str:
        return "; ".join(self._notes) or "give data with at least one sample"


def batch_size_for(inputs: Sequence[InputSpec], options: DataOptions) -> int:
    """Return the batch size: the model's if fixed, else as asked or 8, and no more than the limit."""
    matcher = Matcher(inputs, options)
    if matcher.batch_elsewhere or not matcher.carriers:
        return 1
    asked = options.batch_size or DEFAULT_BATCH
    return matcher.fixed_batch or min(asked, options.limit or asked)


def _labels(chunk: Chunk, rows: int) -> Array | None:
    """Return the labels of a chunk that is not cut."""
    if chunk.labels is None:
        return None
    labels = np.atleast_1d(chunk.labels.whole())
    if len(labels) != rows:
        raise DataError(
            f"{len(labels)} labels for {rows} samples",
            where=chunk.where,
            hint="give one label for each sample",
        )
    return labels


def _common_length(carried: Mapping[str, Rows], chunk: Chunk) -> int:
    """Return the number of samples, on which all arrays and the labels have to agree."""
    lengths = {name: rows.shape[ROW_AXIS] for name, rows in carried.items()}
    if chunk.labels is not None:
        lengths["labels"] = chunk.labels.shape[ROW_AXIS] if chunk.labels.shape else 1
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in sorted(lengths.items()))
        raise DataError(
            f"the arrays have different numbers of samples: {found}",
            where=chunk.where,
            hint="axis 0 of each array counts the samples",
        )
    return next(iter(lengths.values()))
