"""Diff models with what tools make of them, names kept and names lost, and count the products found again.

Each original is compared with itself renamed, which must differ in nothing, with onnxq's own results, with
onnxruntime's quantize_dynamic and quantize_static, and with optimum's O2 graph if ``--optimum`` is given. At
least 99 % of the matrix products and convolutions must be found, and both runs must agree on what they are
now. Exits with 1 if not.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import peers
from measuring import parser, show
from rich.console import Console

from onnxq.calibration.data import DataOptions, input_specs, open_data
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.diff.models import diff_models
from onnxq.diff.result import ModelDiff
from onnxq.errors import OnnxqError
from onnxq.ir.store import load_model, save_model
from onnxq.recipe import load_recipe

NEEDED = 0.99
SAMPLES = 4
SHAPES = {"silero_vad_16k_op15": {"input": (1, 576)}, "silero_model_micro": {"input": (1, 32000)}}
"""Inputs that a model does not run without, though it does not say so."""

Feeds = Mapping[str, Any]


def main() -> int:
    options = parser(__doc__, several=True)
    options.add_argument("--optimum", type=Path, help="optimum-cli of an environment that has it")
    options.add_argument("--only", help="one original's name")
    args = options.parse_args()
    originals = {path.stem: path for path in sorted((args.assets / "models").glob("*.onnx"))}
    originals |= {f"minilm ({path.parent.name})": path for path in args.minilm or ()}
    rows = []
    for name, path in originals.items():
        if args.only in (None, name):
            Console(stderr=True).print(f"[dim]{name}")
            rows += list(_rows(name, path, args.optimum))
    notes = [
        "found: matrix products and convolutions with a counterpart, names kept and lost.",
        "agree: with the same.",
    ]
    show("Products found again by onnxq diff", rows, notes, as_json=args.json)
    return int(
        any(row["verdict"] not in ("ok", "empty") and not row["verdict"].startswith("-") for row in rows)
    )


def _rows(name: str, path: Path, optimum: Path | None) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        renamed = _renamed(path, Path(folder, "itself.onnx"))
        yield _itself(name, path, renamed)
        for maker, make in _makers(path, optimum).items():
            output = Path(folder, f"{maker.split()[-1]}.onnx")
            try:
                make(output)
                load_model(output)
            except Exception as error:  # what a tool refuses or breaks is no matter of the diff
                message = error.message if isinstance(error, OnnxqError) else str(error)
                reason = re.sub(r"\S*/\S+ ?", "", " ".join(message.split()))[:60]
                yield {"model": name, "made by": maker, "verdict": f"- no valid model: {reason}"}
                continue
            yield _row(name, maker, path, output, Path(folder, "renamed.onnx"))


def _itself(name: str, path: Path, renamed: Path) -> dict[str, Any]:
    start = time.perf_counter()
    diff = diff_models(path, renamed)
    found = _found(diff)
    verdict = "differs" if diff else "empty"
    return {
        "model": name,
        "made by": "itself, renamed",
        "products": len(diff.counterparts),
        "found": found,
        "names lost": found,
        "agree": None,
        "seconds": time.perf_counter() - start,
        "verdict": verdict,
    }


def _row(name: str, maker: str, path: Path, output: Path, scratch: Path) -> dict[str, Any]:
    start = time.perf_counter()
    kept = diff_models(path, output)
    seconds = time.perf_counter() - start
    lost = diff_models(path, _renamed(output, scratch))
    total = len(kept.counterparts)
    same = _agreement(kept, lost, output)
    enough = min(_found(kept), _found(lost), same) >= NEEDED * total
    return {
        "model": name,
        "made by": maker,
        "products": total,
        "found": _found(kept),
        "names lost": _found(lost),
        "agree": same,
        "seconds": seconds,
        "verdict": "ok" if enough else "too few",
    }


def _found(diff: ModelDiff) -> int:
    return sum(bool(one.after) for one in diff.counterparts)


def _agreement(kept: ModelDiff, lost: ModelDiff, output: Path) -> int:
    """Count the products that became the same nodes; a renamed node is known by its place."""
    places = {
        node.name or "": f"r{place}" for place, node in enumerate(load_model(output).model.graph.all_nodes())
    }
    pairs = zip(kept.counterparts, lost.counterparts, strict=True)
    return sum({places[name] for name in one.after} == set(other.after) for one, other in pairs)


def _renamed(path: Path, target: Path) -> Path:
    """Write the model with another name for everything; a node is called by its place."""
    module, numbers = load_model(path), itertools.count()
    for place, node in enumerate(module.model.graph.all_nodes()):
        node.name = f"r{place}"
    for graph in module.model.graphs():
        made = (value for node in graph for value in node.outputs if value.name)
        for value in dict.fromkeys((*graph.initializers.values(), *graph.inputs, *made)):
            value.name = f"v{next(numbers)}"
    save_model(module, target)
    return target


def _makers(path: Path, optimum: Path | None) -> dict[str, Callable[[Path], object]]:
    makers: dict[str, Callable[[Path], object]] = {
        "onnxq cpu": lambda output: _compiled(path, output, "cpu"),
        "onnxq cpu-dynamic": lambda output: _compiled(path, output, "cpu-dynamic"),
        "onnxruntime quantize_dynamic": lambda output: peers.quantize_dynamic(path, output),
        "onnxruntime quantize_static": lambda output: peers.quantize_static(path, output, _feeds(path)),
    }
    if optimum is not None and (path.parent / "config.json").is_file():
        makers["optimum O2"] = lambda output: _optimized(optimum, path.parent, output)
    return makers


def _compiled(path: Path, output: Path, recipe: str) -> None:
    options = CompileOptions(validate=False, bench=False, tune=False)
    compile_model(path, output, recipe=load_recipe(recipe), data=_data(path), options=options)


def _data(path: Path) -> Any:
    from dataclasses import replace

    shapes = SHAPES.get(path.stem, {})
    specs = [
        replace(one, shape=shapes.get(one.name, one.shape)) for one in input_specs(load_model(path).model)
    ]
    return open_data("random", specs, DataOptions(limit=SAMPLES, batch_size=1 if shapes else None))


def _feeds(path: Path) -> list[Feeds]:
    return [batch.feeds for batch in _data(path).batches()]


def _optimized(command: Path, folder: Path, output: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [command, "onnxruntime", "optimize", "--onnx_model", folder, "-O2", "-o", scratch],
            check=True,
            capture_output=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        output.write_bytes(Path(scratch, "model_optimized.onnx").read_bytes())


if __name__ == "__main__":
    sys.exit(main())
