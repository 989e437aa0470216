"""What stands after --data leads to the right reader or to a clear message."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import InputSpec, open_data
from onnxq.errors import DataError

SPECS = [InputSpec("x", np.dtype(np.float32), ("n", 2))]


def refusal(source: str) -> DataError:
    with pytest.raises(DataError) as caught:
        open_data(source, SPECS)
    return caught.value


def test_a_missing_file(tmp_path: Path) -> None:
    error = refusal(str(tmp_path / "data.npz"))
    assert error.message == "there is no such file or folder"
    assert str(error.hint).startswith("onnxq reads .npz, .npy")


def test_a_misspelt_file(tmp_path: Path) -> None:
    (tmp_path / "calibration.npz").touch()
    assert "calibration.npz'?" in str(refusal(str(tmp_path / "calibratoin.npz")).hint)


def test_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").touch()
    assert refusal(str(tmp_path / "data.parquet")).message == "no reader for .parquet"


def test_a_folder_with_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    assert refusal(str(tmp_path)).message == "nothing in this folder can be read as data"


def test_importing_the_readers_loads_no_heavy_package() -> None:
    heavy = {"onnx", "onnx_ir", "onnxruntime", "PIL", "tokenizers", "torch"}
    code = f"import sys, onnxq.calibration.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
