"""Find the reader for what stands after ``--data``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from onnxq.calibration.data import images, npz, records
from onnxq.calibration.data.base import InputSpec, Source
from onnxq.calibration.data.dataset import Dataset, batch_size_for
from onnxq.calibration.data.function import SOURCE, FunctionSource, load_function
from onnxq.calibration.data.images import open_images
from onnxq.calibration.data.npz import ArrayFiles
from onnxq.calibration.data.onnx_test_data import TestDataSets, find_sets
from onnxq.calibration.data.options import DataOptions
from onnxq.calibration.data.random import RandomSource
from onnxq.calibration.data.text import open_text
from onnxq.errors import DataError, did_you_mean

RANDOM = "random"
FORMATS = (
    "onnxq reads .npz, .npy, .txt, .csv, .tsv, .jsonl, folders of arrays, of images or of test_data_set_N, "
    "package.module:function, and the word random"
)


def open_data(source: str, inputs: Sequence[InputSpec], options: DataOptions | None = None) -> Dataset:
    """Return the data that ``source`` names, ready to be read for a model with ``inputs``.

    Args:
        source: A path, ``package.module:function``, or ``random``.
        inputs: What the model wants; see ``input_specs``.
        options: How to read it.

    Raises:
        DataError: There is nothing of that name, or no reader for it.
        TargetError: A reader needs a package that is not installed.

    """
    options = options or DataOptions()
    return Dataset(source, inputs, _find_source(source, inputs, options), options)


def open_feeds(
    name: str,
    make: Callable[[], Iterable[Any]],
    inputs: Sequence[InputSpec],
    options: DataOptions | None = None,
) -> Dataset:
    """Return data from a Python callable that yields feeds, or pairs of feeds and labels.

    Args:
        name: For messages.
        make: Called anew for each reading, and has to give the same feeds each time.
        inputs: What the model wants.
        options: How to read it.

    """
    return Dataset(name, inputs, FunctionSource(name, make), options or DataOptions())


def _find_source(source: str, inputs: Sequence[InputSpec], options: DataOptions) -> Source:
    if source == RANDOM:
        return RandomSource(inputs, options)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, inputs, options)
    if path.is_file():
        return _open_file(path, inputs, options)
    if SOURCE.fullmatch(source):
        return FunctionSource(source, load_function(source))
    beside = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(str(path), beside)
    raise DataError(
        "there is no such file or folder", where=source, hint=near if near and "mean" in near else FORMATS
    )


def _open_file(path: Path, inputs: Sequence[InputSpec], options: DataOptions) -> Source:
    if path.suffix in npz.SUFFIXES:
        return ArrayFiles([path], inputs, options)
    if path.suffix in records.SUFFIXES:
        return open_text(path, inputs, options, batch_size_for(inputs, options))
    raise DataError(f"no reader for {path.suffix or 'a file without suffix'}", where=str(path), hint=FORMATS)


def _open_folder(path: Path, inputs: Sequence[InputSpec], options: DataOptions) -> Source:
    if sets := find_sets(path):
        return TestDataSets(sets, inputs)
    if arrays := sorted(file for file in path.iterdir() if file.suffix in npz.SUFFIXES):
        return ArrayFiles(arrays, inputs, options)
    if images.find_images(path):
        return open_images(path, inputs, options)
    raise DataError("nothing in this folder can be read as data", where=str(path), hint=FORMATS)
