"""What it takes to quantize the weights of a large model with external data, in seconds and in memory.

The model is a chain of 12 products with random weights of 4096 x 12288, 2.4 GB. Every compilation is a
process of its own that neither times the models nor compares them, which would be ONNX Runtime's time and
memory; the result is opened once. ``copy`` is what copying the model's files takes in the same run. Memory is
the largest resident one, pages of mapped files included. Exits with 1 if something that is wanted is missed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from measuring import parser, ran, show_tables
from onnx import TensorProto, helper
from rich.console import Console

from onnxq.ir.store import model_files, model_size

ONNXQ = Path(sys.executable).with_name("onnxq")
"""The command of this environment."""
LAYERS, NARROW, WIDE = 12, 4096, 12288
RECIPES = {"int8 weights": "weight-only", "4 bits in blocks": "cpu-size", "dynamic": "cpu-dynamic"}
ALONE = ("--no-bench", "--no-validate", "--no-tune")
MOST_COPIES, MOST_GB = 3.0, 1.5
"""So many times the seconds of a copy, and so much memory."""
SETTLED = 3.0
"""Seconds after which the times of a new file tell when it is written again."""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=3, help="each number is the median of so many runs")
    args = options.parse_args()
    with TemporaryDirectory() as place:
        model = _model(Path(place))
        time.sleep(SETTLED)
        runs = [list(_round(model, Path(place))) for _ in range(args.repeats)]
        size = model_size(model)
    rows = [_row(name, [one[index] for one in runs]) for index, name in enumerate(("copy", *RECIPES))]
    notes = [
        f"{size / 1e9:.2f} GB; medians of {args.repeats} rounds, in which a copy comes first.",
        f"Wanted: at most {MOST_COPIES:g} times the seconds of the copy, and {MOST_GB} GB.",
    ]
    show_tables("Weights that stream from file to file", {"Commands": rows}, notes, as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in rows))


def _model(folder: Path) -> Path:
    """Write the model: its weights go to the data file one after the other."""
    path, rng = folder / "large.onnx", np.random.default_rng(0)
    nodes, weights, start = [], [], 0
    with (folder / "large.data").open("wb") as file:
        for index in range(LAYERS):
            shape = (NARROW, WIDE) if index % 2 == 0 else (WIDE, NARROW)
            array = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
            file.write(array.tobytes())
            weights.append(_reference(f"w{index}", shape, "large.data", start))
            nodes.append(helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"h{index}"]))
            nodes.append(helper.make_node("Relu", [f"h{index}"], [f"x{index + 1}"]))
            start += array.nbytes
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", NARROW]) for name in ("x0", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def _reference(name: str, shape: tuple[int, int], location: str, start: int) -> onnx.TensorProto:
    weight = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", start), ("length", 4 * shape[0] * shape[1])):
        weight.external_data.add(key=key, value=str(value))
    return weight


Taken = tuple[float, float, int | None]
"""Seconds, as a multiple of the copy's, and bytes of memory."""


def _round(model: Path, folder: Path) -> Iterator[Taken]:
    """Copy and compile once, and yield what each took."""
    copy = _copied(model_files(model), folder / "copy")
    yield copy, 1.0, None
    for recipe in RECIPES.values():
        Console(stderr=True, highlight=False).print(recipe)
        with TemporaryDirectory(dir=folder) as place:
            command = [ONNXQ, "compile", model, "-o", Path(place, "out.onnx"), "--recipe", recipe, *ALONE]
            seconds, peak = ran(list(map(str, command)))
        yield seconds, seconds / copy, peak


def _copied(files: Sequence[Path], target: Path) -> float:
    """Return the seconds that copying takes; unlike onnxq's, it does not wait for the disk."""
    target.mkdir()
    begun = time.perf_counter()
    for file in files:
        shutil.copyfile(file, target / file.name)
    seconds = time.perf_counter() - begun
    shutil.rmtree(target)
    return seconds


def _row(name: str, taken: Sequence[Taken]) -> dict[str, Any]:
    seconds, copies = (median(one[part] for one in taken) for part in (0, 1))
    memory = max((one[2] or 0) / 1e9 for one in taken)
    reached = copies <= MOST_COPIES and memory <= MOST_GB
    return {
        "command": name,
        "seconds": round(seconds, 1),
        "copies": round(copies, 2),
        "GB": round(memory, 2) if memory else None,
        "verdict": "ok" if reached else "missed",
    }


if __name__ == "__main__":
    sys.exit(main())
