"""Sensitivity: which tensors and layers cost a quantized model its accuracy.

Every encoded value gets a switch: its readers read either the value itself or what its encoding makes of it.
So one model, opened once, runs in any mixture: nothing quantized, everything, one tensor alone, all but one.
What makes up for the error of a weight, as a corrected bias does, is switched together with that weight.
The choices of the recipe stay undecided: its pipeline is measured as it stands.

Source: Nagel et al., 2021, arXiv:2106.08295, section 3.7: the debugging flow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.analysis.layers import linear_layers
from onnxq.calibration.collect import collect
from onnxq.calibration.data import Dataset, input_specs
from onnxq.comparison import CompileOptions, Samples, choose_samples, with_options
from onnxq.engine.build import Build
from onnxq.engine.executor import executor_of
from onnxq.engine.measurements import Measurements
from onnxq.engine.source import Source
from onnxq.errors import RecipeError
from onnxq.ir.module import GraphModule, constant_of, name_of, rank_of
from onnxq.ir.store import save_model
from onnxq.passmanager.instruments import Instrument
from onnxq.passmanager.originals import Originals
from onnxq.passmanager.pipeline import format_pipeline, parse_pipeline
from onnxq.passmanager.precision import FLOAT, Precision
from onnxq.progress import Progress, quiet
from onnxq.quant.facts import Need
from onnxq.quant.statistics import ChannelRange
from onnxq.recipe import Recipe
from onnxq.rewrite.switches import Edge, insert_switches
from onnxq.runtime.batch import batch_size
from onnxq.runtime.compare import plain
from onnxq.runtime.run import Run
from onnxq.search.switched import Switchboard

SCHEMA = 1
"""The version of what ``to_dict`` returns."""

TENSORS = ("weight", "activation")
SHOWN_CHANNELS = 3
"""How many channels of a tensor are named."""


@dataclass(frozen=True)
class OutlierChannel:
    """A channel that reaches far.

    Args:
        channel: Its place along the channel axis.
        low: Its smallest value.
        high: Its largest value.
        times_median: Its largest magnitude over that of the median channel.

    """

    channel: int
    low: float
    high: float
    times_median: float


@dataclass(frozen=True)
class Entry:
    """One tensor or layer.

    Args:
        name: The value, or the node of the layer.
        kind: ``weight`` or ``activation``; for a layer its operator.
        dtype: What it is quantized to; for a layer that of its weight.
        alone_db: SQNR of the model's output where nothing else is quantized; infinite if it changes nothing.
        others_db: SQNR of the output where everything else is quantized.
        channels: The channels of an activation that reach furthest.

    """

    name: str
    kind: str
    dtype: str
    alone_db: float
    others_db: float
    channels: tuple[OutlierChannel, ...] = ()


@dataclass(frozen=True)
class SensitivityReport:
    """What ``measure_sensitivity`` found; SQNR in dB of the output that errs most, against the source.

    Args:
        source: The model.
        recipe: Whose decisions were looked at.
        samples: How many samples were compared.
        float_db: With nothing quantized: the exact passes alone.
        all_db: With everything quantized.
        weights_db: With the weights quantized alone.
        activations_db: With the activations quantized alone.
        tensors: Encoded tensors, the worst when quantized alone first.
        layers: Layers with an encoded weight, likewise.
        warnings: What has to be known about the samples.

    """

    source: str
    recipe: str
    samples: int
    float_db: float
    all_db: float
    weights_db: float
    activations_db: float
    tensors: tuple[Entry, ...]
    layers: tuple[Entry, ...]
    warnings: tuple[str, ...] = ()

    def worst(self, count: int) -> Precision:
        """Return what keeps in float the layers that cost most when they are quantized alone."""
        return Precision(layers={entry.name: FLOAT for entry in self.layers[:count]})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values; an infinite SQNR becomes None."""
        return dict(plain({"version": SCHEMA, **asdict(self)}))


def measure_sensitivity(
    source: Path,
    recipe: Recipe,
    data: Dataset,
    *,
    samples: int = 16,
    threads: int | None = None,
    processes: int = 1,
    on_progress: Progress = quiet,
) -> SensitivityReport:
    """Quantize each tensor and each layer alone, and leave each alone, and compare the model's outputs.

    Ranges are measured once. The model is opened once, in float with QuantizeLinear and DequantizeLinear
    where a switch asks for them: what integer kernels round otherwise is not seen.

    Args:
        source: The original model.
        recipe: Its passes up to ``insert-qdq`` decide what is encoded and how.
        data: Samples to measure ranges on, as many as the recipe says; those beyond are compared on.
        samples: How many samples are compared; the time grows with it.
        threads: Threads within an operator; None leaves it to ONNX Runtime.
        processes: So many tensors and layers are measured at a time; the result is the same.
        on_progress: Told of the samples that are measured on, and of the tensors and layers.

    Raises:
        RecipeError: The recipe encodes nothing of this model before an ``insert-qdq``.
        OnnxqError: The model or the data is at fault.

    """
    originals = Originals()
    module = _decided(source, recipe, data, threads, originals, on_progress)
    options = CompileOptions(validation_samples=samples)
    chosen = choose_samples(data, recipe.calibration.samples, input_specs(module.model), options)
    run = Run(threads=threads)
    channels = _outlier_channels(module, chosen, run)
    kinds = {layer.node.name or "": layer.node.op_type for layer in linear_layers(module)}
    edges = insert_switches(module, originals.found)
    parts = [*_tensors(edges), *_layers(kinds, edges)]
    with TemporaryDirectory(prefix="onnxq-sensitivity-") as folder:
        save_model(module, path := Path(folder, "model.onnx"))
        bench = _Bench(source, path, list(chosen.batches()), edges, run)
        entries = []
        with executor_of(processes).opened(bench) as each:
            on_progress("tensors and layers", 0, len(parts))
            for done, (part, found) in enumerate(zip(parts, each(parts), strict=True), start=1):
                entries.append(part.entry(*found, channels.get(part.name, ())))
                on_progress("tensors and layers", done, len(parts))
        return _report(source, recipe, bench, entries, chosen.warnings)


def _report(
    source: Path, recipe: Recipe, bench: _Bench, entries: Sequence[Entry], warnings: tuple[str, ...]
) -> SensitivityReport:
    return SensitivityReport(
        source=str(source),
        recipe=recipe.name,
        samples=sum(batch_size(batch.feeds) for batch in bench.batches),
        float_db=bench.sqnr_db(lambda edge: False),
        all_db=bench.sqnr_db(lambda edge: True),
        weights_db=bench.sqnr_db(lambda edge: edge.constant),
        activations_db=bench.sqnr_db(lambda edge: not edge.constant),
        tensors=_ranked(entry for entry in entries if entry.kind in TENSORS),
        layers=_ranked(entry for entry in entries if entry.kind not in TENSORS),
        warnings=warnings,
    )


def _ranked(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.alone_db, entry.name)))


def _decided(
    source: Path,
    recipe: Recipe,
    data: Dataset,
    threads: int | None,
    watch: Instrument,
    on_progress: Progress,
) -> GraphModule:
    """Return the source as it stands before its decisions are realised."""
    passes = parse_pipeline(recipe.pipeline)
    end = next((place for place, pass_ in enumerate(passes) if pass_.realises), 0)
    most = recipe.calibration.samples
    limited = with_options(data, limit=min(most, data.options.limit or most))
    measurements = Measurements.on(limited, threads, on_progress)
    build = Build(Source.of(source), measurements=measurements)
    before = recipe.model_copy(update={"pipeline": format_pipeline(passes[:end])})
    with measurements.kept_when_interrupted():
        module = build.of(before, (watch,)).module
    if not module.decisions():
        raise RecipeError(
            f"it encodes nothing of {source.name} before it realises what is decided",
            where=f"recipe {recipe.name}",
            hint="the model has nothing that it quantizes, or another recipe has to be chosen",
        )
    return module


@dataclass(frozen=True)
class _Bench(Switchboard):
    """The job of measuring what one part costs."""

    def __call__(self, part: _Part) -> tuple[float, float]:
        """Return the SQNR where the part alone is quantized, and where all others are."""
        alone = self.sqnr_db(lambda edge: edge in part.edges)
        return alone, self.sqnr_db(lambda edge: edge not in part.edges)

    def elsewhere(self) -> _Bench:
        """Return the same for another process, which opens both models itself."""
        return _Bench(*vars(super().elsewhere()).values())

    def accept(self, answer: tuple[float, float]) -> tuple[float, float]:
        """Return what was found."""
        return answer


@dataclass(frozen=True)
class _Part:
    """What is switched together: one tensor, or one layer."""

    name: str
    kind: str
    dtype: str
    edges: frozenset[Edge]

    def entry(self, alone: float, others: float, channels: Sequence[OutlierChannel]) -> Entry:
        return Entry(self.name, self.kind, self.dtype, alone, others, tuple(channels))


def _tensors(edges: Sequence[Edge]) -> list[_Part]:
    by_value: dict[str, list[Edge]] = {}
    for edge in edges:
        by_value.setdefault(edge.value, []).append(edge)
    return [
        _Part(name, TENSORS[not same[0].constant], same[0].dtype, frozenset(same))
        for name, same in by_value.items()
    ]


def _layers(kinds: Mapping[str, str], edges: Sequence[Edge]) -> list[_Part]:
    """Return the layers with an encoded weight: all that they read encoded is switched together."""
    parts = []
    for name, op_type in kinds.items():
        own = [edge for edge in edges if edge.reader == name]
        dtype = next((edge.dtype for edge in own if edge.constant), None)
        if dtype is not None:
            parts.append(_Part(name, op_type, dtype, frozenset(own)))
    return parts


def _outlier_channels(
    module: GraphModule, samples: Samples, run: Run
) -> dict[str, tuple[OutlierChannel, ...]]:
    """Return the channels that reach furthest of each encoded activation whose channels can be told."""
    needs = [
        Need(name_of(value), frozenset({ChannelRange}), axis)
        for value in module.values()
        if module.is_encoded(value)
        and constant_of(value) is None
        and (axis := _channel_axis(value)) is not None
    ]
    facts = collect(module.model, needs, samples, run).facts
    return {need.value: _furthest(facts[need.value].get(ChannelRange, need.axis)) for need in needs}


def _channel_axis(value: ir.Value) -> int | None:
    """Return the last axis of two or three, or the second of images, where its length is known."""
    axis = {2: -1, 3: -1, 4: -3}.get(rank_of(value) or 0)
    if axis is None or value.shape is None or not isinstance(value.shape[axis], int):
        return None
    return axis


def _furthest(along: ChannelRange | None) -> tuple[OutlierChannel, ...]:
    if along is None:
        return ()
    low, high = along.low, along.high
    reach = np.maximum(-low, high)
    median = float(np.median(reach))
    return tuple(
        OutlierChannel(
            int(channel),
            float(low[channel]),
            float(high[channel]),
            float(reach[channel]) / median if median else math.inf,
        )
        for channel in np.argsort(-reach, kind="stable")[:SHOWN_CHANNELS]
    )
