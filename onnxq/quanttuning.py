"""Taming outliers by training: what ``onnxq tune --method quanttune`` does.

The model stays in float. Its weights are trained so that few values lie far from the others of their tensor,
and its outputs stay what they were; a grid over all values is then fine enough for plain min-max calibration.

Source: the abstract of Chen et al., 2024, arXiv:2403.06497 (QuantTune); the loss is our reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxq.calibration.collect import collect
from onnxq.calibration.data import Dataset
from onnxq.comparison import CompileOptions, with_options
from onnxq.compilation import Compilation
from onnxq.engine.source import Source
from onnxq.files import replacing
from onnxq.finetuning import (
    FinetuneOptions,
    OnCheck,
    Training,
    finetune_recipe,
    place_of_training,
    read_by,
    training_digest,
)
from onnxq.ir.module import GraphModule, constant_tensor, name_of
from onnxq.ir.store import output_files, write_model
from onnxq.manifest import installed_versions
from onnxq.overwriting import MODEL, refuse_overwriting
from onnxq.passmanager.instruments import BisectLimit
from onnxq.progress import Progress, quiet
from onnxq.quant.amplification import Amplification, amplification
from onnxq.quant.facts import Need
from onnxq.quant.statistics import Histogram
from onnxq.recipe import load_recipe
from onnxq.runtime.run import Run
from onnxq.training.fitting import Check


@dataclass(frozen=True)
class Tamed:
    """What training gave.

    Args:
        before: What the error of each tensor that is to be quantized was made of, by name.
        after: The same of the trained model.
        checks: What was found on the way; the best is what the model has.

    """

    before: Mapping[str, Amplification]
    after: Mapping[str, Amplification]
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "before": {name: asdict(one) for name, one in self.before.items()},
            "after": {name: asdict(one) for name, one in self.after.items()},
            "checks": [asdict(check) for check in self.checks],
        }


def tame_model(
    source: Path | str,
    output: Path | str,
    data: Dataset,
    options: FinetuneOptions,
    *,
    around: CompileOptions | None = None,
    on_progress: Progress = quiet,
    on_check: OnCheck = lambda check: None,
) -> Tamed:
    """Train a float model so that its activations have fewer outliers, and write it, for ``compile_model``.

    Args:
        source: The file of an ONNX model; it is only read.
        output: Where the trained model goes: in float, laid out as the recipe's exact passes do.
        data: Samples to learn from, in memory.
        options: What is trained, and how; the recipe says which tensors are to be quantized.
        around: Threads, what may be replaced, and what is read besides.
        on_progress: Called as the work goes on.
        on_check: Called with each check.

    Raises:
        OnnxqError: What is wrong, where, and what to do.

    """
    around = around or CompileOptions()
    recipe = finetune_recipe(options.recipe or load_recipe("cpu"), (8, 8)).settled()
    work = Compilation(Source.of(Path(source)), recipe, data, around, on_progress)
    refuse_overwriting(Path(output), MODEL, inputs=tuple(read_by(work, options)), force=around.force)
    decided = work.build.of(recipe, (BisectLimit(place_of_training(recipe)),)).module
    names = [name_of(one.value) for one in decided.decisions() if constant_tensor(one.value) is None]
    module = decided.undecided()
    run = Run(threads=around.threads)
    few = with_options(data, limit=min(recipe.calibration.samples, data.options.limit or 1 << 30))
    before = diagnosed(module, names, few, run)
    training = Training(data, options, run, on_progress, on_check)
    weights = {name: one.share for name, one in before.items() if one.share > 0}
    fitting = training.of(module, training_digest(work, options), weights)
    after = diagnosed(module, names, few, run)
    work.source.verify()
    with replacing(*output_files(module, Path(output))) as files:
        write_model(module, files, lambda: {"onnxq.version": installed_versions()["onnxq"]})
    return Tamed(before, after, tuple(fitting.checks))


def diagnosed(module: GraphModule, names: list[str], data: Dataset, run: Run) -> dict[str, Amplification]:
    """Return for values what the error of a grid over all of them is made of, by name; 0 has none.

    Args:
        module: The graph, in float.
        names: Of its values.
        data: The samples.
        run: Where and how it runs.

    """
    needs = [Need(name, frozenset({Histogram})) for name in dict.fromkeys(names)]
    facts = collect(module.model, needs, data, run).facts
    found = {name: facts[name].get(Histogram) for name in facts}
    return {name: amplification(one) for name, one in found.items() if one is not None and one.bulk > 1}
