"""Comparing a compiled model with its source: on which samples, how close it is, and how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal

from onnxq.calibration.data import Batch, DataOptions, Dataset, InputSpec, open_data
from onnxq.errors import InputError, ModelError, PassError
from onnxq.heap import trim
from onnxq.ir.rounding import spell_out_rounding
from onnxq.ir.store import load_model, proto_of
from onnxq.progress import Progress
from onnxq.runtime.bench import LatencyReport, Timing, bench
from onnxq.runtime.gates import Gates
from onnxq.runtime.metrics import Metric
from onnxq.runtime.padded import padding_cost
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import open_comparable
from onnxq.runtime.session import Session, open_session
from onnxq.runtime.validate import AccuracyReport, validate
from onnxq.warned import warn_of_accuracy, warn_of_padding, warn_of_speed

SEEN = 64
"""So many samples that ranges were measured on are compared: they tell less than others would."""

HELD_BACK = 32
"""So many samples at most are held back from measuring ranges, to judge the result by."""

LEAST_TO_PART = 32
"""Fewer samples are all measured on: what would be left tells little."""

JUDGED_ON = 32
"""So many samples are looked at first where forms are compared again and again."""

LEAST_BYTES, FEWEST, MOST_FEW = 1 << 18, 2, 16
"""How large the samples are together on which layers are compared, and how many they are."""

Prefer = Literal["speed", "balanced", "size"]
"""What counts where a form is faster, and another smaller."""

LARGE = 1 << 22
"""A sample of so many bytes tells enough by itself."""

TIMED_BATCHES = 8
"""How many batches the timing goes round."""

TIMED = Timing(rounds=15, seconds=3.0, block_ms=15.0)
"""Long enough to see which is faster; ``onnxq bench`` takes its time. Blocks are as long as in a race."""


KEEP_INT8 = {"session.qdqisint8allowed": "1"}
"""Else ONNX Runtime's CPU provider makes activations unsigned, and stumbles over what it wrote (1.32.0)."""


@dataclass(frozen=True)
class CompileOptions:
    """What happens around the pipeline.

    Args:
        validate: Compare the result with the source.
        bench: Time both.
        choose: Decide the recipe's choices by the error of the outputs, where there is data.
        tune: Time forms of the graph first and keep the fastest, where the target is this machine.
        prefer: What counts where one form is faster and another smaller. ``balanced``: a form may be larger
            where it is so much faster that it is worth the bytes, and no result is slower than the source;
            ``speed``: the fastest; ``size``: the smallest, be it slower than the source.
        keep_floor: Keep as many layers in float as it takes for the gates to hold, or without any for every
            output to reach ``FLOOR_DB``, where the target is this machine.
        threads: Threads within an operator; None leaves it to ONNX Runtime.
        processes: So many of the recipe's choices are tried at a time; the result is the same.
        bench_batch_size: Samples in each timed run.
        validation_samples: How many samples the comparison takes, beyond those calibrated on.
        validation_data: Other samples to compare and time on, instead.
        gates: What the result must reach; added to the recipe's own.
        metric: A task metric, computed for both models.
        require_useful: Refuse a result that is mostly error, where no gate is set.
        force: Replace files that onnxq did not write, too; what is being read never is.
        also_read: Files that are being read, besides the source and the data.

    """

    validate: bool = True
    bench: bool = True
    choose: bool = True
    tune: bool = True
    prefer: Prefer = "balanced"
    keep_floor: bool = True
    threads: int | None = None
    processes: int = 1
    bench_batch_size: int = 1
    validation_samples: int = 256
    validation_data: Dataset | None = None
    gates: Gates = field(default_factory=Gates)
    metric: Metric | None = None
    require_useful: bool = True
    force: bool = False
    also_read: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Samples:
    """Samples to compare and time on: those of ``data`` after the first ``skip``, at most ``count``.

    Args:
        data: Where they come from.
        skip: How many were used to measure ranges.
        count: How many to compare; None for all that ``data`` gives.
        made_up: Whether they are random, because there were none.
        warnings: What has to be known about them.

    """

    data: Dataset
    skip: int = 0
    count: int | None = None
    made_up: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def meaningful(self) -> bool:
        """Whether a model's accuracy can be told on them: they are neither random nor otherwise doubtful."""
        return not self.made_up and not self.data.warning

    @property
    def expected(self) -> int | None:
        """How many batches there will be; None if only reading can tell."""
        chosen = with_options(self.data, limit=self._limit())
        return None if chosen.expected is None else chosen.expected - -(-self.skip // chosen.batch_size)

    def batches(self) -> Iterator[Batch]:
        """Yield whole batches; one that holds a skipped sample is left out."""
        seen = 0
        for batch in with_options(self.data, limit=self._limit()).batches():
            if seen >= self.skip:
                yield batch
            seen += batch.rows

    @property
    def fed_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of one sample as users feed it; nothing of samples that are made up."""
        batches = [] if self.made_up else self.timed(1)[:1]
        return {name: array.shape for batch in batches for name, array in batch.feeds.items()}

    def timed(self, batch_size: int) -> list[Batch]:
        """Return a few batches of ``batch_size``."""
        chosen = with_options(self.data, limit=TIMED_BATCHES * batch_size, batch_size=batch_size)
        return list(islice(chosen.batches(), TIMED_BATCHES))

    def _limit(self) -> int | None:
        if self.count is None:
            return self.data.options.limit
        wanted = self.skip + self.count
        return min(wanted, self.data.options.limit or wanted)


@dataclass(frozen=True)
class Comparison:
    """How close and how fast a compiled model is; a part that was not asked for, or not possible, is None."""

    accuracy: AccuracyReport | None
    latency: LatencyReport | None
    warnings: tuple[str, ...]

    def about(self, output: Path) -> Comparison:
        """Return the same of ``output``, which the compared file will become."""
        accuracy, latency = self.accuracy, self.latency
        if accuracy is not None:
            accuracy = replace(accuracy, candidate=str(output))
        if latency is not None:
            source, compiled = latency.models
            latency = replace(latency, models=(source, replace(compiled, path=output)))
        return replace(self, accuracy=accuracy, latency=latency)


def choose_samples(
    data: Dataset | None, used: int, inputs: Sequence[InputSpec], options: CompileOptions
) -> Samples:
    """Choose given samples, or unseen ones of the calibration data, or seen ones, or random ones.

    Args:
        data: The calibration data.
        used: How many samples of it ranges were measured on.
        inputs: What the model takes.
        options: Samples for this purpose, or how many to compare.

    """
    if options.validation_data is not None:
        return Samples(options.validation_data)
    if data is None:
        warning = "compared and timed on random inputs, as there is no data: give --data"
        random = open_data("random", inputs, DataOptions(limit=16))
        return Samples(random, made_up=True, warnings=(warning,))
    unseen = Samples(data, used, options.validation_samples)
    if next(unseen.batches(), None) is not None:
        return unseen
    warning = "compared on the samples that ranges were measured on: there are no others"
    return replace(unseen, skip=0, count=min(SEEN, options.validation_samples), warnings=(warning,))


def used_samples(data: Dataset, most: int) -> int:
    """Return on how many samples to measure ranges, so that others are left to judge the result by.

    Whole batches are held back, a quarter of the samples and at least ``HELD_BACK`` of many; nothing is where
    there are few.

    Args:
        data: The samples.
        most: On how many ranges are measured at most.

    """
    limit = min(most + HELD_BACK, data.options.limit or most + HELD_BACK)
    ends = _ends(with_options(data, limit=limit))
    count = ends[-1]
    wanted = min(most, count - min(HELD_BACK, count // 4))
    used = max((end for end in ends if end <= wanted), default=0)
    return used if count >= LEAST_TO_PART and used > count // 2 else most


def _ends(data: Dataset) -> list[int]:
    """Return how many samples there are up to the end of each batch; reads them where need be."""
    count, size = data.samples, data.batch_size
    if count is None:
        return list(accumulate(batch.rows for batch in data.batches()))
    return [*range(size, count, size), count]


def with_few(samples: Samples) -> Samples:
    """Return so few of the samples that a search may go through them again and again."""
    count = _whole(samples.data, JUDGED_ON)
    return replace(samples, count=min(count, samples.count or count))


def one_by_one(samples: Samples) -> Samples:
    """Return the same samples in batches of one, or of what the model takes: they need least memory."""
    return replace(samples, data=with_options(samples.data, batch_size=1))


def has_more(samples: Samples, count: int) -> bool:
    """Tell whether there may be more than the first ``count`` samples, of which searches look at a few."""
    return count >= JUDGED_ON and samples.expected != -(-count // samples.data.batch_size)


def first_few(data: Dataset) -> list[Batch]:
    """Return so many of the first samples as tell what the error of a layer costs: of small ones, more."""
    first = next(with_options(data, limit=_whole(data, 1)).batches())
    size = sum(array.nbytes for array in first.feeds.values()) // first.rows
    fewest = 1 if size >= LARGE else FEWEST
    count = _whole(data, min(max(LEAST_BYTES // size, fewest), MOST_FEW))
    return list(with_options(data, limit=count).batches())


def _whole(data: Dataset, count: int) -> int:
    """Return so many samples, or a few more where the model takes whole batches only."""
    least = with_options(data, limit=1).batch_size
    return -(-count // least) * least


def compare(
    source: Path,
    output: Path,
    samples: Samples,
    options: CompileOptions,
    progress: Progress,
    run: Run | None,
) -> Comparison:
    """Open the compiled model, and compare and time both on ``samples``, as far as ``options`` ask for it.

    Where the target's provider is not here (``run`` is None), they are compared on the CPU, with the rounding
    of narrow types spelled out, and not timed; what the CPU has no kernels for is not compared, with a
    warning.

    Raises:
        PassError: The compiled model does not open, though its source does.
        OnnxqError: Neither opens, or one of them does not run on these samples. Where the samples are made
            up, the latter is no reason to fail: the comparison is left out, with a warning.

    """
    on_cpu = Run(threads=options.threads)
    opened = _open(source, output, run) if run is not None else _rounded(output, on_cpu)
    if isinstance(opened, str):
        return Comparison(None, None, (f"neither opened nor compared here: {opened}",))
    try:
        accuracy, latency, padding = None, None, None
        if options.validate:
            accuracy = _validate(source, opened, run or on_cpu, samples, options.metric, progress)
        del opened  # two models in memory are enough to time
        trim()
        if options.bench and run is not None:
            feeds = [batch.feeds for batch in samples.timed(options.bench_batch_size)]
            models = {"source": source, "compiled": output}
            latency = bench(models, feeds, run, TIMED, source=source, on_progress=progress)
            padding = padding_cost(output, feeds, run)
    except InputError as error:
        if not samples.made_up:
            raise
        return Comparison(
            None, None, (f"not compared, as random inputs do not run: {error.message}; give --data",)
        )
    warnings = *_warnings(samples, accuracy, latency), *warn_of_padding(padding)
    return Comparison(accuracy, latency, warnings)


def with_options(data: Dataset, **changes: Any) -> Dataset:
    """Return the same data, read with other options."""
    return replace(data, options=replace(data.options, **changes))


def _open(source: Path, output: Path, run: Run) -> Session:
    """Open the compiled model where it shall run."""
    try:
        return open_comparable(output, run)
    except ModelError as error:
        try:
            open_session(source, run)
        except ModelError as earlier:
            raise ModelError(
                earlier.message, where=str(source), hint="onnxq compiles models that run as they are"
            ) from earlier
        raise PassError(
            f"the compiled model does not open, though its source does: {error.message}",
            where=str(output),
            hint="please report it with the model; leaving passes out may help: onnxq recipes",
        ) from error


def _validate(
    source: Path,
    candidate: Session,
    run: Run,
    samples: Samples,
    metric: Metric | None,
    progress: Progress,
) -> AccuracyReport:
    expected = samples.expected
    progress("comparing", 0, expected)
    found = validate(
        source,
        candidate,
        samples.batches(),
        metric,
        run,
        on_progress=lambda done, _: progress("comparing", done, expected),
    )
    progress("comparing", found.batches, found.batches)
    return found


def _rounded(output: Path, run: Run) -> Session | str:
    """Open a model on the CPU so that it rounds as on a GPU; where it does not open, return the reason."""
    model = proto_of(spell_out_rounding(load_model(output).model))
    try:
        return replace(open_comparable(model, run.with_defaults(KEEP_INT8)), source=str(output))
    except ModelError as error:
        return error.message


def _warnings(
    samples: Samples, accuracy: AccuracyReport | None, latency: LatencyReport | None
) -> Iterator[str]:
    if accuracy is not None or latency is not None:
        yield from samples.warnings
    if accuracy is not None:
        yield from warn_of_accuracy(accuracy.outputs)
    if latency is not None:
        yield from warn_of_speed(latency.models[1].paired_speedup)
        yield from latency.models[1].kernels.provenance.warnings
