"""The calibration table: bytes, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.calibration.observers import observe_array
from onnxq.calibration.table import CalibrationTable
from onnxq.errors import CalibrationError, InputError
from onnxq.quant.facts import Facts, facts_of
from onnxq.quant.statistics import STATISTICS, Average, CurvedGram, CurvedRows, Gram, Histogram, Mean, Range


def joint(array: NDArray[np.float32]) -> Facts:
    """Return the facts along both axes."""
    everything = STATISTICS.values()
    return observe_array(array, everything, -2).and_also(observe_array(array, everything, -1))


def table(seed: int = 0) -> CalibrationTable:
    rng = np.random.default_rng(seed)
    return CalibrationTable(
        model="m" * 64,
        data="d" * 64,
        samples=7,
        facts={
            "h": joint(rng.normal(size=(20, 5)).astype(np.float32)),
            "a": facts_of(3, Range(-0.1, 1 / 3)),
        },
    )


def test_the_round_trip_keeps_every_byte() -> None:
    text = table().to_json()
    again = CalibrationTable.from_json(text)
    assert again.to_json() == text
    facts, other = table().facts["h"], again.facts["h"]
    assert other.count == facts.count
    for place, part in other.parts.items():
        for name, number in vars(part).items():
            expected = getattr(facts.parts[place], name)
            assert type(number) is type(expected)
            np.testing.assert_array_equal(number, expected)
    assert again.facts["a"].get(Histogram) is None


def test_products_of_channels_are_left_out() -> None:
    facts = table().facts["h"]
    again = CalibrationTable.from_json(table().to_json()).facts["h"]
    large = {Gram, CurvedGram, CurvedRows}
    assert facts.has(large)
    assert not any(again.has([kind]) for kind in large)
    assert again.has(set(STATISTICS.values()) - large)


def test_infinities_come_back() -> None:
    facts = {
        "mask": facts_of(4, Range(-np.inf, 0.0), Average(-np.inf, 0.0)),
        "none": facts_of(0, Range()),
    }
    again = CalibrationTable.from_json(CalibrationTable("m", "d", 1, facts).to_json()).facts
    for name in facts:
        assert (again[name].low, again[name].high) == (facts[name].low, facts[name].high)
    assert again["mask"].known(Average).low == -np.inf


def test_a_mean_of_infinities_of_both_signs_comes_back() -> None:
    both = np.array([[np.inf, 1.0], [-np.inf, 3.0]], np.float32)
    facts = observe_array(both, [Mean])
    again = CalibrationTable.from_json(CalibrationTable("m", "d", 1, {"x": facts}).to_json()).facts["x"]
    np.testing.assert_array_equal(again.known(Mean).values, [np.nan, 2.0])


def test_equal_tables_have_equal_bytes() -> None:
    one = table()
    other = CalibrationTable(one.model, one.data, one.samples, dict(reversed(one.facts.items())))
    assert one.to_json() == other.to_json()
    assert one.to_json() != table(seed=1).to_json()


def test_a_file_and_back(tmp_path: Path) -> None:
    path = tmp_path / "model.table.json"
    table().save(path)
    table(seed=1).save(path)
    assert CalibrationTable.load(path).to_json() == table(seed=1).to_json()
    assert [file.name for file in tmp_path.iterdir()] == ["model.table.json"]


def test_a_table_of_another_model() -> None:
    table().check("m" * 64)
    with pytest.raises(
        CalibrationError, match="the calibration table: it was collected on another model"
    ) as e:
        table().check("n" * 64)
    assert e.value.hint == "collect it again: onnxq calibrate MODEL --data DATA -o TABLE"


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -30])
def test_a_truncated_table(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(table().to_json()[:keep])
    with pytest.raises(
        CalibrationError, match=r"t\.json: it is not a calibration table, or is damaged"
    ) as caught:
        CalibrationTable.load(path)
    assert caught.value.hint is not None
    assert "collect it again" in caught.value.hint


@pytest.mark.parametrize("text", ["[]", "3", "{}", "null", '{"schema": 2}', '{"schema": 2, "facts": [1]}'])
def test_json_that_is_no_table(text: str) -> None:
    with pytest.raises(CalibrationError, match="it is not a calibration table, or is damaged"):
        CalibrationTable.from_json(text)


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("channels", {"-1": {"rows": {"dtype": "float32", "shape": [2, 5], "data": "AAAA"}}}),
        ("channels", {"-1": {"rows": {"dtype": "float32", "shape": [1], "data": "!!!!"}}}),
        ("channels", {"-1": {"rows": {"dtype": "nonsense", "shape": [1], "data": "AAAAAA=="}}}),
        ("channels", {"last": {}}),
        ("average", [1.0]),
        ("low", None),
        ("count", "many"),
    ],
)
def test_damaged_facts(part: str, entry: object) -> None:
    content = json.loads(table().to_json())
    content["facts"]["h"][part] = entry
    with pytest.raises(CalibrationError, match="it is not a calibration table, or is damaged"):
        CalibrationTable.from_json(json.dumps(content))


@pytest.mark.parametrize("key", ["model", "data", "samples", "onnxq"])
def test_a_damaged_header(key: str) -> None:
    content = json.loads(table().to_json())
    del content[key]
    with pytest.raises(CalibrationError, match="it is not a calibration table, or is damaged"):
        CalibrationTable.from_json(json.dumps(content))


def test_another_schema_version() -> None:
    content = json.loads(table().to_json()) | {"schema": 99}
    with pytest.raises(CalibrationError, match="its schema version is 99, this onnxq reads 2"):
        CalibrationTable.from_json(json.dumps(content))


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.json: cannot be read: No such file"):
        CalibrationTable.load(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match=r"bytes\.json: cannot be read: it is not text"):
        CalibrationTable.load(tmp_path / "bytes.json")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder to write into does not exist"):
        table().save(tmp_path / "none" / "t.json")


@pytest.mark.parametrize("change", [{"samples": 0}, {"model": ""}, {"data": ""}])
def test_an_empty_header_is_no_table(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"model": "m", "data": "d", "samples": 1, "facts": {}} | change
    with pytest.raises(ValueError, match="needs samples and the digests of model and data"):
        CalibrationTable(**fields)  # type: ignore[arg-type]
