"""The front door: two model files in, their difference out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import onnx_ir as ir

from onnxq.diff.align import Alignment, align
from onnxq.diff.changes import Change, counterparts, find_changes
from onnxq.diff.flat import Flat, is_product
from onnxq.diff.measure import OBSERVED, Running, measure_errors, measure_times
from onnxq.diff.result import ChangeRow, Counterpart, Measured, ModelDiff, Side
from onnxq.diff.tensors import lonely_constants, tensor_pairs
from onnxq.errors import InputError, ModelError
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.store import load_model, model_size
from onnxq.ir.text import parse
from onnxq.runtime.batch import Batch
from onnxq.runtime.run import Run

TEXT_SUFFIX = ".onnxtxt"


@dataclass(frozen=True, eq=False)
class Aligned:
    """The difference, and the graphs that it is about, for those who draw them."""

    diff: ModelDiff
    alignment: Alignment
    changes: tuple[Change, ...]


def diff_models(
    before: Path | str,
    after: Path | str,
    batches: Iterable[Batch] | None = None,
    run: Run = Run(),
    *,
    allow_fallback: Collection[str] = (),
) -> ModelDiff:
    """Return what changed from one model to another, whoever made them.

    Args:
        before: An .onnx file, or a graph as text (.onnxtxt), as ``onnxq compile --dump`` writes it.
        after: Another one.
        batches: Data; with it, both are run, and errors and times are measured too.
        run: Where and how to run them.
        allow_fallback: Names of nodes, or operators, that may run on another provider.

    Raises:
        ModelError: One of them cannot be read or run.
        DataError: The data does not fit.
        TargetError: The provider is missing, or nodes ran on another.

    """
    return align_models(Path(before), Path(after), batches, run, allow_fallback=allow_fallback).diff


def align_models(
    before: Path,
    after: Path,
    batches: Iterable[Batch] | None = None,
    run: Run = Run(),
    *,
    allow_fallback: Collection[str] = (),
) -> Aligned:
    """Do what ``diff_models`` does, and return the graphs too."""
    found = align(*(Flat.of(read_graph(path).model) for path in (before, after)))
    changes = tuple(find_changes(found))
    diff = _summary(found, changes, before, after)
    if batches is not None:
        running = Running(before, after, run, allow_fallback)
        diff = _measured(diff, found, changes, running, batches)
    return Aligned(diff, found, changes)


def read_graph(path: Path) -> GraphModule:
    """Read a model, or a graph as text.

    Raises:
        ModelError: It is neither.

    """
    if path.suffix != TEXT_SUFFIX:
        return load_model(path)
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    except ModelError as error:
        raise ModelError(error.message, where=str(path), hint=error.hint) from error


def _measured(
    diff: ModelDiff, found: Alignment, changes: Sequence[Change], running: Running, batches: Iterable[Batch]
) -> ModelDiff:
    for path in (running.before, running.after):
        if path.suffix == TEXT_SUFFIX:
            raise InputError(
                "a graph as text is not run: its large weights are left out",
                where=str(path),
                hint="leave out --data",
            )
    stream = iter(batches)
    first = next(stream, None)
    samples, errors = measure_errors(found, changes, running, [] if first is None else chain([first], stream))
    assert first is not None
    ours, theirs, untraced = measure_times(found, changes, running, first.feeds)
    rows = tuple(
        replace(row, microseconds_before=ours.get(row.id, 0.0), microseconds_after=theirs.get(row.id, 0.0))
        for row in diff.changes
    )
    return replace(diff, changes=rows, measured=Measured(samples, errors, *untraced, (OBSERVED,)))


def _summary(found: Alignment, changes: Sequence[Change], before: Path, after: Path) -> ModelDiff:
    pairs = tensor_pairs(found)
    removed, added = lonely_constants(found)
    heirs = counterparts(found, changes)
    return ModelDiff(
        before=_side(found.before, before),
        after=_side(found.after, after),
        changes=tuple(_row(place, change) for place, change in enumerate(changes)),
        counterparts=tuple(
            Counterpart(name_of_node(node), node.op_type, tuple(map(name_of_node, heirs.get(node, ()))))
            for node in found.before.nodes
            if is_product(node)
        ),
        tensors=tuple(pair for pair in pairs if pair.differs),
        equal_tensors=sum(not pair.differs for pair in pairs),
        removed_constants=tuple(removed),
        added_constants=tuple(added),
    )


def _side(flat: Flat, path: Path) -> Side:
    sizes = Counter[str]()
    for value in flat.constants:
        if value.const_value is not None:
            sizes[value.const_value.dtype.name.lower()] += value.const_value.nbytes
    size = path.stat().st_size if path.suffix == TEXT_SUFFIX else model_size(path)
    used = {node.domain for node in flat.nodes}
    opsets = {
        domain or "ai.onnx": version
        for domain, version in sorted(flat.model.opset_imports.items())
        if domain in used
    }
    return Side(path.name, size, len(flat.nodes), dict(sizes.most_common()), opsets)


def _row(place: int, change: Change) -> ChangeRow:
    return ChangeRow(
        id=place,
        kind=change.kind,
        pattern=change.pattern,
        before=tuple(map(name_of_node, change.before)),
        after=tuple(map(name_of_node, change.after)),
        how=change.how,
        value=None if change.value is None else name_of(change.value),
        counterpart=None if change.counterpart is None else name_of(change.counterpart),
        bytes_before=constant_bytes(change.before),
        bytes_after=constant_bytes(change.after),
    )


def name_of_node(node: ir.Node) -> str:
    """Return the node's name, or that of its first output."""
    return node.name or next((name_of(value) for value in node.outputs if value.name), node.op_type)


def constant_bytes(nodes: Sequence[ir.Node]) -> int:
    """Return the bytes of the constants that ``nodes`` read, each counted once."""
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    return sum(value.const_value.nbytes for value in read if value.const_value is not None)
