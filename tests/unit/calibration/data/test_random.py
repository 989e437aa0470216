"""Random data, when asked for by name."""

import numpy as np
import pytest

from onnxq.calibration.data import DataOptions, InputSpec, open_data

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
BERT = [InputSpec(name, I64, ("n", "t")) for name in ("input_ids", "attention_mask", "token_type_ids")]


def test_it_warns() -> None:
    assert "its ranges mean nothing" in str(open_data("random", BERT).warning)


def test_masks_are_ones_types_zeros_and_ids_small() -> None:
    feeds = next(open_data("random", BERT, DataOptions(batch_size=16, pad_to=32)).batches()).feeds
    assert feeds["input_ids"].shape == (16, 32)
    assert 50 < feeds["input_ids"].max() < 100
    assert feeds["attention_mask"].min() == 1
    assert feeds["token_type_ids"].max() == 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), ()),
        ((1, 3, 8, 8), (1, 3, 8, 8)),
        (("n", 5), (1, 5)),
        (("n", "t"), (1, 16)),
        (("n", 3, "h", "w"), (1, 3, 224, 224)),
        (None, (1,)),
    ],
)
def test_unknown_axes_have_documented_sizes(
    shape: tuple[int | str, ...] | None, expected: tuple[int, ...]
) -> None:
    data = open_data("random", [InputSpec("x", F32, shape)], DataOptions(batch_size=1, limit=1))
    assert next(data.batches()).feeds["x"].shape == expected


def test_the_seed_decides_and_the_batch_size_does_not() -> None:
    def digest(**options: int) -> str:
        return open_data("random", BERT, DataOptions(**options)).digest()  # type: ignore[arg-type]

    assert digest(seed=1) == digest(seed=1, batch_size=3) != digest(seed=2)


def test_every_kind_of_input_is_filled() -> None:
    specs = [InputSpec("s", np.dtype(object), ("n",)), InputSpec("flag", np.dtype(bool), ("n", 4))]
    batch = next(open_data("random", specs, DataOptions(limit=2)).batches())
    assert batch.feeds["s"].tolist() == ["text", "text"]
    assert batch.feeds["flag"].dtype == bool


def test_a_state_with_the_batch_on_another_axis_fits() -> None:
    specs = [InputSpec("x", F32, ("n", 4)), InputSpec("state", F32, (2, "n", 8)), InputSpec("sr", I64, ())]
    data = open_data("random", specs, DataOptions(limit=2))
    assert [batch.feeds["state"].shape for batch in data.batches()] == [(2, 1, 8), (2, 1, 8)]


def test_a_fixed_batch_gets_full_batches() -> None:
    data = open_data("random", [InputSpec("x", F32, (6, 2))], DataOptions(limit=8))
    assert data.samples == 6
    assert [batch.rows for batch in data.batches()] == [6]
