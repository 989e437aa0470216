"""Gradients of whole models against PyTorch in float64, and their time against that of the forward pass.

For each model the gradients of its weights, its inputs of floats and what its layers compute are compared,
one by one: the norm of the difference over the norm, beside that of PyTorch in float32. Timed is the model
alone, with the gradients of what its layers compute (as a sensitivity needs them), and with those of its
weights (as training does).

What functions with a kink read is held to the float32 numbers in both: where one of a million elements falls
on the other side of a ReLU's, gradients differ by what no rounding explains, and neither is wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch_graph
from measuring import parser, show
from numpy.typing import NDArray

from onnxq.autodiff import gradient_model, prepared
from onnxq.autodiff.paths import Paths
from onnxq.ir.module import LINEAR, GraphModule, is_standard, name_of
from onnxq.ir.store import load_model
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session

Feeds = Mapping[str, NDArray[Any]]
ASIDE = ("OneHot", "Range", "Resize")
"""Floats that these read are no weights."""
KINKED = ("Abs", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "MaxPool", "Min", "PRelu", "Relu")

NOTHING = 1e-9
"""A gradient so much smaller than the median is 0 but for rounding, as that of a bias before a Softmax."""


def main() -> int:
    """Print a line for each model."""
    options = parser(__doc__)
    options.add_argument("models", nargs="+", help="MODEL.onnx, or MODEL.onnx=FOLDER with samples as npz")
    options.add_argument("--rounds", type=int, default=5, help="how often each form is timed")
    args = options.parse_args()
    rows = [_row(one, args.rounds) for one in args.models]
    title = "Gradients in float32, against PyTorch in float64"
    show(title, rows, ["times are over that of the model alone, the fastest of each"], as_json=args.json)
    return 0


def _row(said: str, rounds: int) -> dict[str, Any]:
    path, _, folder = said.partition("=")
    module = prepared(load_model(path))
    feeds = _feeds(module, Path(folder) if folder else None)
    of = next(name_of(value) for value in module.graph.outputs if _is_float(value))
    weights, layers = _sources(module, of)
    errors, others = _errors(module, feeds, of, [*weights, *layers])
    times = _times(
        [module, *(gradient_model(module, of=of, wrt=one) for one in (layers, weights))], feeds, rounds
    )
    return {
        "model": Path(path).stem,
        "gradients": len(errors),
        "median error": float(np.median(list(errors.values()))),
        "largest": max(errors.values()),
        "of": max(errors, key=lambda name: errors[name]),
        "PyTorch": max(others.values()),
        "ms": times[0] * 1e3,
        "with layers": times[1] / times[0],
        "with weights": times[2] / times[0],
    }


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _feeds(module: GraphModule, folder: Path | None) -> Feeds:
    if folder is not None:
        with np.load(min(folder.glob("*.npz"))) as arrays:
            return {value.name: arrays[value.name] for value in module.graph.inputs}
    rng = np.random.default_rng(0)
    feeds = {}
    for value in module.graph.inputs:
        shape = [axis if isinstance(axis, int) else 1 for axis in value.shape]
        feeds[value.name] = rng.normal(size=shape).astype(value.dtype.numpy())
    return feeds


def _sources(module: GraphModule, of: str) -> tuple[list[str], list[str]]:
    """Return the names of weights and inputs, and of what layers compute, on which the output depends."""
    aside = {value for node in module.graph if is_standard(node, *ASIDE) for value in node.inputs[1:]}
    constants = [v for v in module.graph.initializers.values() if v not in aside and v.const_value.size > 1]
    weights = [value for value in (*constants, *module.graph.inputs) if _is_float(value)]
    layers = [node.outputs[0] for node in module.graph if is_standard(node, *LINEAR)]
    ways = Paths.between(list(module.graph), [module.by_name()[of]], [*weights, *layers])
    return tuple([name_of(v) for v in some if v in ways.made_into] for some in (weights, layers))


def _errors(
    module: GraphModule, feeds: Feeds, of: str, wrt: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the error of each gradient, and what PyTorch's would be in the same precision."""
    model, kinks = ir.to_proto(module.model), _read_at_kinks(module)
    session = _open(gradient_model(module, of=of, wrt=wrt, seeded=True), kinks)
    shape = _open(module).run(feeds)[of].shape
    seed = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = session.run({**feeds, "seed": seed})
    held = {name: found[name] for name in kinks}
    exact, other = (
        torch_graph.gradients(model, feeds, of, wrt, seed, held, dtype)
        for dtype in (torch.float64, torch.float32)
    )
    return _off({name: found[f"{name}_grad"] for name in wrt}, exact), _off(other, exact)


def _off(found: Mapping[str, NDArray[Any]], exact: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return how far each gradient is off, but for those that are nothing."""
    sizes = {name: float(np.linalg.norm(array)) for name, array in exact.items()}
    some = NOTHING * float(np.median(list(sizes.values())))
    return {
        name: float(np.linalg.norm(found[name] - exact[name])) / size
        for name, size in sizes.items()
        if size > some
    }


def _read_at_kinks(module: GraphModule) -> list[str]:
    """Return the names of inner values that decide on which side of a kink an element lies."""
    outputs = set(module.graph.outputs)
    read = [value for node in module.graph if is_standard(node, *KINKED) for value in node.inputs]
    inner = [v for v in read if v is not None and v.producer() is not None and v not in outputs]
    return sorted({name_of(value) for value in inner})


def _open(module: GraphModule, extra: Sequence[str] = ()) -> Session:
    return open_session(ir.to_proto(module.model), Run(), extra_outputs=extra)


def _times(modules: Sequence[GraphModule], feeds: Feeds, rounds: int) -> list[float]:
    sessions = [_open(module) for module in modules]
    seconds = [[_seconds(session, feeds) for session in sessions] for _ in range(rounds + 1)]
    return [min(each) for each in zip(*seconds[1:], strict=True)]


def _seconds(session: Session, feeds: Feeds) -> float:
    begun = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
