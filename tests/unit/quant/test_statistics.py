"""Statistics: merged, written down and read back; and a new one is one class in the dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxq.calibration.observers import ValueObserver, observe_array
from onnxq.calibration.table import CalibrationTable
from onnxq.ir.module import GraphModule
from onnxq.ir.notes import facts_fields, note_line, notes_in
from onnxq.ir.text import parse, render
from onnxq.quant.facts import Need, facts_of
from onnxq.quant.statistics import (
    STATISTICS,
    Average,
    CurvedGram,
    CurvedRows,
    Gram,
    Mean,
    Range,
    Rows,
    Statistic,
)
from onnxq.quant.statistics.base import Block
from onnxq.quant.statistics.curved_rows import CurvedRowsObserver
from onnxq.quant.statistics.rows import RowsObserver

X = np.random.default_rng(0).normal(size=(600, 3, 5)).astype(np.float32)
KINDS = list(STATISTICS.values())


def block(values: NDArray[np.float32]) -> Block:
    return Block(values, -1)


@pytest.mark.parametrize("kind", KINDS)
@given(cut=st.integers(0, 600))
def test_two_parts_merged_are_the_whole(kind: type[Statistic], cut: int) -> None:
    first, second, whole = kind.observer(), kind.observer(), kind.observer()
    if kind in (Rows, CurvedRows):
        second = (RowsObserver if kind is Rows else CurvedRowsObserver)(start=3 * cut)
    for observer, part in ((first, X[:cut]), (second, X[cut:]), (whole, X)):
        if len(part):
            observer.update(block(part))
    first.merge(second)
    merged, expected = first.result(), whole.result()
    assert merged is not None
    # A Gram entry adds 1800 products of magnitudes below 20, rounded to float32 in another order; a mean as
    # many numbers in float64, rounded once; the average is continued in float64. All others only compare and
    # count.
    products = 1800 * 20 * 2.0**-24
    bound = {Gram: products, CurvedGram: products, Mean: 2.0**-24, Average: 1e-13}.get(kind, 0.0)
    for name, number in vars(merged).items():
        np.testing.assert_allclose(number, getattr(expected, name), rtol=0, atol=bound)


def test_nothing_merges_with_anything() -> None:
    for kind in KINDS:
        first, second = kind.observer(), kind.observer()
        first.merge(second)
        assert (first.result() is None) == (kind.name not in ("range", "histogram", "curved-histogram"))
        first.update(block(X[:2]))
        first.merge(kind.observer())
        assert vars(first.result()).keys() == vars(observe_array(X, [kind]).get(kind)).keys()


def test_an_infinite_average_stays_infinite_when_it_is_continued() -> None:
    infinite, finite = (np.full((1, 1), number, np.float32) for number in (-np.inf, 2.0))
    for first, second in ((infinite, finite), (finite, infinite), (infinite, infinite)):
        one, other = Average.observer(), Average.observer()
        one.update(block(first))
        other.update(block(second))
        one.merge(other)
        result = one.result()
        assert result is not None
        assert (result.low, result.high) == (-np.inf, -np.inf)


def test_rows_that_do_not_follow_are_refused() -> None:
    one, other = RowsObserver(), RowsObserver(start=3)
    one.update(block(X[:2]))
    other.update(block(X[2:4]))
    with pytest.raises(ValueError, match="rows from 3 on cannot follow those up to 6"):
        one.merge(other)


def test_rows_weigh_as_much_as_the_loss_cares() -> None:
    """A row whose weight is 4 counts as often as four rows; the weight is the mean of what is known of it."""
    rows, often = X[:7].reshape(1, -1, 5), np.arange(21) % 5
    heavy, plain = CurvedGram.observer(), Gram.observer()
    squares = np.stack([often * 0.5, often * 1.5], axis=-1)[np.newaxis].astype(np.float32)
    heavy.update(Block(rows, -1, gradients=squares))
    plain.update(block(np.repeat(rows, often, axis=1)))
    weighed, repeated = heavy.result(), plain.result()
    assert isinstance(weighed, CurvedGram)
    assert repeated is not None
    # 42 products of magnitudes below 20, rounded in another order
    np.testing.assert_allclose(weighed.values, repeated.values, rtol=0, atol=42 * 20 * 2.0**-24)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(kind: type[Statistic]) -> None:
    facts = observe_array(X[:4], [kind])
    part = facts.get(kind)
    assert part is not None
    lines = [note_line("fact", "x", fields) for fields in facts_fields(facts, None)]
    again = [kind.from_table(part.to_table())]
    again += [found.get(kind) for _, _, found in notes_in(lines)]
    for one in again:
        for name, number in vars(part).items():
            np.testing.assert_array_equal(getattr(one, name), number)


@dataclass(frozen=True, eq=False)
class Zeros(Statistic):
    """How many values are zero: all that a new statistic takes."""

    name = "zeros"
    zeros: int

    class Counter:
        """Counts them."""

        def __init__(self) -> None:
            """Start with none."""
            self.zeros = 0

        def update(self, block: Block) -> None:
            """Count the zeros of a block."""
            self.zeros += int((block.values == 0).sum())

        def merge(self, later: Self) -> None:
            """Add the other's."""
            self.zeros += later.zeros

        def result(self) -> Statistic:
            """Return their number."""
            return Zeros(self.zeros)

    @staticmethod
    def observer() -> Counter:
        return Zeros.Counter()

    def to_table(self) -> dict[str, Any]:
        return {"zeros": self.zeros}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        return cls(entry["zeros"]) if "zeros" in entry else None

    to_fields, from_fields = to_table, from_table


@pytest.fixture
def _zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATISTICS, "zeros", Zeros)


@pytest.mark.usefixtures("_zeros")
def test_a_new_statistic_is_measured_moved_and_written_like_the_others() -> None:
    observer = ValueObserver([Need("x", frozenset({Zeros, Mean}))])
    for part in (np.zeros((2, 3), np.float32), np.eye(3, dtype=np.float32)):
        observer.update(observer.blocks(part, 2))
    facts = observer.facts()
    assert facts.known(Zeros).zeros == 12
    table = CalibrationTable("m", "d", 5, {"x": facts}).to_json()
    assert CalibrationTable.from_json(table).facts["x"].known(Zeros).zeros == 12
    module = GraphModule(
        ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 17]> g (float[n,3] x) => (float[n,3] y) { y = Relu(x) }'
        )
    )
    module.learn({"x": facts})
    assert "zeros=12" in render(module)
    assert parse(render(module)).facts()["x"].known(Zeros).zeros == 12
    assert facts_of(15, Range(0.0, 1.0), Zeros(12)).rescaled(np.ones(3), np.zeros(3), -1) is None
