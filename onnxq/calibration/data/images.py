"""A folder of images, with labels from a table beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxq.calibration.data.base import ArrayRows, Chunk, InputSpec
from onnxq.calibration.data.options import DataOptions
from onnxq.calibration.data.preprocess import Preprocess, preprocess_for
from onnxq.calibration.data.records import Columns, Label, read_records
from onnxq.errors import DataError, TargetError
from onnxq.limits import PIXELS
from onnxq.reading import UnreadableError, untrusted

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may hold, whatever its name: of Pillow's others, some start programs."""
LABEL_FILES = ("labels.tsv", "labels.csv")
FILE_COLUMN, LABEL_COLUMN = "file", "label"


@dataclass(frozen=True)
class ImageFolder:
    """The images below a folder in the order of their paths, decoded one at a time."""

    folder: Path
    files: Sequence[Path]
    input_name: str
    preprocess: Preprocess
    labels: Mapping[str, Label] | None
    warning: str | None = None

    def count(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def chunks(self) -> Iterator[Chunk]:
        """Decode one image after the other."""
        for path in self.files:
            array = self.preprocess(_load(path), str(path))
            label = None if self.labels is None else ArrayRows(np.array([self._label(path)]))
            yield Chunk({self.input_name: ArrayRows(array[None])}, str(path), label, prepared=True)

    def _label(self, path: Path) -> Label:
        name = path.relative_to(self.folder).as_posix()
        labels = self.labels or {}
        if name not in labels:
            raise DataError(
                f"no label for {name}",
                where=str(self.folder),
                hint="add the file to the table of labels, or move it",
            )
        return labels[name]


def find_images(folder: Path) -> list[Path]:
    """Return the image files below ``folder``, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def open_images(folder: Path, inputs: Sequence[InputSpec], options: DataOptions) -> ImageFolder:
    """Return the reader of ``folder``.

    Raises:
        TargetError: Pillow is missing.
        DataError: The model does not take one image, or nothing says how to prepare it.

    """
    _import_pillow(folder)
    required = [spec for spec in inputs if spec.required]
    if len(required) != 1:
        raise DataError(
            f"the model takes {len(required)} inputs: {', '.join(spec.name for spec in required)}",
            where=str(folder),
            hint="an image folder serves one input; use .npz files or a function",
        )
    steps = preprocess_for(required[0], folder, options)
    return ImageFolder(folder, find_images(folder), required[0].name, steps, _read_labels(folder))


def _read_labels(folder: Path) -> dict[str, Label] | None:
    path = next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    records = read_records(path, Columns((FILE_COLUMN,), LABEL_COLUMN))
    return {record.texts[0]: record.label for record in records if record.label is not None}


def _import_pillow(folder: Path) -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise TargetError(
            "images need Pillow", where=str(folder), hint='pip install "onnxq[image]"'
        ) from error


def _load(path: Path) -> Image:
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # our own limit holds, which can be raised
    with ExitStack() as stack:
        with _reading(path):
            image = stack.enter_context(Image.open(path, formats=FORMATS))
        PIXELS.check(image.width * image.height, "the image has", str(path), DataError)
        with _reading(path):
            return ImageOps.exif_transpose(image)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what Pillow raises on damaged files into a DataError."""
    try:
        with untrusted():
            yield
    except UnreadableError as error:
        raise DataError(
            f"not a readable image ({error})", where=str(path), hint="remove or replace the file"
        ) from error
