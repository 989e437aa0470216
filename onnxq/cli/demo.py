"""onnxq demo: the whole job on a small model that comes with onnxq."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.compile import present
from onnxq.cli.console import progress, remark
from onnxq.cli.options import Json

if TYPE_CHECKING:
    from onnxq.calibration.data import Array, Feeds

BATCH = 50
"""Divides the numbers of images, so that no batch is smaller than the others."""
Folder = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where the results go.")]


def run(*, output: Folder = Path("onnxq-demo"), as_json: Json = False) -> None:
    """Do the whole job on a small model that comes with onnxq.

    It is a vision transformer for handwritten digits. Its ranges come from 200
    training images, its accuracy from 500 images that it has never seen.
    """
    from onnxq.calibration.data import input_specs, open_feeds
    from onnxq.comparison import CompileOptions
    from onnxq.compile import compile_model
    from onnxq.digits import DIGITS_MODEL, load_digits_split
    from onnxq.ir.store import load_model
    from onnxq.recipe import load_recipe
    from onnxq.runtime.metrics import load_metric

    split = load_digits_split()
    inputs = input_specs(load_model(DIGITS_MODEL).model)
    output.mkdir(parents=True, exist_ok=True)
    remark("compiling a vision transformer trained on scikit-learn's digits")
    with progress() as on_progress:
        compiled = compile_model(
            DIGITS_MODEL,
            output / "digits_vit.int8.onnx",
            recipe=load_recipe("cpu"),
            data=open_feeds("digits, for calibration", lambda: _batches(split.calibration_images), inputs),
            options=CompileOptions(
                threads=1,
                bench_batch_size=BATCH,
                validation_data=open_feeds(
                    "digits, held out", lambda: _batches(split.test_images, split.test_labels), inputs
                ),
                metric=load_metric("top1"),
            ),
            on_progress=on_progress,
        )
    present(compiled.output, compiled.manifest, as_json=as_json, passed=True)


def _batches(images: Array, labels: Array | None = None) -> Iterator[Feeds | tuple[Feeds, Array]]:
    """Yield the images in batches, with their labels if there are any."""
    for start in range(0, len(images), BATCH):
        feeds = {"image": images[start : start + BATCH]}
        yield feeds if labels is None else (feeds, labels[start : start + BATCH])
