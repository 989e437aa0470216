"""What gradients bring: ranges, steps and rounding by how much the loss cares, and what they cost.

Each model is calibrated on its first samples and judged on the others: the signal-to-noise ratio of all
outputs of floats together, computed exactly (QuantizeLinear and DequantizeLinear in float). Fewer than 8 bits
are simulated. The last table is what a compilation takes, as a process of its own that remembers nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import parser, ran, show_tables
from numpy.typing import NDArray
from rich.console import Console

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.store import load_model
from onnxq.recipe import Recipe, parse_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Feeds = dict[str, NDArray[Any]]
Row = dict[str, Any]

TIDY = "@tidy, unfuse-gemm, fuse-layer-norm, fuse-gelu, remove-dead, normalize-matrices"


def _plain(weights: str, activations: str) -> str:
    passes = {"encode-weights": weights, "encode-activations": activations}
    return ", ".join(f"{name}{{bits=BITS, method={method}}}" for name, method in passes.items())


ROWS = {
    "min-max": _plain("min-max", "min-max"),
    "mse": _plain("mse", "mse"),
    "mse, weights by hessian": _plain("hessian", "mse"),
    "mse, activations by hessian": _plain("mse", "hessian"),
    "hessian": _plain("hessian", "hessian"),
    "mse, search-scales": f"{_plain('mse', 'mse')}, search-scales",
    "hessian, search-scales": f"{_plain('hessian', 'hessian')}, search-scales",
    "mse, round-weights": f"{_plain('mse', 'mse')}, round-weights",
    "mse, round-weights by hessian": f"{_plain('mse', 'mse')}, round-weights{{hessian=true}}",
}
"""Between TIDY and insert-qdq, BITS in place."""

TIMED = ("min-max", "mse, activations by hessian", "hessian", "hessian, search-scales")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("models", nargs="+", help="MODEL.onnx=FOLDER with samples as npz")
    options.add_argument("--bits", type=int, nargs="+", default=[8, 6, 4], help="weights and activations")
    options.add_argument("--samples", type=int, default=32, help="how many of the first are calibrated on")
    options.add_argument("--rows", default="", help="rows whose name holds this")
    args = options.parse_args()
    tables: dict[str, list[Row]] = {}
    with TemporaryDirectory() as folder:
        for said in args.models:
            path, _, samples = said.partition("=")
            study = _Study(Path(path), Path(samples), args.samples, Path(folder))
            names = [name for name in ROWS if args.rows in name]
            tables[f"{study.name}: dB on {len(study.held_out)} samples"] = [
                study.row(name, args.bits) for name in names
            ]
            timed = [name for name in TIMED if name in names]
            tables[f"{study.name}: a compilation on {args.samples} samples"] = [*map(study.cost, timed)]
    show_tables("What the loss cares for", tables, [], as_json=args.json)
    return 0


class _Study:
    """Compiles one model with each setting and compares it with the float model."""

    def __init__(self, model: Path, samples: Path, count: int, folder: Path) -> None:
        files = sorted(samples.glob("*.npz"))
        self.model, self.samples, self.count, self.folder = model, samples, count, folder
        self.name = model.parent.name if model.stem == "model" else model.stem
        self.calibration, self.held_out = (_feeds(part) for part in (files[:count], files[count:]))
        self.wanted = _outputs(model, self.held_out)

    def row(self, name: str, bits: Sequence[int]) -> Row:
        """Return what each number of bits gives."""
        Console(stderr=True).print(f"[dim]{self.name}: {name}")
        return {"setting": name, **{f"{one} bits": round(self._signal(name, one), 2) for one in bits}}

    def _signal(self, name: str, bits: int) -> float:
        data = open_feeds("calibration", lambda: self.calibration, input_specs(load_model(self.model).model))
        options = CompileOptions(validate=False, bench=False, choose=False, tune=False, keep_floor=False)
        output = self.folder / "tried.onnx"
        compile_model(self.model, output, recipe=self._recipe(name, bits), data=data, options=options)
        off = _outputs(output, self.held_out) - self.wanted
        return float(10 * np.log10(np.square(self.wanted).sum() / np.square(off).sum()))

    def cost(self, name: str) -> Row:
        """Return seconds and memory of a process that compiles in 8 bits, with nothing remembered."""
        recipe, output = self.folder / "tried.toml", self.folder / "timed.onnx"
        recipe.write_text(self._recipe(name, 8).to_toml(), encoding="utf-8")
        command = [
            str(Path(sys.executable).with_name("onnxq")),
            "compile",
            str(self.model),
            "-o",
            str(output),
        ]
        command += ["--data", str(self.samples), "--recipe", str(recipe)]
        seconds, peak = ran([*command, "--no-bench", "--no-validate"], {**os.environ, "ONNXQ_CACHE": "off"})
        return {"setting": name, "seconds": round(seconds, 1), "MB": round(peak / 1e6)}

    def _recipe(self, name: str, bits: int) -> Recipe:
        pipeline = f"{TIDY}, {ROWS[name].replace('BITS', str(bits))}, insert-qdq, remove-dead"
        text = f"""
            name = "tried"
            summary = "one setting"
            target = "portable"
            needs_data = true
            pipeline = "{pipeline}"
            [calibration]
            samples = {self.count}
        """
        return parse_recipe(text, where="compare_hessian")


def _feeds(files: Sequence[Path]) -> list[Feeds]:
    found = []
    for file in files:
        with np.load(file) as arrays:
            found.append({name: arrays[name] for name in arrays.files})
    return found


def _outputs(model: Path, samples: Sequence[Feeds]) -> NDArray[np.float64]:
    """Return all outputs of floats, flat, computed exactly; without what belongs to padding."""
    session = open_session(model, Run(), optimization="basic")
    found = [part for feeds in samples for part in _flat(session.run(feeds), feeds)]
    return np.concatenate(found).astype(np.float64)


def _flat(outputs: Feeds, feeds: Feeds) -> Iterator[NDArray[Any]]:
    mask = feeds.get("attention_mask")
    for array in outputs.values():
        tokens = mask is not None and array.shape[: mask.ndim] == mask.shape
        if array.dtype == np.float32:
            yield (array[mask != 0] if mask is not None and tokens else array).reshape(-1)


if __name__ == "__main__":
    sys.exit(main())
