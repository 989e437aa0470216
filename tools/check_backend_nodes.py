"""Compile ONNX's single-operator test models and hold each result to the bound of its own quantization.

The models are those of ``onnx.backend.test.case.node`` that ONNX Runtime runs with the expected result; where
a linear operator reads its weight from an input, the model is tried a second time with that weight as an
initializer. Ranges are measured on the model's own test data. Then, for each output y of the compiled model:

1. Where nothing was quantized, y is the original's output up to float rounding.
2. Otherwise a reference runs the float graph node by node and rounds with NumPy what the decisions name
   (``backend_reference.py``). With r its value for y before y itself is rounded:
   |y - r| <= half a step of y's encoding + what its range cuts off, or 0 if y is not encoded; + rounding.
   Run without ONNX Runtime's optimiser, every model is held to that. With it, every model of one operator
   is. In the others, function bodies of many operators, an integer kernel may round a value in the middle to
   its other neighbour, and no bound holds for what is made of that; they have to run and to give the right
   shapes and types, and those beyond the bound are counted as "moved".
3. Where the model is one linear operator f(x, w) + b, and still is, y is also held to the original's output
   o:
   |y - o| <= f(|x|, |w' - w|) + f(|x' - x|, |w'|) + |b' - b| + the bound of step 2,
   where x', w', b' are what the operator reads after rounding; f runs in ONNX Runtime on these arrays.
4. Every encoded input of the model was rounded by at most one step: its range covers what was fed.

Steps 2 and 3 are done twice: on the test data, and with all encoded inputs ``STRETCH`` times as large, beyond
their ranges.

Integers, booleans and texts have to be equal. Of operators that draw random numbers, shape and type are
compared. "Rounding" is 64 units in the last place of the largest magnitude in the tensor, and the optimised
form may be off by ``KERNEL_STEPS`` more. The tool needs no assets. Exits with 1 if a model fails.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from backend_bounds import (
    KERNEL_STEPS,
    OutOfBoundsError,
    check_ranges,
    compare,
    encoding_bound,
    is_float,
    linear_bound,
    same_shapes,
    weights,
)
from backend_cases import DRAWING, array_of, feeds_of, node_cases, with_constants
from backend_reference import Reference, Values, encoding_for
from measuring import parser, show
from rich.console import Console
from rich.progress import track

from onnxq.calibration.collect import collect
from onnxq.errors import CalibrationError, InputError, OnnxqError
from onnxq.ir.knowledge import NamedDecision
from onnxq.ir.module import LINEAR, GraphModule
from onnxq.ir.store import load_model, save_model
from onnxq.passmanager.base import Pass
from onnxq.passmanager.instruments import Instrument, VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.facts import Facts, Need
from onnxq.recipe import load_recipe
from onnxq.runtime.available import cpu_kernels
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

RECIPES = ("cpu", "all-tensors", "cpu-dynamic")
STRETCH = 1.5


@dataclass(frozen=True)
class Sample:
    """One model with its inputs, its expected outputs and the tolerances of its test."""

    name: str
    model: onnx.ModelProto
    feeds: Values
    expected: tuple[Any, ...]
    rtol: float
    atol: float

    @property
    def rows(self) -> int:
        """All that is fed is one sample."""
        return 1

    def batches(self) -> Iterator[Sample]:
        """Yield itself: calibration data of one batch."""
        yield self


@dataclass(frozen=True)
class Outcome:
    """What became of one model under one recipe.

    Args:
        name: The model's name.
        recipe: The recipe's name; empty for a model that is not tried at all.
        kind: ``quantized``, ``moved``, ``left alone``, ``refused``, ``failed`` or ``skipped``.
        reason: Why, where that is not clear from the kind.

    """

    name: str
    recipe: str
    kind: str
    reason: str = ""


@dataclass
class Snapshot(Instrument):
    """Keeps the graph and the decisions as they stand before they are realised."""

    model: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    decisions: list[NamedDecision] = field(default_factory=list)

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Copy both."""
        if pass_.name == "insert-qdq":
            self.model, self.decisions = ir.to_proto(module.model), module.named_decisions()


class RefusedError(Exception):
    """Compiling ended with an error that puts the model or its data at fault."""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--every", type=int, default=1, help="try only every N-th model")
    options.add_argument("--only", default="", help="try only models with this text in their name")
    options.add_argument("--processes", type=int, default=2)
    args = options.parse_args()
    numbers = [n for n, case in enumerate(node_cases()) if args.only in case.name][:: args.every]
    with ProcessPoolExecutor(args.processes) as pool:
        found = pool.map(check, numbers, chunksize=8)
        console = Console(stderr=True)
        outcomes = [one for some in track(found, "checking", len(numbers), console=console) for one in some]
    shares = f"{len(numbers)} of {len(node_cases())}"
    title = f"ONNX's single-operator models: {shares}, compiled and held to their bounds"
    show(title, list(_rows(outcomes)), list(_notes(outcomes)), as_json=args.json)
    return int(any(outcome.kind == "failed" for outcome in outcomes))


def check(number: int) -> list[Outcome]:
    """Try one model of the collection under every recipe."""
    outcomes = []
    for sample in _samples(node_cases()[number]):
        reason = _unusable(sample)
        if reason:
            return [Outcome(sample.name, "", "skipped", reason)]
        outcomes += [_outcome(sample, recipe) for recipe in RECIPES]
    return outcomes


def _samples(case: Any) -> Iterator[Sample]:
    """Yield the model as it is, and with its weight as an initializer if a linear operator reads one."""
    given, outputs = feeds_of(case), tuple(map(array_of, case.data_sets[0][1]))
    sample = Sample(case.name, case.model, given, outputs, case.rtol, case.atol)
    yield sample
    weights = [
        name
        for node in case.model.graph.node
        if node.op_type in LINEAR
        for name in node.input[1:]
        if name in given
    ]
    if weights:
        yield _with_constants(sample, weights)


def _with_constants(sample: Sample, names: list[str]) -> Sample:
    model = with_constants(sample.model, sample.feeds, names)
    feeds = {name: value for name, value in sample.feeds.items() if name not in names}
    return Sample(f"{sample.name} (constant weight)", model, feeds, sample.expected, sample.rtol, sample.atol)


def _unusable(sample: Sample) -> str:
    """Return why the model says nothing about the compiler, or the empty text."""
    if any(isinstance(v, np.ndarray) and v.dtype.kind == "V" for v in sample.feeds.values()):
        return "ONNX Runtime takes no arrays of its input's type"
    try:
        found = open_session(sample.model, Run(threads=1)).run(sample.feeds)
    except OnnxqError as error:
        return "ONNX Runtime cannot load it" if "cannot load" in str(error) else "ONNX Runtime cannot run it"
    pairs = zip(found.values(), sample.expected, strict=True)
    if not all(_as_expected(one, other, sample) for one, other in pairs):
        return "ONNX Runtime's result is not the expected one"
    return ""


def _as_expected(found: Any, expected: Any, sample: Sample) -> bool:
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            _as_expected(one, other, sample) for one, other in zip(found, expected, strict=True)
        )
    if expected is None or found is None:
        return found is expected
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if _draws(sample.model):
        return True
    if not is_float(found):
        return bool((found == expected).all())
    one, other = found.astype(np.float64), expected.astype(np.float64)
    return bool(np.allclose(one, other, sample.rtol, sample.atol, equal_nan=True))


def _draws(model: onnx.ModelProto) -> bool:
    return any(node.op_type in DRAWING for node in model.graph.node)


def _outcome(sample: Sample, recipe: str) -> Outcome:
    outcome = partial(Outcome, sample.name, recipe)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _compile_and_compare(sample, recipe, Path(folder))
    except RefusedError as error:
        return outcome("refused", str(error))
    except Exception as error:
        return outcome("failed", f"{type(error).__name__}: {error}")


def _compile_and_compare(sample: Sample, recipe: str, folder: Path) -> Outcome:
    snapshot = _compile(sample, recipe, folder)
    compiled = folder / "compiled.onnx"
    if not snapshot.decisions:
        original = open_session(sample.model, Run(threads=1)).run(sample.feeds)
        found = open_session(compiled, Run(threads=1)).run(sample.feeds)
        same_shapes(found, original)
        if not _draws(sample.model):
            compare(found, original, {})
        return Outcome(sample.name, recipe, "left alone")
    moved = _check_quantized(sample, snapshot, compiled)
    return Outcome(sample.name, recipe, "moved" if moved else "quantized", moved)


def _compile(sample: Sample, name: str, folder: Path) -> Snapshot:
    """Compile as ``onnxq compile`` does: from a file, into a file, verified around each pass."""
    source, recipe, snapshot = folder / "model.onnx", load_recipe(name), Snapshot()
    source.write_bytes(sample.model.SerializeToString())

    def measure(module: GraphModule, needs: Iterable[Need]) -> Mapping[str, Facts]:
        return collect(module.model, needs, sample, Run(threads=1)).facts

    passes, target = parse_pipeline(recipe.pipeline), recipe.runs_on
    try:
        module = load_model(source)
        PassManager(passes, target, (VerifyEach(), snapshot), measure, kernels=cpu_kernels).run(module)
        save_model(module, folder / "compiled.onnx", source=source)
    except (InputError, CalibrationError) as error:
        where = f"{error.where}: ".replace(f"{folder}/", "") if error.where else ""
        raise RefusedError(f"{type(error).__name__}: {where}{error.message}") from error
    return snapshot


def _check_quantized(sample: Sample, snapshot: Snapshot, compiled: Path) -> str:
    """Check a quantized model; return how a chain of operators has moved beyond its bound, if it has."""
    check_ranges({**sample.feeds, **weights(sample.model)}, snapshot.decisions)
    stretched = {
        one.value: _stretched(sample.feeds[one.value])
        for one in snapshot.decisions
        if one.value in sample.feeds
    }
    beyond = replace(sample, feeds={**sample.feeds, **stretched})
    return _check_results(sample, snapshot, compiled) or _check_results(beyond, snapshot, compiled)


def _stretched(values: Any) -> Any:
    return np.asarray(values * STRETCH, values.dtype)


def _check_results(sample: Sample, snapshot: Snapshot, compiled: Path) -> str:
    reference = Reference(snapshot.model, snapshot.decisions, sample.feeds)
    plain = open_session(compiled, Run(threads=1), optimization="none").run(sample.feeds)
    optimised = open_session(compiled, Run(threads=1)).run(sample.feeds)
    same_shapes(optimised, plain)
    if _draws(sample.model):
        return ""
    wanted = {name: reference.values[name] for name in plain}
    compare(plain, wanted, _bounds(wanted, snapshot))
    if len(sample.model.graph.node) == 1:
        _check_operator(sample, snapshot, optimised, reference)
        return ""
    try:
        compare(optimised, wanted, _bounds(wanted, snapshot))
    except OutOfBoundsError as error:
        return str(error)
    return ""


def _check_operator(sample: Sample, snapshot: Snapshot, optimised: Values, reference: Reference) -> None:
    """Check one operator as integer kernels run it, against the reference and, if linear, the original."""
    operator = sample.model.graph.node[0].op_type
    wanted = {name: reference.values[name] for name in optimised}
    bounds = _bounds(wanted, snapshot, KERNEL_STEPS.get(operator, 0))
    compare(optimised, wanted, bounds)
    moved = linear_bound(sample.model, sample.feeds, reference) if operator in LINEAR else None
    if moved is not None:
        original = open_session(sample.model, Run(threads=1)).run(sample.feeds)
        compare(optimised, original, {name: moved + bounds[name] for name in original})


def _bounds(values: Values, snapshot: Snapshot, steps: float = 0) -> Values:
    return {
        name: encoding_bound(values[name], encoding_for(snapshot.decisions, name, None), steps)
        for name in values
    }


def _rows(outcomes: list[Outcome]) -> Iterator[dict[str, Any]]:
    for recipe in RECIPES:
        mine = [outcome for outcome in outcomes if outcome.recipe == recipe]
        kinds = Counter(outcome.kind for outcome in mine)
        counts = {kind: kinds[kind] for kind in ("quantized", "moved", "left alone", "refused", "failed")}
        yield {"recipe": recipe, "models": len(mine), **counts}


def _notes(outcomes: list[Outcome]) -> Iterator[str]:
    for kind in ("skipped", "moved", "refused", "failed"):
        groups: dict[tuple[str, str], list[str]] = {}
        for outcome in outcomes:
            if outcome.kind == kind:
                groups.setdefault((outcome.recipe, outcome.reason), []).append(outcome.name)
        for (recipe, reason), names in sorted(groups.items(), key=lambda group: -len(group[1])):
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            yield f"{kind} {recipe} {len(names)}: {reason} ({shown})".replace("  ", " ")


if __name__ == "__main__":
    sys.exit(main())
