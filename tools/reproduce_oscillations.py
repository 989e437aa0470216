"""Weights that oscillate in training with few bits: LSQ alone, with dampening, and with iterative freezing.

For each number of bits and each cure, mean and spread over the seeds: which part of the weights oscillates in
the end, and the loss and the right classes of the best check. The paper is Nagel et al., 2022,
arXiv:2203.11086; its networks and data are others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measuring import parser, show
from rich.console import Console
from training_cases import add_data, data_of, over_seeds

from onnxq.comparison import CompileOptions
from onnxq.finetuning import FinetuneOptions, finetune_model
from onnxq.training.fitting import Plan

CURES: Mapping[str, Mapping[str, Any]] = {
    "LSQ": {},
    "LSQ, dampening": {"dampen": 0.1},
    "LSQ, freezing": {"freeze": True},
}


def main() -> int:
    """Print a line for each row when it is done, and then the table."""
    options = parser(__doc__)
    add_data(options)
    options.add_argument("--bits", nargs="+", default=["w4a4", "w3a3"])
    options.add_argument("--lr", type=float, default=2e-4)
    args = options.parse_args()
    rows = []
    for row in _rows(args):
        Console(stderr=True).print(f"[dim]{row}")
        rows.append(row)
    show("Oscillating weights", rows, [], as_json=args.json)
    return 0


def _rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for bits in args.bits:
        for name, cure in CURES.items():
            found = [_trained(args, bits, cure, seed) for seed in range(args.seeds)]
            yield {"bits": bits.upper(), "training": name, **over_seeds(found)}


def _trained(
    args: argparse.Namespace, bits: str, cure: Mapping[str, Any], seed: int
) -> dict[str, float | None]:
    data, judging = data_of(args)
    widths = int(bits[1]), int(bits[3])
    plan = Plan(steps=args.steps, batch=args.batch, rate=args.lr, seed=seed, **cure)
    options = FinetuneOptions(widths, plan, args.loss, judging=judging)
    with TemporaryDirectory() as folder:
        around = CompileOptions(bench=False, validate=False, threads=args.threads)
        tuned = finetune_model(args.model, Path(folder, "tuned.onnx"), data, options, around=around)
    shares = list(tuned.oscillating.values())
    return {
        "oscillating %": 100 * sum(shares) / max(len(shares), 1),
        "loss": tuned.best.loss,
        "right %": None if tuned.best.metric is None else 100 * tuned.best.metric,
        "loss before": tuned.checks[0].loss,
    }


if __name__ == "__main__":
    sys.exit(main())
