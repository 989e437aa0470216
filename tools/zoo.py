"""Export the zoo, compile each export with the recipes that matter, and tell what came of the weights.

python tools/zoo.py FOLDER [ARCHITECTURE ...] [--recipe RECIPE ...] [--exporter EXPORTER] [--json]

A line is printed as soon as it is measured, with --json as an object. Nothing is timed, no option is chosen
by data, and no layer is kept in float for accuracy: what is told is what the recipe does. Models and results
stay in FOLDER, exports are taken from there the next time. Exits with 1 where a model was refused.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from zoo.architectures import ARCHITECTURES
from zoo.networks import NETWORKS, PIPELINES
from zoo.rows import RECIPES, Row, compiled, exports


def line(row: Row) -> str:
    start = f"{row.architecture:16} {row.exporter:11} {row.recipe:11}"
    if row.refused is not None:
        return f"{start} refused: {row.refused}"
    cosine = "-" if row.cosine is None else f"{row.cosine:.4f}"
    largest = next(iter(row.exceptions), "")
    return f"{start} {row.quantized:4.0%} quantized, {row.size:.2f} of the size, cosine {cosine} {largest}"


def main() -> int:
    every = [*ARCHITECTURES, *NETWORKS, *PIPELINES]
    parser = argparse.ArgumentParser(description="compile the zoo's exports")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=every)
    parser.add_argument("--recipe", action="append", choices=list(RECIPES))
    parser.add_argument("--exporter", choices=["dynamo", "torchscript", "skl2onnx"])
    parser.add_argument("--json", action="store_true", help="print one JSON object for each row")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    refused = 0
    for name in args.names:
        for exporter, path, samples in exports(name, args.folder):
            recipes = (args.recipe or RECIPES) if args.exporter in (None, exporter) else ()
            for recipe in recipes:
                row = compiled(name, exporter, recipe, path, samples)
                refused += row.refused is not None
                print(json.dumps(asdict(row)) if args.json else line(row), flush=True)
    return int(refused > 0)


if __name__ == "__main__":
    raise SystemExit(main())
