"""Grids for the weights of attention, as PTQ4ViT's paper and its reference code have them, on real maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxq.quant.clipping import FINE
from onnxq.quant.encodings import Twin, affine_encoding, limit_of_bits, symmetric_encoding
from onnxq.quant.twins import MOST_HALVINGS
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Array = NDArray[np.float32]
Grid = Callable[[Array], Array]
SCALES = FINE.coarse_factors
"""Where the range of a grid with one step ends, as shares of the largest value."""


QUERIES = 8
"""Of so many queries one is looked at."""


class Layer(NamedTuple):
    """The weights of attention of one layer, shape (..., Q, T), and the values that they weigh."""

    weights: Array
    values: Array


def layers(model: Path, feed: str, images: Array) -> list[Layer]:
    """Return what each product of a Softmax and values reads, for some of its queries, over all images."""
    with TemporaryDirectory() as folder:
        names, path = _with_maps(model, Path(folder, "maps.onnx"))
        found = open_session(path, Run(threads=2)).run({feed: images})
    return [Layer(found[weights][..., ::QUERIES, :], found[values]) for weights, values in names]


def _with_maps(model: Path, path: Path) -> tuple[list[tuple[str, str]], Path]:
    """Write the model with what its products of attention read as outputs."""
    proto = onnx.load(model)
    made = {output for node in proto.graph.node if node.op_type == "Softmax" for output in node.output}
    names = [
        (node.input[0], node.input[1])
        for node in proto.graph.node
        if node.op_type == "MatMul" and node.input[0] in made
    ]
    for name in dict.fromkeys(name for pair in names for name in pair):
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(proto, path)
    return names, path


def families(bits: int) -> dict[str, list[Grid]]:
    """Return the grids that each way to quantize the weights chooses from, by its name."""
    levels = 2 ** (bits - 1)
    signed, unsigned = (limit_of_bits(dtype, bits) for dtype in ("int8", "uint8"))
    return {
        "signed, one step": [symmetric_encoding(end, limit=signed).restored for end in SCALES],
        "unsigned, one step": [affine_encoding(0.0, end, limit=unsigned).restored for end in SCALES],
        "twin, as coded": [_as_coded(2.0**-shift, levels) for shift in range(MOST_HALVINGS + 1)],
        "twin, the paper's formula": [
            Twin.above_zero(1.0, exponent, levels).restored for exponent in range(1, bits)
        ],
        "twin, any border": [
            Twin.above_zero(1.0, exponent, levels).restored for exponent in range(1, MOST_HALVINGS + 1)
        ],
    }


def _as_coded(border: float, levels: int) -> Grid:
    """Return what the reference code computes: both parts clipped and quantized, and added up.

    The border is not taken off the coarse part. So 0 becomes the border's multiple of the coarse step.
    """
    fine, coarse = border / (levels - 1), 1 / (levels - 1)

    def restored(weights: Array) -> Array:
        high = np.clip(np.rint(np.clip(weights, border, 1) / coarse), 0, levels - 1) * coarse
        low = np.clip(np.rint(np.clip(weights, 0, border) / fine), 0, levels - 1) * fine
        return np.asarray(high + low, np.float32)

    return restored


def errors(model: Path, feed: str, images: Array, bits: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each family: the SQNR of softmax times values, mean and worst over the layers.

    Each layer's grid errs least on the first half of the images; it is judged on the second.
    """
    half = len(images) // 2
    seen, judged = (layers(model, feed, part) for part in (images[:half], images[half:]))
    for name, grids in families(bits).items():
        decibels = [_db(_best(grids, one), other) for one, other in zip(seen, judged, strict=True)]
        yield {
            "bits": bits,
            "grid": name,
            "SQNR dB, mean": round(float(np.mean(decibels)), 1),
            "worst layer": round(float(np.min(decibels)), 1),
        }


def _best(grids: list[Grid], layer: Layer) -> Grid:
    return min(grids, key=lambda grid: _error(grid, layer))


def _error(grid: Grid, layer: Layer) -> float:
    error = (grid(layer.weights) - layer.weights) @ layer.values
    return float(np.square(error, dtype=np.float64).sum())


def _db(grid: Grid, layer: Layer) -> float:
    signal = float(np.square(layer.weights @ layer.values, dtype=np.float64).sum())
    return 10 * float(np.log10(signal / _error(grid, layer)))
