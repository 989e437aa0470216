"""Taming outliers by training (QuantTune, reconstructed), beside calibration alone.

Every activation of the graph is quantized (scope all-tensors), weights in 8 bits. For each number of bits of
the activations: the SQNR of the first output and how often its class is the float model's, with each method
of calibration, and with min-max behind the training; mean and spread over the seeds of training. The last
lines tell by how much the drop is smaller than with the best calibration, and which part of the tensors'
error outliers amplify. The claims are those of Chen et al., 2024, arXiv:2403.06497, of other models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import parser, show
from rich.console import Console
from training_cases import add_data, data_of, over_seeds

from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.finetuning import FinetuneOptions
from onnxq.quant.amplification import Amplification
from onnxq.quanttuning import Tamed, tame_model
from onnxq.recipe import Recipe
from onnxq.runtime.validate import validate
from onnxq.training.fitting import Plan

PIPELINE = """
@tidy, normalize-gemm, normalize-matrices, encode-weights, encode-embeddings,
encode-activations{{scope=all-tensors, method={method}, bits={bits}}},
tie-encodings, fit-biases, encode-biases, @realise
"""
METHODS = ("min-max", "percentile", "mse", "entropy")
TRAINED = "QuantTune, min-max"


def main() -> int:
    """Print a line for each row when it is done, and then the table."""
    options = parser(__doc__)
    add_data(options)
    options.add_argument("--bits", nargs="+", type=int, default=[8, 7, 6])
    options.add_argument("--lr", type=float, default=5e-5)
    options.add_argument("--penalty", type=float, default=1.0)
    args = options.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        tamed = [_tamed(args, Path(folder, f"{seed}.onnx"), seed) for seed in range(args.seeds)]
        for row in _rows(args, Path(folder)):
            Console(stderr=True).print(f"[dim]{row}")
            rows.append(row)
    told = [f"error due to outliers: {_share(one.before):.0%}, then {_share(one.after):.0%}" for one in tamed]
    show("Outliers tamed", rows, told, as_json=args.json)
    return 0


def _tamed(args: argparse.Namespace, output: Path, seed: int) -> Tamed:
    data, judging = data_of(args)
    plan = Plan(steps=args.steps, batch=args.batch, rate=args.lr, seed=seed)
    recipe = _recipe("min-max", 8)
    options = FinetuneOptions(plan=plan, loss=args.loss, recipe=recipe, judging=judging, penalty=args.penalty)
    return tame_model(args.model, output, data, options, around=CompileOptions(threads=args.threads))


def _share(found: Mapping[str, Amplification]) -> float:
    return float(np.mean([one.share for one in found.values()]))


def _rows(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for bits in args.bits:
        plain = {method: _judged(args, args.model, method, bits) for method in METHODS}
        for method, found in plain.items():
            yield {"bits": f"W8A{bits}", "calibration": method, **over_seeds([found])}
        trained = [_judged(args, folder / f"{seed}.onnx", "min-max", bits) for seed in range(args.seeds)]
        best = max(one["same class %"] for one in plain.values())
        yield {
            "bits": f"W8A{bits}",
            "calibration": TRAINED,
            **over_seeds(trained),
            "drop smaller by %": _smaller(best, [one["same class %"] for one in trained]),
        }


def _smaller(best: float, found: list[float]) -> float | None:
    """Return by which part the drop from 100 % is smaller than that of the best calibration."""
    return None if best == 100 else round(100 * (float(np.mean(found)) - best) / (100 - best), 1)


def _judged(args: argparse.Namespace, model: Path, method: str, bits: int) -> dict[str, float]:
    """Compile a model, and compare it with the source."""
    data, judging = data_of(args)
    with TemporaryDirectory() as folder:
        output = Path(folder, "out.onnx")
        around = CompileOptions(
            validate=False, bench=False, choose=False, tune=False, keep_floor=False, threads=args.threads
        )
        compile_model(model, output, recipe=_recipe(method, bits), data=data, options=around)
        found = validate(args.model, output, judging.batches()).outputs[0]
    return {
        "SQNR dB": -np.inf if found.sqnr_db is None else found.sqnr_db,
        "same class %": np.nan if found.agreement is None else 100 * found.agreement,
    }


def _recipe(method: str, bits: int) -> Recipe:
    text = " ".join(PIPELINE.format(method=method, bits=bits).split())
    return Recipe(name=f"all-tensors, {method}, {bits}", pipeline=text, target="portable", needs_data=True)


if __name__ == "__main__":
    sys.exit(main())
