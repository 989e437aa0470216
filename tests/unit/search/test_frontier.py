"""The frontier: what is told of, and what the result makes of it."""

from pathlib import Path

import pytest

from onnxq.recipe import load_recipe
from onnxq.search.frontier import FLOAT_ALONE, Tried, compiled, frontier


@pytest.fixture
def forms(tmp_path: Path) -> list[Tried]:
    """Return four forms, the last in float; each errs less than the one before."""
    found = []
    for place, in_float in enumerate((0, 2, 5, None)):
        path = tmp_path / f"{place}.onnx"
        path.write_bytes(bytes(100 + place))
        found.append(Tried(f"form {place}", load_recipe("cpu"), path, 8.0 + 10 * place, (), in_float))
    return found


def test_what_is_slower_and_errs_more_is_not_told_of_but_for_the_whole(forms: list[Tried]) -> None:
    speeds = {"form 0": 0.9, "form 1": 1.1, "form 2": 0.8, "form 3": 1.0}
    points = frontier(forms, 9, forms[1], speeds)
    assert [point.in_float for point in points] == [0, 2, 9]
    assert [point.option for point in points] == ["--min-sqnr 8", "--min-sqnr 18", FLOAT_ALONE]
    assert [point.size_bytes for point in points] == [100, 101, 103]


def test_all_are_told_of_where_nothing_was_timed(forms: list[Tried]) -> None:
    points = frontier(forms, 9, forms[1], {})
    assert [(point.in_float, point.speedup) for point in points] == [
        (0, None),
        (2, None),
        (5, None),
        (9, None),
    ]


@pytest.mark.parametrize(("tuned", "kept", "in_float"), [(0, 1, 2), (3, 1, 5), (8, 1, 9), (None, 3, 9)])
def test_the_result_takes_the_place_of_what_was_kept(
    forms: list[Tried], tuned: int | None, kept: int, in_float: int
) -> None:
    """Layers that tuning has put into float count, too; there are no more than nine."""
    points = compiled(frontier(forms, 9, forms[1], {}), tuned, sqnr_db=17.5, size_bytes=77, speedup=1.2)
    assert [point.kept for point in points] == [place == kept for place in range(4)]
    assert points[kept].in_float == in_float
    assert (points[kept].sqnr_db, points[kept].size_bytes, points[kept].speedup) == (17.5, 77, 1.2)
