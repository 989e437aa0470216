"""Ways to round the weights of a convolutional network: to the nearest, equalized, GPTQ, AdaRound, blocks.

For each granularity and number of bits of the weights, with activations in 8 bits: the SQNR of the logits and
how often the first class is the float model's, on photographs that were not calibrated on, and on small
images enlarged. Nothing else differs between rows; fewer than 8 bits are simulated in 8.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import parser, show
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.store import load_model
from onnxq.recipe import Recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Feeds = Mapping[str, NDArray[Any]]

PIPELINE = """
@tidy, {equalize} remove-dead, normalize-matrices,
encode-weights{{granularity={granularity}, bits={bits}, method=mse}}, {round}
encode-activations{{scope=chains, method=mse, residuals=true}}, tie-encodings, {learn}
fit-biases, {correct} encode-biases, insert-qdq, fold-clips, pad-integers, remove-dead
"""
EQUALIZE = "relax-clips, equalize-layers,"
CORRECT = "correct-bias,"
METHODS = {
    "plain": {"correct": CORRECT},
    "CLE": {"equalize": EQUALIZE, "correct": CORRECT},
    "GPTQ": {"round": "round-weights,", "correct": CORRECT},
    "AdaRound": {"round": "round-weights{method=adaround},", "correct": CORRECT},
    "reconstruction": {"learn": "reconstruct{{{options}}},"},
}
NOTHING = dict.fromkeys(("equalize", "round", "learn", "correct"), "")
BATCH = 8
MEAN, DEVIATION = 127.0, 128.0
"""Of EfficientNet-lite0's pixels."""


def main() -> int:
    """Print a line for each row when it is done, and then the table."""
    args = _options().parse_args()
    held_out = {"photographs": _photographs(args.held_out)}
    if args.images is not None:
        held_out["enlarged"] = _enlarged(args.images, args.count, next(iter(held_out["photographs"][0])))
    rows = []
    for row in _rows(args, held_out):
        Console(stderr=True).print(f"[dim]{row}")
        rows.append(row)
    show("Rounding of weights, activations in 8 bits", rows, [], as_json=args.json)
    return 0


def _options() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument("model", type=Path)
    options.add_argument("--calibration", type=Path, required=True, help="a folder of npz, a sample each")
    options.add_argument("--held-out", type=Path, required=True, help="another")
    options.add_argument("--images", type=Path, help="an npz with x, uint8 (N, 32, 32, 3)")
    options.add_argument("--count", type=int, default=100, help="how many of these images are looked at")
    options.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options.add_argument("--bits", nargs="+", type=int, default=[8, 4])
    options.add_argument("--granularities", nargs="+", default=["tensor", "channel"])
    options.add_argument("--equalized", action="store_true", help="equalize layers before every method")
    options.add_argument("--learn", default="", help="options of reconstruct")
    return options


def _photographs(folder: Path) -> list[Feeds]:
    """Return samples in batches of ``BATCH``: a step of reconstruction takes one of them."""
    samples = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    parts = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
    return [{name: np.concatenate([one[name] for one in part]) for name in part[0]} for part in parts]


def _enlarged(path: Path, count: int, name: str) -> list[Feeds]:
    """Return small images at 224 x 224, in batches of 10."""
    pixels = np.load(path)["x"][:count]
    large = [np.asarray(Image.fromarray(one).resize((224, 224), Image.Resampling.BICUBIC)) for one in pixels]
    scaled = (np.stack(large).astype(np.float32).transpose(0, 3, 1, 2) - MEAN) / DEVIATION
    return [{name: scaled[start : start + 10]} for start in range(0, count, 10)]


def _rows(args: argparse.Namespace, held_out: Mapping[str, Sequence[Feeds]]) -> Iterator[dict[str, Any]]:
    wanted = {name: _outputs(args.model, feeds) for name, feeds in held_out.items()}
    calibration = _photographs(args.calibration)
    with TemporaryDirectory() as folder:
        for bits in args.bits:
            for granularity in args.granularities:
                for method in args.methods:
                    recipe, result = _recipe(args, method, granularity, bits), Path(folder, "result.onnx")
                    begun = time.perf_counter()
                    _compile(args.model, result, recipe, calibration)
                    seconds = round(time.perf_counter() - begun)
                    row = {"bits": f"W{bits}A8", "scales": granularity, "method": method}
                    for name, feeds in held_out.items():
                        row |= _compared(name, wanted[name], _outputs(result, feeds))
                    yield {**row, "seconds": seconds}


def _recipe(args: argparse.Namespace, method: str, granularity: str, bits: int) -> Recipe:
    parts = NOTHING | ({"equalize": EQUALIZE} if args.equalized else {}) | METHODS[method]
    parts["learn"] = parts["learn"].format(options=args.learn).replace("{}", "")
    text = PIPELINE.format(granularity=granularity, bits=bits, **parts)
    return Recipe(name=method, summary="one way to round weights", pipeline=" ".join(text.split()))


def _compile(model: Path, result: Path, recipe: Recipe, calibration: Sequence[Feeds]) -> None:
    data = open_feeds("calibration", lambda: calibration, input_specs(load_model(model).model))
    options = CompileOptions(validate=False, bench=False, choose=False, tune=False)
    compile_model(model, result, recipe=recipe, data=data, options=options)


def _outputs(model: Path, feeds: Sequence[Feeds]) -> NDArray[np.float64]:
    """Return the logits, computed exactly in integers or in float."""
    session = open_session(model, Run())
    return np.concatenate([session.run(one)[session.output_names[0]] for one in feeds]).astype(np.float64)


def _compared(name: str, wanted: NDArray[np.float64], found: NDArray[np.float64]) -> dict[str, float]:
    noise = np.square(found - wanted).sum()
    agreed = float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return {
        f"{name} dB": round(float(10 * np.log10(np.square(wanted).sum() / noise)), 2),
        f"{name} %": round(100 * agreed, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
