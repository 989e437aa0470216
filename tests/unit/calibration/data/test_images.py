"""Image folders and how their pixels become feeds."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxq.calibration.data import DataOptions, Dataset, InputSpec, open_data
from onnxq.errors import DataError, TargetError

F32 = np.dtype(np.float32)
FREE = [InputSpec("x", F32, ("n", 3, "h", "w"))]


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(folder: Path, name: str, array: np.ndarray, config: dict[str, Any] | None = None) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(folder / name)
    if config is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(config))


def read(folder: Path, inputs: list[InputSpec] = FREE, **options: Any) -> Dataset:
    return open_data(str(folder), inputs, DataOptions(**options))


def only(data: Dataset) -> np.ndarray:
    return next(data.batches()).feeds["x"]


def test_mean_std_scale_layout_and_order(tmp_path: Path) -> None:
    raw = pixels(5, 4)
    save(tmp_path, "a.png", raw)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = (raw / 255 - mean) / std
    first = only(read(tmp_path, mean=mean, std=std))
    last = only(read(tmp_path, [InputSpec("x", F32, ("n", "h", "w", 3))], mean=mean, std=std))
    bgr = only(read(tmp_path, scale=1.0, mean=(1.0, 2.0, 3.0), channel_order="bgr"))
    # float32: the raw values are at most 1/0.25 = 4 (or 255), each of three operations rounds once
    np.testing.assert_allclose(first[0], expected.transpose(2, 0, 1), atol=3 * 4 * 2**-24)
    np.testing.assert_allclose(last[0], expected, atol=3 * 4 * 2**-24)
    np.testing.assert_array_equal(bgr[0], (raw[..., ::-1] - np.array([1.0, 2.0, 3.0])).transpose(2, 0, 1))


def test_grey_models_get_one_channel(tmp_path: Path) -> None:
    save(tmp_path, "a.png", np.full((4, 4, 3), 51, np.uint8))
    grey = only(read(tmp_path, [InputSpec("x", F32, (1, 1, 4, 4))], scale=1 / 51))
    np.testing.assert_allclose(grey, np.ones((1, 1, 4, 4)), rtol=2**-22)


def test_the_models_size_is_used_where_nothing_else_says_one(tmp_path: Path) -> None:
    save(tmp_path, "a.png", pixels(9, 7))
    assert only(read(tmp_path, [InputSpec("x", F32, (1, 3, 6, 5))], scale=1.0)).shape == (1, 3, 6, 5)
    assert only(read(tmp_path, scale=1.0, size=(3, 2))).shape == (1, 3, 3, 2)


def test_images_of_other_sizes_are_not_joined(tmp_path: Path) -> None:
    for index, side in enumerate([4, 4, 6]):
        save(tmp_path, f"{index}.png", pixels(side, side))
    assert [batch.rows for batch in read(tmp_path, scale=1.0).batches()] == [2, 1]


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"size": {"height": 8, "width": 6}}, (8, 6)),
        ({"size": 8}, (8, 8)),
        ({"size": {"shortest_edge": 10}}, (10, 20)),
        ({"size": {"shortest_edge": 10, "longest_edge": 16}}, (8, 16)),
        ({"size": {"shortest_edge": 10}, "do_center_crop": True, "crop_size": 8}, (8, 8)),
        ({"size": 10, "do_center_crop": True, "crop_size": {"height": 8, "width": 6}}, (8, 6)),
        ({"size": {"shortest_edge": 14}, "crop_pct": 0.875}, (14, 14)),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384)),
        ({"size": 8, "do_resize": False}, (20, 40)),
    ],
)
def test_sizes_of_a_preprocessor_config(
    tmp_path: Path, config: dict[str, Any], shape: tuple[int, int]
) -> None:
    save(tmp_path, "a.png", pixels(20, 40), config)
    assert only(read(tmp_path)).shape == (1, 3, *shape)


def test_the_values_of_a_preprocessor_config(tmp_path: Path) -> None:
    raw = pixels(4, 4)
    config = {"do_resize": False, "rescale_factor": 0.5, "image_mean": [1, 2, 3], "image_std": [2, 2, 2]}
    save(tmp_path, "a.png", raw, config)
    np.testing.assert_array_equal(only(read(tmp_path))[0], ((raw * 0.5 - [1, 2, 3]) / 2).transpose(2, 0, 1))
    save(tmp_path, "a.png", raw, {**config, "do_normalize": False, "do_rescale": False})
    np.testing.assert_array_equal(only(read(tmp_path))[0], raw.transpose(2, 0, 1))


def test_a_centre_crop_takes_the_middle(tmp_path: Path) -> None:
    raw = pixels(6, 6)
    config = {
        "do_resize": False,
        "do_center_crop": True,
        "crop_size": 2,
        "do_normalize": False,
        "do_rescale": False,
    }
    save(tmp_path, "a.png", raw, config)
    np.testing.assert_array_equal(only(read(tmp_path))[0], raw[2:4, 2:4].transpose(2, 0, 1))


def test_options_win_over_the_config(tmp_path: Path) -> None:
    save(tmp_path, "a.png", pixels(20, 40), {"size": 8, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    assert only(read(tmp_path, size=(3, 4), scale=1.0)).shape == (1, 3, 3, 4)
    assert only(read(tmp_path, scale=1.0)).max() > 1


def test_the_config_beside_the_model_is_found(tmp_path: Path) -> None:
    images, model = tmp_path / "images", tmp_path / "model"
    model.mkdir()
    save(images, "a.png", pixels(9, 9))
    (model / "preprocessor_config.json").write_text('{"size": 4}')
    assert only(read(images, model_dir=model)).shape == (1, 3, 4, 4)


def test_labels_come_from_a_table(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        save(tmp_path, name, pixels(4, 4))
    (tmp_path / "labels.tsv").write_text("file\tlabel\tname\nb.png\t2\tbee\na.png\t1\tant\n")
    labels = next(read(tmp_path, scale=1.0).batches()).labels
    assert labels is not None
    assert labels.tolist() == [1, 2]
    (tmp_path / "labels.tsv").write_text("file\tlabel\na.png\t1\n")
    with pytest.raises(DataError, match=r"no label for b\.png"):
        list(read(tmp_path, scale=1.0).batches())


def test_a_table_of_labels_without_the_columns(tmp_path: Path) -> None:
    save(tmp_path, "a.png", pixels(4, 4))
    (tmp_path / "labels.csv").write_text("name,label\na.png,1\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 1: no column 'file'"):
        read(tmp_path, scale=1.0)


def test_images_in_subfolders_are_found(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.jpg"):
        save(tmp_path, name, pixels(4, 4))
    assert read(tmp_path, scale=1.0).samples == 2


def test_a_sideways_photo_is_turned(tmp_path: Path) -> None:
    raw, exif = pixels(2, 4), Image.Exif()
    exif[0x0112] = 6  # orientation: turn 90 degrees clockwise to view
    Image.fromarray(raw).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(only(read(tmp_path, scale=1.0))[0], np.rot90(raw, -1).transpose(2, 0, 1))


@pytest.mark.parametrize("keep", [0, 60, 200])
def test_damaged_images_are_named(tmp_path: Path, keep: int) -> None:
    save(tmp_path, "a.png", pixels(16, 16))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a.png: not a readable image") as caught:
        list(read(tmp_path, scale=1.0).batches())
    assert caught.value.hint == "remove or replace the file"


def test_nothing_says_how_pixels_become_numbers(tmp_path: Path) -> None:
    save(tmp_path, "a.png", pixels(4, 4))
    with pytest.raises(
        DataError, match=r"no preprocessor_config.json beside the images or the model"
    ) as caught:
        read(tmp_path)
    assert "--scale, --mean, --std" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"image_mean": "grey"}', "a value is not of the expected type"),
        ('{"size": "big"}', "the size 'big' is not understood"),
    ],
)
def test_bad_configs(tmp_path: Path, config: str, message: str) -> None:
    save(tmp_path, "a.png", pixels(4, 4))
    (tmp_path / "preprocessor_config.json").write_text(config)
    with pytest.raises(DataError, match=f"preprocessor_config.json: {message}"):
        read(tmp_path)


def test_a_model_of_two_inputs_cannot_take_a_folder_of_images(tmp_path: Path) -> None:
    save(tmp_path, "a.png", pixels(4, 4))
    with pytest.raises(DataError, match="the model takes 2 inputs: x, y"):
        read(tmp_path, [*FREE, InputSpec("y", F32, ("n",))], scale=1.0)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "a.png", pixels(4, 4))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(TargetError, match="images need Pillow") as caught:
        read(tmp_path, scale=1.0)
    assert caught.value.hint == 'pip install "onnxq[image]"'


@pytest.mark.shared
def test_squeezenet_recognises_what_it_is_fed(assets: Path) -> None:
    """Trained on this preparation it knows 66 % of the whole sample; fed wrongly, far fewer.

    With 40 images the standard deviation is 7.5 points, so 40 % is three below.
    """
    import onnxruntime as ort

    session = ort.InferenceSession(assets / "models" / "squeezenet_imagenet_fp32.onnx")
    data = read(
        assets / "data" / "images" / "imagenet_sample",
        [InputSpec("data_0", F32, ("batch", 3, 224, 224))],
        scale=1.0,
        mean=(103.94, 116.78, 123.68),
        channel_order="bgr",
        limit=40,
    )
    right = 0
    for batch in data.batches():
        scores = np.asarray(session.run(None, dict(batch.feeds))[0]).reshape(batch.rows, -1)
        right += int((scores.argmax(1) == batch.labels).sum())
    assert right >= 16
