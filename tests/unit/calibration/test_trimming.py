"""Trimming: samples run without the padding at their end."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxq.calibration.trimming import Trimmed, one_by_one, trimmed
from onnxq.runtime.session import Session, open_session

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[{batch},{tokens}] x, float[{batch},{tokens}] attention_mask, float[3] other) => (float[B,T] y) {{
    h = Mul(x, attention_mask)
    s = Constant <value_ints = [-1, 3]> ()
    y = {body}
}}"""


def session(batch: str = "B", tokens: str = "T", body: str = "Relu(h)") -> Session:
    return open_session(onnx.parser.parse_model(TEXT.format(batch=batch, tokens=tokens, body=body)))


def batch(mask: NDArray[Any]) -> Trimmed:
    x = np.arange(mask.size, dtype=np.float32).reshape(mask.shape)
    feeds: Mapping[str, Any] = {"x": x, "attention_mask": mask, "other": np.zeros(3, np.float32)}
    return Trimmed(feeds, len(mask))


def padded(*lengths: int, width: int = 40) -> NDArray[np.float32]:
    return np.array([[float(token < length) for token in range(width)] for length in lengths], np.float32)


def test_each_sample_keeps_its_tokens_up_to_a_multiple_of_sixteen() -> None:
    given = batch(padded(3, 16, 17, 40, 0))
    parts = list(trimmed([given], session()))
    assert [part.feeds["x"].shape for part in parts] == [(1, 16), (1, 16), (1, 32), (1, 40), (1, 40)]
    for row, part in enumerate(parts):
        width = part.feeds["x"].shape[1]
        np.testing.assert_array_equal(part.feeds["x"][0], given.feeds["x"][row, :width])
        mask = given.feeds["attention_mask"][row, :width]
        np.testing.assert_array_equal(part.feeds["attention_mask"][0], mask)
        assert part.feeds["other"].shape == (3,)


@pytest.mark.parametrize("mask", [padded(40, 40), padded(3, 40)[:, ::-1], padded(39)])
def test_what_is_not_padded_at_the_end_stays_as_it_is(mask: NDArray[Any]) -> None:
    given = batch(np.ascontiguousarray(mask))
    assert list(trimmed([given], session())) == [given]


def test_a_model_of_fixed_length_gets_all_tokens() -> None:
    given = batch(padded(3, 5))
    assert list(trimmed([given], session(tokens="40"))) == [given]


def test_samples_come_one_by_one_and_what_none_owns_goes_to_each() -> None:
    given = batch(padded(3, 40))
    shapes = {spec.name: spec.shape for spec in session().inputs}
    first, second = one_by_one(given, shapes)
    np.testing.assert_array_equal(first.feeds["x"], given.feeds["x"][:1])
    np.testing.assert_array_equal(second.feeds["attention_mask"], given.feeds["attention_mask"][1:])
    assert first.feeds["other"].shape == second.feeds["other"].shape == (3,)


def test_a_model_for_so_many_samples_gets_them_together() -> None:
    given = batch(padded(3, 40))
    shapes = {spec.name: spec.shape for spec in session(batch="2").inputs}
    (whole,) = one_by_one(given, shapes)
    assert whole.rows == 2
    np.testing.assert_array_equal(whole.feeds["x"], given.feeds["x"])


def test_a_length_that_the_model_does_not_take_keeps_all_tokens_and_others_are_cut() -> None:
    given = batch(padded(20, 3, width=48))
    strict = session(body="Reshape(h, s)")  # into rows of three: 48 tokens are, 32 and 16 are not
    assert [part.feeds["x"].shape for part in trimmed([given], strict)] == [(1, 48), (1, 48)]
    given = batch(padded(40, 3, width=64))
    threes = session(body="Reshape(h, s)")  # 48 tokens are, and 16 are not
    assert [part.feeds["x"].shape for part in trimmed([given], threes)] == [(1, 48), (1, 64)]


def test_a_mask_that_the_model_does_not_read_cuts_nothing() -> None:
    other = open_session(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 21]> main (float[B,T] x) => (float[B,T] y) { y = Relu(x) }'
        )
    )
    given = batch(padded(3, 5))
    assert list(trimmed([given], other)) == [given]
