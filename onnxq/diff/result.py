"""The difference of two models as plain values, for text, JSON, pages and rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnxq.diff.tensors import Initializer, TensorPair
from onnxq.runtime.compare import plain
from onnxq.shown import Shown

KINDS = ("same", "rewritten", "replaced", "added", "removed")


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Args:
        name: Its file.
        size_bytes: Its size on disk, external data included.
        nodes: How many nodes it has, Constant nodes not counted.
        bytes_by_dtype: Bytes of its constants by element type.
        opsets: Operator set versions by domain.

    """

    name: str
    size_bytes: int
    nodes: int
    bytes_by_dtype: Mapping[str, int]
    opsets: Mapping[str, int]


@dataclass(frozen=True)
class ChangeRow:
    """What became of the nodes that compute one value.

    Args:
        id: Its place among all changes, from 0.
        kind: One of ``KINDS``.
        pattern: The operators before and after.
        before: The names of the nodes in the first model.
        after: The names in the second; one that several values share stands in each.
        how: ``structure``, ``weights``, ``names`` or ``neighbours``: what the value was aligned by.
        value: The value's name in the first model.
        counterpart: Its name in the second.
        bytes_before: Bytes of the constants that the nodes before read.
        bytes_after: The same of those after.
        microseconds_before: Time of the kernels that computed it, if measured.
        microseconds_after: The same of the second model.

    """

    id: int
    kind: str
    pattern: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    how: str
    value: str | None
    counterpart: str | None
    bytes_before: int
    bytes_after: int
    microseconds_before: float | None = None
    microseconds_after: float | None = None


@dataclass(frozen=True)
class Pattern:
    """Changes of one kind with the same operators before and after; bytes and times are sums.

    Args:
        kind: One of ``KINDS``.
        pattern: The operators before and after.
        count: How many changes there are.
        example: A node of the first of them.
        bytes_before: As in ``ChangeRow``.
        bytes_after: The same.
        microseconds_before: The same.
        microseconds_after: The same.

    """

    kind: str
    pattern: str
    count: int
    example: str
    bytes_before: int
    bytes_after: int
    microseconds_before: float | None
    microseconds_after: float | None

    @classmethod
    def of(cls, rows: Sequence[ChangeRow]) -> Pattern:
        """Return what changes of the same kind and pattern have in common; there is one at least."""
        first = rows[0]
        return cls(
            kind=first.kind,
            pattern=first.pattern,
            count=len(rows),
            example=next(iter((*first.before, *first.after)), ""),
            bytes_before=sum(one.bytes_before for one in rows),
            bytes_after=sum(one.bytes_after for one in rows),
            microseconds_before=_sum(one.microseconds_before for one in rows),
            microseconds_after=_sum(one.microseconds_after for one in rows),
        )


@dataclass(frozen=True)
class Counterpart:
    """One matrix product or convolution of the first model, and the nodes of the second that compute it."""

    name: str
    op_type: str
    after: tuple[str, ...]


@dataclass(frozen=True)
class TensorError:
    """How far an aligned value lies from its counterpart.

    Args:
        change: The change that computes it.
        value: Its name in the first model.
        counterpart: Its name in the second.
        cosine: Over all samples.
        sqnr_db: Signal to noise; None if the two are equal, or if the first is all zero.
        max_abs: Largest absolute difference.
        scale: Largest absolute value in the first model.
        input_sqnr_db: The smallest signal to noise among what it is computed from; None if that is equal.
        entered_db: By how many decibels the noise, as a share of the signal, is above that of the inputs;
            None where the inputs are equal, so that all of its noise enters here.

    """

    change: int
    value: str
    counterpart: str
    cosine: float | None
    sqnr_db: float | None
    max_abs: float | None
    scale: float | None
    input_sqnr_db: float | None
    entered_db: float | None


@dataclass(frozen=True)
class Measured:
    """What running both models on data showed.

    Args:
        samples: How many samples.
        errors: One for each aligned float value that could be compared, in the order of the graph.
        untraced_before: Share of the first model's time that belongs to no change.
        untraced_after: Share of the second's.
        notes: What a reader must know about the numbers.

    """

    samples: int
    errors: tuple[TensorError, ...]
    untraced_before: float
    untraced_after: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelDiff(Shown):
    """What changed from one model to another.

    Args:
        before: The first model.
        after: The second.
        changes: What became of every node, unchanged ones included, in the order of the graph.
        counterparts: Every matrix product and convolution of the first model with what computes it now.
        tensors: Weights and values that differ in type, shape, encoding or content.
        equal_tensors: How many do not.
        removed_constants: Constants that only the first model has, the largest first.
        added_constants: Those that only the second has.
        measured: Errors and times, if there was data.

    """

    before: Side
    after: Side
    changes: tuple[ChangeRow, ...]
    counterparts: tuple[Counterpart, ...]
    tensors: tuple[TensorPair, ...]
    equal_tensors: int
    removed_constants: tuple[Initializer, ...]
    added_constants: tuple[Initializer, ...]
    measured: Measured | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many changes there are of each kind."""
        found = Counter(change.kind for change in self.changes)
        return {kind: found[kind] for kind in KINDS}

    @property
    def patterns(self) -> list[Pattern]:
        """The changes by kind and pattern, the most frequent first; ``same`` is left out."""
        found: dict[tuple[str, str], list[ChangeRow]] = {}
        for change in self.changes:
            if change.kind != "same":
                found.setdefault((change.kind, change.pattern), []).append(change)
        return sorted(map(Pattern.of, found.values()), key=lambda one: -one.count)

    @property
    def unaligned(self) -> tuple[str, ...]:
        """Products of the first model that have no counterpart."""
        return tuple(one.name for one in self.counterparts if not one.after)

    def __bool__(self) -> bool:
        """Tell whether anything differs; names do not count."""
        constants = self.removed_constants or self.added_constants
        changed = any(change.kind != "same" for change in self.changes)
        return bool(changed or self.tensors or constants or self.before.opsets != self.after.opsets)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dict(
            plain(
                {
                    "differs": bool(self),
                    "counts": self.counts,
                    "patterns": [asdict(one) for one in self.patterns],
                    "unaligned": self.unaligned,
                    **asdict(self),
                }
            )
        )


def _sum(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
