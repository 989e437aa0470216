"""ONNX test_data_set folders."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.calibration.data import InputSpec, open_data
from onnxq.errors import DataError

F32 = np.dtype(np.float32)
SPECS = [
    InputSpec("w", F32, (2,), required=False),
    InputSpec("a", F32, ("n", 2)),
    InputSpec("b", np.dtype(np.int64), ("n",)),
]


def write_set(folder: Path, number: int) -> Path:
    target = folder / f"test_data_set_{number}"
    target.mkdir()
    arrays = [np.full((1, 2), number, np.float32), np.array([number])]
    for index, array in enumerate(arrays):
        onnx.save_tensor(onnx.numpy_helper.from_array(array), target / f"input_{index}.pb")
    (target / "output_0.pb").write_bytes(b"")
    return target


def test_sets_are_read_in_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        write_set(tmp_path, number)
    feeds = [batch.feeds for batch in open_data(str(tmp_path), SPECS).batches()]
    assert [feed["b"].tolist() for feed in feeds] == [[2], [10]]
    assert feeds[0]["a"].tolist() == [[2, 2]]


def test_a_single_set_may_be_named(tmp_path: Path) -> None:
    data = open_data(str(write_set(tmp_path, 0)), SPECS)
    assert [batch.rows for batch in data.batches()] == [1]
    assert data.samples is None


def test_a_missing_file_is_a_missing_input(tmp_path: Path) -> None:
    (write_set(tmp_path, 0) / "input_1.pb").unlink()
    with pytest.raises(DataError, match=r"test_data_set_0: input 'b': int64\[n\] is missing"):
        next(open_data(str(tmp_path), SPECS).batches())


def test_one_file_too_many_is_noted(tmp_path: Path) -> None:
    folder = write_set(tmp_path, 0)
    for index in (2, 3):
        onnx.save_tensor(onnx.numpy_helper.from_array(np.ones(2, np.float32)), folder / f"input_{index}.pb")
    data = open_data(str(tmp_path), SPECS)
    assert sorted(next(data.batches()).feeds) == ["a", "b", "w"]
    assert data.notes == ("not an input of the model, ignored: input_3",)


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    path = write_set(tmp_path, 0) / "input_0.pb"
    content = path.read_bytes()
    path.write_bytes(content[:-3] if damage == "cut" else b"\xff" * 20)
    with pytest.raises(DataError, match=r"input_0.pb: not a readable TensorProto \(") as caught:
        next(open_data(str(tmp_path), SPECS).batches())
    assert caught.value.hint == "write it again with onnx.save_tensor, the values inside"


def test_values_in_other_files_are_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path, 0) / "input_0.pb"
    tensor = onnx.load_tensor(path)
    onnx.external_data_helper.set_external_data(tensor, "../../secret.bin")
    tensor.ClearField("raw_data")
    path.write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="its values lie in another file, which is refused"):
        next(open_data(str(tmp_path), SPECS).batches())


def test_onnx_own_backend_cases_fit_their_models() -> None:
    """The onnx wheel carries models with test data; each has to be accepted as it is."""
    import onnx_ir as ir

    from onnxq.calibration.data import input_specs

    simple = Path(onnx.__file__).parent / "backend" / "test" / "data" / "simple"
    cases = [folder for folder in sorted(simple.iterdir()) if "sequence" not in folder.name]
    assert cases
    for folder in cases:
        specs = input_specs(ir.load(folder / "model.onnx"))
        assert list(open_data(str(folder), specs).batches()), folder.name
