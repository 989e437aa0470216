"""Damaged and hostile data files are the user's side: one clear error, in little memory."""

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxq.calibration.data import DataOptions, InputSpec, open_data
from onnxq.errors import DataError

ROWS = InputSpec("x", np.dtype(np.float32), ("N", 9))
PIXELS = InputSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
TOKENS = InputSpec("input_ids", np.dtype(np.int64), ("N", "T"))
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"[PAD]": 0, "a": 1}, "unk_token": "a"},
}


def refusal(source: Path, spec: InputSpec = ROWS, options: DataOptions | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        for _ in open_data(str(source), [spec], options).batches():
            pass
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def npy(header: str, version: bytes = b"\x01\x00", size: int | None = None, data: int = 144) -> bytes:
    text = header.encode()
    length = (len(text) if size is None else size).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text + bytes(data)


def npz(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return path


FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (((4, 9)"),
        npy(FLOATS % "(True, 9)"),
        npy(FLOATS % "(-4, 9)"),
        npy(FLOATS % "(4.0, 9)"),
        npy(FLOATS % f"({'(' * 200}4{')' * 200}, 9)"),
        npy("{'descr': 'no', 'fortran_order': False, 'shape': (4, 9), }"),
        npy(FLOATS % "(4, 9)", b"\x02\x00", size=1 << 31),
        npy(FLOATS % "(4, 9)", b"\x09\x00"),
        npy(FLOATS % "(4, 9)")[:20],
    ],
)
def test_a_damaged_header_is_refused(content: bytes, tmp_path: Path) -> None:
    error = refusal(npz(tmp_path / "d.npz", content))
    assert error.message.startswith("not a readable NumPy file (")
    assert error.where == f"{tmp_path / 'd.npz'}[x.npy]"
    (tmp_path / "d.npy").write_bytes(content)
    assert refusal(tmp_path / "d.npy").message.startswith("not a readable NumPy file (")


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", x=np.ones((4, 9), np.float32))
    raw = bytearray((tmp_path / "e.npz").read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.npz").write_bytes(raw)
    assert "encrypted" in refusal(tmp_path / "e.npz").message


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert "pickled Python objects, which are refused" in refusal(tmp_path / "o.npy").message


def test_the_shape_of_an_array_in_fortran_order_is_compared_before_it_is_read(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "f.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<f4", "fortran_order": True, "shape": (1 << 24, 2)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(32):
            file.write(bytes(1 << 22))
    tracemalloc.start()
    error = refusal(tmp_path / "f.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert error.message == "input 'x': the model wants float32[N,9], the data has float32[16777216,2]"
    assert peak < 10_000_000  # the array has 128 MB


def test_a_sample_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = npy(FLOATS % "(2, 1000000000000)")
    spec = InputSpec("x", np.dtype(np.float32), ("N", "T"))
    error = refusal(npz(tmp_path / "d.npz", content), spec)
    assert error.message == (
        "reading [2, 1000000000000] at once takes 8,000,000,000,000 bytes, and the limit is 4,294,967,296"
    )
    monkeypatch.setenv("ONNXQ_MAX_ITEM_BYTES", "100")
    np.save(tmp_path / "f.npy", np.asfortranarray(np.ones((4, 9), np.float32)))
    assert "144 bytes, and the limit is 100" in refusal(tmp_path / "f.npy").message


def test_an_array_in_fortran_order_is_read_in_batches(tmp_path: Path) -> None:
    array = np.arange(90, dtype=np.float32).reshape(10, 9)
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    batches = list(open_data(str(tmp_path / "f.npy"), [ROWS], DataOptions(batch_size=4)).batches())
    np.testing.assert_array_equal(np.concatenate([batch.feeds["x"] for batch in batches]), array)


def text_file(folder: Path, name: str, content: str, config: Any = None) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "tokenizer_config.json").write_text(text)
    (folder / name).write_text(content)
    return folder / name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"padding_side": "up"}, "padding_side is 'up', neither 'left' nor 'right'"),
        ({"padding_side": 5}, "padding_side is 5, neither 'left' nor 'right'"),
        ("[" * 5000, "not valid JSON (it is nested too deeply)"),
    ],
)
def test_a_damaged_tokenizer_config_is_refused(config: Any, message: str, tmp_path: Path) -> None:
    path = text_file(tmp_path, "t.txt", "a a\n", config)
    error = refusal(path, TOKENS, DataOptions(tokenizer=tmp_path))
    assert error.message == message
    assert error.where == str(tmp_path / "tokenizer_config.json")


def test_an_infinite_model_max_length_means_no_limit(tmp_path: Path) -> None:
    path = text_file(tmp_path, "t.txt", "a a\n", {"model_max_length": float("inf")})
    (batch,) = open_data(str(path), [TOKENS], DataOptions(tokenizer=tmp_path)).batches()
    assert batch.feeds["input_ids"].tolist() == [[1, 1]]


def test_labels_that_are_lists_are_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path, "t.jsonl", '{"text": "a", "label": [1, 2]}\n')
    error = refusal(path, TOKENS, DataOptions(tokenizer=tmp_path))
    assert error.message == "the label is a list, not a number or a string"


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_a_line_without_end_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXQ_MAX_LINE_CHARACTERS", "1000")
    path = text_file(tmp_path, f"t.{suffix}", "text\n" + "a" * 5000)
    options = DataOptions(tokenizer=tmp_path)
    if suffix == "jsonl":
        path.write_text("a" * 5000)
    error = refusal(path, TOKENS, options)
    assert error.message == "a line has at least 1,001 characters, and the limit is 1,000"
    assert error.hint == "if you trust the file, raise the limit: ONNXQ_MAX_LINE_CHARACTERS=1024"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size": 0}, "it would be resized or cropped to 0 x 0 pixels"),
        ({"size": {"height": float("inf"), "width": 8}}, "a value is not of the expected type"),
        ({"size": 8, "resample": 99}, "a value is not of the expected type (resample 99)"),
        ({"do_center_crop": True, "crop_size": 40000}, "resized or cropped to 40000 x 40000 it has"),
        ({"size": {"shortest_edge": 10**9}}, "resized or cropped to 1000000000 x 1000000000 it has"),
        ({"size": {"shortest_edge": 8}, "crop_pct": 1e-300}, "resized or cropped to"),
        ({"size": 8, "image_mean": 0.5, "image_std": 0}, "a value is not of the expected type"),
    ],
)
def test_a_damaged_preprocessor_config_is_refused(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.ppm")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert message in refusal(tmp_path, PIXELS).message


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (40_000, 4_000)).save(tmp_path / "0.png")
    tracemalloc.start()
    error = refusal(tmp_path, PIXELS, DataOptions(scale=1.0, size=(8, 8)))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert error.message == "the image has 160,000,000 pixels, and the limit is 134,217,728"


def test_what_a_name_calls_an_image_starts_no_program(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "EPS")
    (tmp_path / "0.png").write_bytes(file.getvalue())
    options = DataOptions(scale=1.0, size=(8, 8))
    assert refusal(tmp_path, PIXELS, options).message.startswith("not a readable image (")
