"""What settings of recipes bring: one table for each question that the documentation answers in numbers.

4 bits by block size, 16-bit activations by levels and ranges of weights on all-MiniLM-L6-v2; ranges, biases,
rounding and equalization on two convolutional networks, each on every second image and on the others.
The convolutional networks and the ranges of weights are computed exactly (QuantizeLinear and DequantizeLinear
in float), so that the processor does not matter; the rest is what ONNX Runtime runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from cpu_cases import Case, Source
from measuring import cosines, embeddings, parser, real_tasks, show_tables
from numpy.typing import NDArray
from rich.console import Console

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compilation import CompileResult
from onnxq.compile import compile_model
from onnxq.ir.store import load_model, model_size
from onnxq.recipe import Recipe, load_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Feeds = Mapping[str, NDArray[Any]]
Row = dict[str, Any]

EIGHT_BITS = "encode-weights.bits=8"
SIZES = {
    "nothing": (),
    "weights in blocks of 128": ("encode-weight-blocks.block=128",),
    "int8 rows of embeddings": ("encode-embeddings.block=none",),
    "8 bits, blocks of 128": ("encode-weight-blocks.bits=8", "encode-weight-blocks.block=128"),
}
LEVELS = (0, 8, 16, 32, 64)
WEIGHTS = {
    "min-max, per tensor": ("encode-weights.granularity=tensor",),
    "mse, per tensor": ("encode-weights.granularity=tensor", "encode-weights.method=mse"),
    "min-max, per channel": (),
}
ANALYTIC, MSE = "correct-bias.method=analytic", "encode-activations.method=mse"
ROUNDED, EQUALIZED = "round-weights=on", "equalize-activations=on"
RANGES = {
    "min-max, no correction": (),
    "min-max, analytic": (ANALYTIC,),
    "mse, no correction": (MSE,),
    "mse, empirical": (MSE, "correct-bias.method=empirical"),
    "mse, analytic": (MSE, ANALYTIC),
    "mse, analytic, rounded": (MSE, ANALYTIC, ROUNDED),
    "mse, analytic, equalized": (MSE, ANALYTIC, EQUALIZED),
    "mse, analytic, rounded, equalized": (MSE, ANALYTIC, ROUNDED, EQUALIZED),
}
NETWORKS = ("squeezenet", "cifar10_resnet20")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--tables", default="", help="tables whose name holds this")
    args = options.parse_args()
    tasks = real_tasks(args.assets)
    if tasks is None or args.minilm is None:
        print("needs the evaluation data among the assets, and --minilm FILE", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        study = _Study(tasks, Path(folder), args.minilm)
        tables = {name: list(make()) for name, make in study.tables().items() if args.tables in name}
    show_tables("What settings bring", tables, [], as_json=args.json)
    return 0


class _Study:
    """Compiles with each setting and compares the results with the float model."""

    def __init__(self, tasks: ModuleType, folder: Path, minilm: Path) -> None:
        self.folder = folder
        cases = dict(Source(tasks, folder, [minilm], quick=False).cases())
        self.minilm: Case = next(make() for name, make in cases.items() if name.startswith("MiniLM"))
        self.networks = {name: cases[name]() for name in NETWORKS}

    def tables(self) -> dict[str, Callable[[], Iterator[Row]]]:
        """Return what makes the rows of each table."""
        return {
            "cpu-size on MiniLM: pooled cosine of 64 sentences": self.sizes,
            "Every activation, some in 16 bits, on MiniLM: pooled cosine of 64 sentences": self.levels,
            "Ranges of weights on MiniLM, weights alone: pooled cosine of 64 sentences": self.weights,
            **{f"{name}: ranges, biases, rounding": self._ranges(name) for name in NETWORKS},
        }

    def sizes(self) -> Iterator[Row]:
        """Yield what block sizes and widths cost."""
        for name, settings in SIZES.items():
            result = self._compile(self.minilm, load_recipe("cpu-size"), settings)
            yield {"setting": name, "MB": round(model_size(result.output) / 1e6, 1), **self._cosines(result)}

    def levels(self) -> Iterator[Row]:
        """Yield what 16 bits bring for activations whose channels differ most."""
        recipe = load_recipe("all-tensors")
        text = recipe.pipeline.replace("minimum=13", "minimum=21")
        for levels in LEVELS:
            wide = text.replace("tie-encodings", f"mixed-precision{{levels={levels}}}, tie-encodings", 1)
            mixed = recipe.model_copy(update={"pipeline": wide})
            result = self._compile(self.minilm, mixed, ())
            record = next(record for record in result.records if "mixed-precision" in record.text)
            in_16 = sum(edit.action == "encode" for edit in record.edits)
            yield {"levels": str(levels), "in 16 bits": in_16, **self._cosines(result)}

    def weights(self) -> Iterator[Row]:
        """Yield what ranges of weights cost, with activations in float."""
        for name, settings in WEIGHTS.items():
            result = self._compile(self.minilm, load_recipe("weight-only"), (*settings, EIGHT_BITS))
            yield {"ranges": name, **self._cosines(result)}

    def _ranges(self, network: str) -> Callable[[], Iterator[Row]]:
        def rows() -> Iterator[Row]:
            case = self.networks[network]
            wanted = _outputs(case.model, case.held_out)
            for name, settings in RANGES.items():
                recipe = load_recipe("cpu").decided()
                if "no correction" in name:
                    text = recipe.pipeline.replace("correct-bias, ", "")
                    recipe = recipe.model_copy(update={"pipeline": text})
                result = self._compile(case, recipe, (*settings, EIGHT_BITS))
                yield {"settings": name, **_halves(wanted, _outputs(result.output, case.held_out))}

        return rows

    def _compile(self, case: Case, recipe: Recipe, settings: Sequence[str]) -> CompileResult:
        Console(stderr=True).print(f"[dim]{case.name}: {recipe.name} {' '.join(settings)}")
        specs = input_specs(load_model(case.model).model)
        data = open_feeds("calibration", lambda: case.calibration, specs) if recipe.needs_data else None
        options = CompileOptions(validate=False, bench=False, choose=False, tune=False)
        output = self.folder / "tried.onnx"
        return compile_model(
            case.model, output, recipe=recipe.with_options(settings), data=data, options=options
        )

    def _cosines(self, result: CompileResult) -> Row:
        wanted = embeddings(self.minilm.model, self.minilm.held_out)
        return cosines(wanted, embeddings(result.output, self.minilm.held_out))


def _outputs(model: Path, batches: Sequence[Feeds]) -> NDArray[np.float64]:
    """Return the first output of every sample, one row each, computed exactly."""
    session = open_session(model, Run(threads=2), optimization="basic")
    found = [session.run(feeds)[session.output_names[0]] for feeds in batches]
    return np.concatenate([one.reshape(len(one), -1) for one in found]).astype(np.float64)


def _halves(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> Row:
    """Return agreement in percent and SQNR in dB on every second sample, and on the others."""
    row: Row = {}
    for name, part in (("even", slice(0, None, 2)), ("odd", slice(1, None, 2))):
        a, b = wanted[part], found[part]
        row[f"agree %, {name}"] = round(100 * float((a.argmax(1) == b.argmax(1)).mean()), 1)
        row[f"dB, {name}"] = round(float(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum())), 1)
    return row


if __name__ == "__main__":
    sys.exit(main())
