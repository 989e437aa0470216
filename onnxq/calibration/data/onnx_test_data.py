"""ONNX's own test data: test_data_set_N folders with input_0.pb, input_1.pb, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxq.calibration.data.base import ArrayRows, Chunk, InputSpec
from onnxq.errors import DataError
from onnxq.reading import UnreadableError, untrusted
from onnxq.runtime.batch import Array

SET_NAME = re.compile(r"test_data_set_(\d+)")
INPUT_NAME = re.compile(r"input_(\d+)\.pb")


@dataclass(frozen=True)
class TestDataSets:
    """Each folder is one feed; input_N.pb is the N-th input that the model requires."""

    folders: Sequence[Path]
    inputs: Sequence[InputSpec]
    warning: str | None = None

    def count(self) -> None:
        """Return None: how many samples a feed holds stands in its files."""

    def chunks(self) -> Iterator[Chunk]:
        """Read one folder after the other."""
        for folder in self.folders:
            arrays = {
                self._name(number): _read_tensor(path) for number, path in _numbered(folder, INPUT_NAME)
            }
            yield Chunk({name: ArrayRows(array) for name, array in arrays.items()}, str(folder), whole=True)

    def _name(self, number: int) -> str:
        ordered = sorted(self.inputs, key=lambda spec: not spec.required)
        return ordered[number].name if number < len(ordered) else f"input_{number}"


def find_sets(folder: Path) -> list[Path]:
    """Return the feeds in ``folder``: its test_data_set_N in order of N, itself, or nothing."""
    if _numbered(folder, INPUT_NAME):
        return [folder]
    return [path for _, path in _numbered(folder, SET_NAME)]


def _numbered(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    found = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def _read_tensor(path: Path) -> Array:
    import onnx

    try:
        with untrusted():
            tensor = onnx.load_tensor(str(path))
    except UnreadableError as error:
        raise _broken(path, str(error)) from error
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise _broken(path, "its values lie in another file, which is refused")
    try:
        with untrusted():
            return onnx.numpy_helper.to_array(tensor)
    except UnreadableError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, reason: str) -> DataError:
    return DataError(
        f"not a readable TensorProto ({reason})",
        where=str(path),
        hint="write it again with onnx.save_tensor, the values inside",
    )
