"""The story of a compilation: its manifest, and what was seen of the tensors that it quantizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.calibration.collect import Data, collect
from onnxq.diff.flat import Flat
from onnxq.diff.tensors import encoding_of
from onnxq.ir.module import is_standard, name_of
from onnxq.ir.store import load_model, model_digest
from onnxq.manifest import Manifest, read_manifest
from onnxq.quant.encodings import Encoding
from onnxq.quant.encodings import encoding_of as make_encoding
from onnxq.quant.facts import Facts, Kind, Need
from onnxq.quant.seen import clipped_share, expected_sqnr_db, outlier_ratio, picture
from onnxq.quant.statistics import ChannelRange, Histogram, Range
from onnxq.runtime.compare import plain
from onnxq.shown import Shown

OUTLIERS = 8
"""Channels that are named for each tensor."""


@dataclass(frozen=True)
class SeenTensor:
    """What calibration saw of one quantized tensor, and where its encoding cuts.

    Args:
        name: The tensor.
        dtype: The integer type.
        low: The smallest value seen.
        high: The largest.
        clip_low: The smallest value on the grid.
        clip_high: The largest.
        clipped: The share of values outside of the grid; None without a histogram.
        sqnr_db: Signal to noise that the encoding gives; None without a histogram.
        edges: Of a histogram's bars; empty if none was measured.
        heights: How many values each bar counts.
        outliers: Channels with the largest magnitudes, and by how much they exceed the median channel;
            empty if channels were not measured.

    """

    name: str
    dtype: str
    low: float
    high: float
    clip_low: float
    clip_high: float
    clipped: float | None = None
    sqnr_db: float | None = None
    edges: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()
    outliers: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Story(Shown):
    """A manifest, and the tensors, those with most noise first."""

    manifest: Manifest
    tensors: tuple[SeenTensor, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the calibration table left out."""
        told = self.manifest.model_dump(mode="json", exclude={"table"})
        return dict(plain({**told, "tensors": [asdict(tensor) for tensor in self.tensors]}))


def read_story(path: Path | str, source: Path | str | None = None, data: Data | None = None) -> Story:
    """Read a manifest, and the compiled model beside it, which holds the encodings.

    Args:
        path: The manifest.
        source: The model that was compiled; with ``data`` its histograms and channels are measured.
        data: Samples.

    Raises:
        InputError: It is no manifest; see ``read_manifest``.

    """
    path = Path(path)
    manifest = read_manifest(path)
    output = path.with_name(manifest.output.name)
    encodings = encodings_of(output) if output.is_file() else {}
    facts: dict[str, Facts] = {}
    if manifest.table is not None:
        facts.update(manifest.table.facts)
    if source is not None and data is not None:
        facts.update(_measured(Path(source), data, [name for name in encodings if name in facts]))
    seen = [_seen(name, facts[name], encoding) for name, encoding in encodings.items() if name in facts]
    strange = strangers(manifest, None if source is None else Path(source), output)
    told = manifest.model_copy(update={"warnings": (*manifest.warnings, *strange)})
    return Story(told, tuple(sorted(seen, key=_badness)))


def strangers(manifest: Manifest, source: Path | None, output: Path | None) -> list[str]:
    """Return a warning for each of these files that is there and is not the one that the manifest means."""
    told = ((source, manifest.source, "the source"), (output, manifest.output, "the result"))
    return [
        f"{path.name} is not {role} of its manifest: its content has changed since"
        for path, model, role in told
        if path is not None and path.is_file() and model_digest(path) != model.digest
    ]


def encodings_of(path: Path) -> dict[str, Encoding]:
    """Return the encodings per tensor of a compiled model's activations by name, in the graph's order."""
    flat = Flat.of(load_model(path).model)
    found = {}
    for value in flat.values():
        grid = encoding_of(flat, value)
        if grid is not None and grid.granularity == "tensor" and grid.scale and grid.zero_point:
            scale, zero_point = np.float32(grid.scale[0]), np.int32(grid.zero_point[0])
            if not 0 < scale < np.inf:
                continue  # the source's own, which onnxruntime's quantizer gives to masks
            found[_decided_name(value)] = make_encoding(np.asarray(scale), np.asarray(zero_point), grid.dtype)
    return found


def _decided_name(value: ir.Value) -> str:
    """Return the name that ``value`` was encoded by: QuantizeLinear may read what stood before a Relu."""
    quantized = (reader.outputs[0] for reader in value.consumers() if is_standard(reader, "QuantizeLinear"))
    first = next(quantized, None)
    return name_of(value) if first is None else name_of(first).removesuffix("_q")


def _measured(source: Path, data: Data, names: list[str]) -> Mapping[str, Facts]:
    known = {name_of(value) for node in load_model(source).graph for value in node.outputs}
    stats: frozenset[Kind] = frozenset({Range, Histogram, ChannelRange})
    return collect(source, [Need(name, stats) for name in names if name in known], data).facts


def _seen(name: str, facts: Facts, encoding: Encoding) -> SeenTensor:
    seen = SeenTensor(
        name,
        encoding.dtype,
        facts.low,
        facts.high,
        float(encoding.low),
        float(encoding.high),
        outliers=_outliers(facts),
    )
    histogram = facts.get(Histogram)
    if histogram is None:
        return seen
    edges, heights = picture(histogram)
    return replace(
        seen,
        clipped=clipped_share(histogram, encoding),
        sqnr_db=expected_sqnr_db(histogram, encoding),
        edges=tuple(edges),
        heights=tuple(heights),
    )


def _outliers(facts: Facts) -> tuple[tuple[int, float], ...]:
    along = facts.get(ChannelRange)
    if along is None:
        return ()
    ratios = outlier_ratio(along.low, along.high)
    worst = np.argsort(-ratios, kind="stable")[:OUTLIERS]
    return tuple((int(channel), round(float(ratios[channel]), 3)) for channel in worst)


def _badness(tensor: SeenTensor) -> tuple[float, float]:
    """Sort by noise, and where that is not known by the width of a step."""
    return (np.inf if tensor.sqnr_db is None else tensor.sqnr_db, tensor.clip_low - tensor.clip_high)
