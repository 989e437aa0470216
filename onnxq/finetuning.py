"""Training a model that was exported, without its source: what ``onnxq tune`` does.

What is quantized where is what a recipe decides. With its passes up to there, the graph is trained with
quantization in the loop; with the others, what was learned becomes the integer model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.data import Dataset
from onnxq.comparison import CompileOptions, with_options
from onnxq.compilation import Compilation, CompileResult
from onnxq.engine.build import Built
from onnxq.engine.source import Source
from onnxq.engine.teaching import Teacher, fitting_of, goals_of, judging_data, parted
from onnxq.errors import RecipeError
from onnxq.ir.module import GraphModule, constant_tensor, name_of
from onnxq.ir.store import model_files
from onnxq.outputs import Outputs
from onnxq.passmanager.instruments import BisectLimit
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.progress import Progress, quiet
from onnxq.quant.encodings import Encoding
from onnxq.recipe import Recipe, load_recipe
from onnxq.report.markdown import render_report
from onnxq.rewrite.edit import Editor
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.training.checkpoint import resume, save
from onnxq.training.fitting import Check, Fitting, Plan
from onnxq.training.goals import Kind
from onnxq.training.learned import Gridded, Plain, Steps
from onnxq.training.network import FED, Network, network_of
from onnxq.training.oscillations import Oscillations
from onnxq.training.penalty import STRENGTH

BEHIND = ("fit-biases", "correct-bias", "encode-biases")
"""Passes that follow from scales and weights: they run on what was learned."""

WHY = "learned"


@dataclass(frozen=True)
class FinetuneOptions:
    """What is trained, and how.

    Args:
        bits: Of weights and of activations.
        plan: How training goes.
        loss: What for: ``cross-entropy`` with labels, else ``kl`` or ``mse`` to the model's own outputs.
        recipe: What is quantized where; its choices are not tried.
        judging: Samples that judge; by default some of the data are not learned from.
        labels: Of the data, for ``cross-entropy``: one number for each sample; None if the data has them.
        checkpoint: A folder from which training goes on if it was stopped.
        penalty: How much outliers count, where they are tamed (``quanttuning.py``).

    """

    bits: tuple[int, int] = (8, 8)
    plan: Plan = field(default_factory=Plan)
    loss: Kind = "kl"
    recipe: Recipe | None = None
    judging: Dataset | None = None
    labels: NDArray[Any] | None = None
    checkpoint: Path | None = None
    penalty: float = 1.0


@dataclass(frozen=True)
class Finetuned:
    """What training gave.

    Args:
        compiled: The integer model, with its manifest and report.
        checks: What was found on the way; the best is what the model has.
        oscillating: Of the weights of each layer, of up to 4 bits, the part that oscillates at the end.

    """

    compiled: CompileResult
    checks: tuple[Check, ...]
    oscillating: Mapping[str, float]

    @property
    def best(self) -> Check:
        """The check whose numbers the model has."""
        return min(self.checks, key=lambda one: one.loss)


OnCheck = Callable[[Check], None]


def finetune_recipe(base: Recipe, bits: tuple[int, int]) -> Recipe:
    """Return a recipe that quantizes to so many bits, and leaves to training what else would move numbers.

    Below 8 bits ranges are chosen by the squared error that they leave.
    """
    passes = {pass_.name for pass_ in parse_pipeline(base.pipeline)}
    settings = [
        setting
        for name, width in zip(("encode-weights", "encode-activations"), bits, strict=True)
        if width < 8
        for setting in (f"{name}.bits={width}", f"{name}.method=mse")
    ]
    off = [f"{name}=off" for name in ("correct-bias", "round-weights", "reconstruct") if name in passes]
    return base.with_options([*settings, *off]).decided()


def finetune_model(
    source: Path | str,
    output: Path | str,
    data: Dataset,
    options: FinetuneOptions = FinetuneOptions(),
    *,
    around: CompileOptions | None = None,
    on_progress: Progress = quiet,
    on_check: OnCheck = lambda check: None,
) -> Finetuned:
    """Train a model with quantization in the loop, and write the integer model, its manifest and report.

    Weights, biases, scales and offsets are learned (LSQ, LSQ+). All outputs are written together or not at
    all, and replace files of the same kinds that onnxq wrote, no others.

    Args:
        source: The file of an ONNX model; it is only read.
        output: Where the integer model goes.
        data: Samples to learn from, in memory; ranges at first are measured on them too.
        options: What is trained, and how.
        around: How the result is compared and timed.
        on_progress: Called as the work goes on.
        on_check: Called with each check.

    Raises:
        OnnxqError: What is wrong, where, and what to do.

    Source:
        Esser et al., 2020, arXiv:1902.08153 (LSQ); Bhalgat et al., 2020, arXiv:2004.09576 (LSQ+).

    """
    around = replace(around or CompileOptions(bench=False), require_useful=False)
    recipe = finetune_recipe(options.recipe or load_recipe("cpu"), options.bits).settled()
    work = Compilation(Source.of(Path(source)), recipe, data, around, on_progress)
    outputs = Outputs(Path(output), tuple(read_by(work, options)), around.force)
    outputs.files(work.source.module)  # what cannot be written is better known now
    place = place_of_training(recipe)
    decided = work.build.of(recipe, (BisectLimit(place),))
    training = Training(data, options, Run(threads=around.threads), on_progress, on_check)
    training.before = lambda held_back: _try_metric(work.source.path, held_back, around)
    fitting = training.of(decided.module, training_digest(work, options))
    work.remarks = (_told(fitting),)
    if around.validation_data is None:
        work.options = replace(around, validation_data=training.held_back)
    records = work.build.rest(recipe, decided.module, place)
    built = Built(decided.module, (*decided.records, *records), decided.facts, decided.assigned)
    compiled = work.finish(built, outputs, render_report)
    return Finetuned(compiled, tuple(fitting.checks), oscillating(fitting))


def read_by(work: Compilation, options: FinetuneOptions) -> Iterator[Path]:
    """Yield what is read, which must not be replaced."""
    yield from model_files(work.source.path)
    yield from work.options.also_read
    for data in (work.data, options.judging):
        yield from data.paths if data is not None else ()


def place_of_training(recipe: Recipe) -> int:
    """Return how many passes run before training.

    Raises:
        RecipeError: No pass realises what is decided.

    """
    for index, pass_ in enumerate(parse_pipeline(recipe.pipeline)):
        if pass_.realises or pass_.name in BEHIND:
            return index
    raise RecipeError(
        "no pass makes integers of what is decided", where=f"recipe {recipe.name}", hint="add insert-qdq"
    )


def training_digest(work: Compilation, options: FinetuneOptions) -> str:
    """Return what tells this training from any other."""
    plain = {**asdict(options.plan), "bits": options.bits, "loss": options.loss, "penalty": options.penalty}
    labels = None if options.labels is None else options.labels.tobytes()
    data = None if work.data is None else work.data.digest()
    told = (work.source.digest, data, labels, work.recipe.pipeline, sorted(plain.items()))
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _try_metric(source: Path, data: Dataset, around: CompileOptions) -> None:
    """Compute the metric of one batch, so that what it lacks is told before hours of training, not behind."""
    if around.metric is None:
        return
    batch = next(iter((around.validation_data or data).batches()))
    outputs = open_session(source, Run(threads=around.threads)).run(batch.feeds)
    around.metric.start().update(outputs, batch)


def _told(fitting: Fitting) -> str:
    best = fitting.best_check
    step = 0 if best is None else best.step
    return f"weights and scales were learned in {step} steps: the recipe alone does not give this model again"


def oscillating(fitting: Fitting) -> dict[str, float]:
    """Return the part of each weight of few bits that oscillates, by the names of weights."""
    watched = [cure for cure in fitting.cures if isinstance(cure, Oscillations)]
    return {one.weight.name.removesuffix(FED): one.share for one in watched}


@dataclass
class Training:
    """What trains graphs.

    Args:
        data: Samples to learn from.
        options: What is trained, and how.
        run: Where and how it runs.
        on_progress: Called as the work goes on.
        on_check: Called with each check.
        held_back: Samples of the data that were not learned from, once there are such.
        before: Called with them before anything is trained.

    """

    data: Dataset
    options: FinetuneOptions
    run: Run
    on_progress: Progress
    on_check: OnCheck
    held_back: Dataset | None = None
    before: Callable[[Dataset], None] = lambda data: None

    def of(
        self, module: GraphModule, digest: str, penalized: Mapping[str, float] = MappingProxyType({})
    ) -> Fitting:
        """Train a graph, and put what was learned into it.

        Args:
            module: In it is decided what is quantized.
            digest: What tells this training from any other.
            penalized: How much outliers of values count, by name: see ``network_of``.

        """
        data = with_options(self.data, batch_size=self.options.plan.batch)
        plan = replace(self.options.plan, batch=data.batch_size)  # a model may take one size alone
        goals = goals_of(module, self.options.loss)
        network = network_of(module, goals, penalized)
        teacher = Teacher(module, goals, self.run)
        parts = list(teacher.parts(data, self.options.labels))
        judging = self.options.judging
        apart = parted(parts) if judging is None else (parts, list(teacher.parts(judging)))
        self.held_back = judging or judging_data(apart[1], goals, self.data)
        self.before(self.held_back)
        fixed = {STRENGTH: np.array(self.options.penalty, np.float32)}
        fitting = fitting_of(network, teacher, apart, plan, self.run, fixed if penalized else {})
        self._fit(fitting, digest)
        fitting.take_best()
        put_back(module, network, fitting)
        return fitting

    def _fit(self, fitting: Fitting, digest: str) -> None:
        folder = self.options.checkpoint
        if folder is not None and resume(fitting, folder, digest):
            for known in fitting.checks:
                self.on_check(known)
        for check in fitting.run():
            self.on_progress("training", fitting.step, fitting.plan.steps)
            if check is not None:
                self.on_check(check)
                if folder is not None:
                    save(fitting, folder, digest)
        self.on_progress("training", fitting.plan.steps, fitting.plan.steps)


def put_back(module: GraphModule, network: Network, fitting: Fitting) -> None:
    """Put what was learned into the graph that the network was made of: constants, and encodings."""
    edit, nodes = Editor(module), {node.name: node for node in module.graph}
    grids: dict[Encoding, Encoding] = {}
    for one in fitting.learned:
        if isinstance(one, Steps):
            grids[one.begun] = one.encoding
        elif isinstance(one, Plain | Gridded):
            uses = [(nodes[name], index) for name, index in network.parameters[one.name].uses]
            value = uses[0][0].inputs[uses[0][1]]
            constant = edit.constant(f"{name_of(value)}_tuned", one.result, why=WHY)
            for node, index in uses:
                if isinstance(one, Gridded) and value is not None:
                    edit.forget(value, readers=[node], why=WHY)
                edit.rewire(node, index, constant, why=WHY)
                if isinstance(one, Gridded):
                    edit.encode(constant, one.encoding, readers=[node], why=WHY)
    for decision in module.decisions():
        if decision.encoding in grids and constant_tensor(decision.value) is None:
            edit.encode(
                decision.value,
                grids[decision.encoding],
                readers=None if decision.for_all else decision.readers,
                why=WHY,
            )
    edit.settle()
