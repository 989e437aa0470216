"""NumPy files, alone and in folders: what fits, and what each damaged file says."""

from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import DataOptions, Dataset, InputSpec, open_data
from onnxq.errors import DataError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
IMAGE = [InputSpec("x", F32, ("batch", 3, 4, 4))]
PAIR = [InputSpec("a", F32, ("n", 2)), InputSpec("b", I64, ("n", "t"))]


def images(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3, 4, 4)).astype(np.float32)


def joined(data: Dataset, name: str) -> np.ndarray:
    return np.concatenate([batch.feeds[name] for batch in data.batches()])


def test_an_npz_is_cut_into_batches_with_its_labels(tmp_path: Path) -> None:
    x, y = images(10), np.arange(10)
    np.savez(tmp_path / "d.npz", x=x, labels=y)
    data = open_data(str(tmp_path / "d.npz"), IMAGE, DataOptions(batch_size=4))
    assert data.samples == 10
    assert [batch.rows for batch in data.batches()] == [4, 4, 2]
    np.testing.assert_array_equal(joined(data, "x"), x)
    labels = [batch.labels for batch in data.batches() if batch.labels is not None]
    np.testing.assert_array_equal(np.concatenate(labels), y)


def test_compressed_and_npy_and_folders_hold_the_same_samples(tmp_path: Path) -> None:
    x = images(6)
    np.savez_compressed(tmp_path / "c.npz", x=x)
    np.save(tmp_path / "x.npy", x)
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    many.mkdir()
    for index in range(6):
        np.save(one / f"{index}.npy", x[index])  # a sample for each file, without batch axis
    np.savez(many / "0.npz", x=x[:4])
    np.savez(many / "1.npz", x=x[4:])
    names = ["c.npz", "x.npy", "one", "many"]
    sets = [open_data(str(tmp_path / name), IMAGE, DataOptions(batch_size=3)) for name in names]
    for data in sets:
        assert [batch.rows for batch in data.batches()] == [3, 3]
        assert data.samples == 6
        np.testing.assert_array_equal(joined(data, "x"), x)
    assert len({data.digest() for data in sets}) == 1


def test_arrays_stored_by_column_are_read_too(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T
    np.save(tmp_path / "x.npy", x)
    data = open_data(str(tmp_path / "x.npy"), [InputSpec("x", F32, ("n", 3))], DataOptions(batch_size=3))
    np.testing.assert_array_equal(joined(data, "x"), x)


def test_other_byte_orders_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images(2).astype(">f4"))
    np.testing.assert_array_equal(joined(open_data(str(tmp_path / "x.npy"), IMAGE), "x"), images(2))


def test_files_of_other_lengths_are_not_joined(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index, length in enumerate([5, 5, 7]):
        a, b = rng.normal(size=(1, 2)).astype(np.float32), rng.integers(0, 9, (1, length))
        np.savez(tmp_path / f"{index}.npz", a=a, b=b)
    shapes = [batch.feeds["b"].shape for batch in open_data(str(tmp_path), PAIR).batches()]
    assert shapes == [(2, 5), (1, 7)]


def test_a_label_column_names_the_array_of_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(2), digit=np.array([3, 7]))
    data = open_data(str(tmp_path / "d.npz"), IMAGE, DataOptions(label_column="digit"))
    labels = next(data.batches()).labels
    assert labels is not None
    assert labels.tolist() == [3, 7]
    with pytest.raises(DataError, match="no array 'dogit' for the labels") as caught:
        next(open_data(str(tmp_path / "d.npz"), IMAGE, DataOptions(label_column="dogit")).batches())
    assert caught.value.hint == "it has: digit, x"


def test_memory_is_bounded_by_the_batch(tmp_path: Path) -> None:
    """Reading 64 MB must not hold more than a few batches of 256 kB; ten of them leave room for copies."""
    import tracemalloc

    np.savez(tmp_path / "d.npz", x=np.zeros((256, 256, 256), np.float32))
    data = open_data(
        str(tmp_path / "d.npz"), [InputSpec("x", F32, ("n", 256, 256))], DataOptions(batch_size=1)
    )
    tracemalloc.start()
    for _ in data.batches():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 256 * 1024


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="pickled Python objects, which are refused") as caught:
        next(open_data(str(tmp_path / "x.npy"), IMAGE).batches())
    assert "np.save" in str(caught.value.hint)


@pytest.mark.parametrize("keep", [0, 5, 90, 300])
def test_a_truncated_npy_says_so(tmp_path: Path, keep: int) -> None:
    np.save(tmp_path / "x.npy", images(10))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"x.npy: (not a readable NumPy file|the file is cut short)"):
        list(open_data(str(tmp_path / "x.npy"), IMAGE).batches())


@pytest.mark.parametrize("keep", [0, 100, 1500])
def test_a_truncated_npz_says_so(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "d.npz", x=images(10))
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[:keep])
    with pytest.raises(DataError, match=r"d.npz: not a readable NumPy file .File is not a zip file"):
        list(open_data(str(tmp_path / "d.npz"), IMAGE).batches())


def test_a_damaged_byte_in_an_npz_is_noticed(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(10))
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[700] ^= 255
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        list(open_data(str(tmp_path / "d.npz"), IMAGE).batches())


def test_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", a=np.zeros((4, 2), np.float32), b=np.zeros((5, 3), np.int64))
    with pytest.raises(DataError, match="different numbers of samples: a 4, b 5"):
        next(open_data(str(tmp_path / "d.npz"), PAIR).batches())


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=images(4), y=np.arange(3))
    with pytest.raises(DataError, match="different numbers of samples: labels 3, x 4"):
        next(open_data(str(tmp_path / "d.npz"), IMAGE).batches())
