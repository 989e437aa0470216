"""A compiled model on another machine: whether its files do there what their manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxq.analysis.products import saturating_products
from onnxq.calibration.data import Dataset, input_specs
from onnxq.comparison import CompileOptions, choose_samples, compare
from onnxq.errors import InputError, ToleranceError
from onnxq.ir.store import load_model
from onnxq.manifest import Manifest, ModelFile, read_manifest, session_options_beside
from onnxq.processor import at_hand
from onnxq.progress import Progress, quiet
from onnxq.runtime.bench import LatencyReport
from onnxq.runtime.compare import plain
from onnxq.runtime.gates import check, useless
from onnxq.runtime.kernels import KernelReport
from onnxq.runtime.provenance import LayerState
from onnxq.runtime.run import Run
from onnxq.runtime.session import usable_provider
from onnxq.runtime.validate import AccuracyReport
from onnxq.story import strangers
from onnxq.warned import warn_of_speed

TWICE_THE_NOISE_DB = 3.0
"""So much worse than in the manifest an output may be: other samples move it by less, saturation by more."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: What.
        told: What the manifest says of it, or what is wanted.
        found: What was found here.
        holds: Whether that is as it should be; None if it cannot be told.

    """

    name: str
    told: str
    found: str
    holds: bool | None


@dataclass(frozen=True)
class Verification:
    """What was found of a compiled model here.

    Args:
        checks: In the order in which they were made.
        warnings: What has to be known about them.

    """

    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(one for one in self.checks if one.holds is False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dict(plain({"holds": not self.failed, **asdict(self)}))


def verify(
    path: Path,
    source: Path | None = None,
    data: Dataset | None = None,
    *,
    threads: int | None = None,
    on_progress: Progress = quiet,
) -> Verification:
    """Hold a compiled model and its source against their manifest, here.

    Args:
        path: The manifest; the compiled model lies beside it.
        source: What was compiled; without it, the file of that name beside the manifest.
        data: Samples to compare on; without it, inputs are random, and only speed and kernels are told.
        threads: Threads within an operator; None leaves it to ONNX Runtime.
        on_progress: Told how far the work is.

    Raises:
        OnnxqError: The manifest or a model is missing or cannot be read, or does not run on these samples.

    """
    manifest = read_manifest(path)
    source, output = source_of(path, manifest, source), _present(path.with_name(manifest.output.name))
    files = _files(manifest, source, output)
    options = CompileOptions(threads=threads)
    samples = choose_samples(data, 0, input_specs(load_model(source).model), options)
    found = compare(source, output, samples, options, on_progress, _run(manifest, output, threads))
    accuracy = found.accuracy if samples.meaningful else None
    checks = (
        *files,
        _saturation(manifest, output),
        _kernels(manifest, found.latency),
        _accuracy(manifest, accuracy),
        _speed(manifest, found.latency),
    )
    return Verification(checks, found.warnings)


def require_verified(found: Verification) -> None:
    """Raise if something is not as the manifest says.

    Raises:
        ToleranceError: It names each check that does not hold.

    """
    if found.failed:
        told = "; ".join(f"{one.name}: {one.found}, not {one.told}" for one in found.failed)
        raise ToleranceError(told, hint="compile it on this machine, or for cpu-any")


def source_of(path: Path, manifest: Manifest, source: Path | None) -> Path:
    """Return the source's file: the one that is given, or the one beside the manifest.

    Raises:
        InputError: It is not there.

    """
    return _present(source or path.with_name(manifest.source.name), hint="give it as --source MODEL")


def _present(path: Path, hint: str = "the manifest belongs beside the model that it tells of") -> Path:
    if not path.is_file():
        raise InputError("there is no such file", where=str(path), hint=hint)
    return path


def _run(manifest: Manifest, output: Path, threads: int | None) -> Run | None:
    """Return where and how the model shall run; None if that is not here."""
    provider = usable_provider(manifest.recipe.runs_on.provider)
    return None if provider is None else Run(provider, threads, session_options_beside(output))


def _files(manifest: Manifest, source: Path, output: Path) -> Iterator[Check]:
    for name, model, given in (
        ("source", manifest.source, (source, None)),
        ("compiled model", manifest.output, (None, output)),
    ):
        same = not strangers(manifest, *given)
        yield Check(name, _digest(model), "the same" if same else "another content", same)


def _digest(model: ModelFile) -> str:
    return f"SHA-256 {model.digest.removeprefix('sha256:')[:12]}"


def _saturation(manifest: Manifest, output: Path) -> Check:
    """Tell whether sums of products can saturate in the kernels of this processor."""
    told = "none can saturate"
    if manifest.recipe.runs_on.provider != "cpu":
        return Check("sums of products", told, "it runs elsewhere", None)
    layers = saturating_products(load_model(output)) if at_hand().saturates else []
    found = f"{len(layers)} layers can on {at_hand().name}" if layers else f"none can on {at_hand().name}"
    return Check("sums of products", told, found, not layers)


def _kernels(manifest: Manifest, latency: LatencyReport | None) -> Check:
    """Tell whether as many layers run in integers as where it was compiled."""
    here = None if latency is None else latency.models[-1].kernels
    told, found = _integers(manifest.kernels), _integers(here)
    holds = None if told is None or found is None else found >= told
    return Check("layers in integers", _text(told), _text(found), holds)


def _integers(report: KernelReport | None) -> int | None:
    return None if report is None else report.provenance.states[LayerState.INTEGER]


def _accuracy(manifest: Manifest, found: AccuracyReport | None) -> Check:
    """Tell whether outputs are as near the source's as they were, and within the recipe's gates."""
    then, now = _worst(manifest.accuracy), _worst(found)
    told = "unknown" if then is None else f"{then:z.1f} dB"
    if found is None or now is None:
        return Check("worst output", told, "not compared: give --data", None)
    missed = check(found, manifest.recipe.gates)
    holds = not missed and (now >= then - TWICE_THE_NOISE_DB if then is not None else not useless(found))
    return Check("worst output", told, "; ".join([f"{now:z.1f} dB", *missed]), holds)


def _worst(report: AccuracyReport | None) -> float | None:
    known = [one.sqnr_db for one in report.outputs if one.sqnr_db is not None] if report else []
    return min(known, default=None)


def _speed(manifest: Manifest, latency: LatencyReport | None) -> Check:
    """Tell whether it is faster than its source; how much so depends on the processor."""
    told = "faster" if manifest.latency is None else f"{manifest.latency.models[-1].speedup:.2f}x"
    if latency is None:
        return Check("speed over the source", told, "not timed", None)
    ratio = latency.models[-1].paired_speedup
    return Check("speed over the source", told, f"{ratio.median:.2f}x", not warn_of_speed(ratio))


def _text(count: int | None) -> str:
    return "unknown" if count is None else str(count)
