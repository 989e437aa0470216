"""Running, checking and rewriting golden cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxq.errors import RecipeError
from onnxq.testing.golden import check_golden, read_case, run_case, update_golden

BEFORE = """# RUN: insert-qdq
# A comment that stays.
# encode x: scale=0.5 zero_point=0
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
{
    [act] y = Relu(x)
}
"""
AFTER = """# -----
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
   <float x_scale = {0.5}, uint8 x_zero_point = {0}>
{
   [x_q] x_q = QuantizeLinear (x, x_scale, x_zero_point)
   [x_dq] x_dq = DequantizeLinear (x_q, x_scale, x_zero_point)
   [act] y = Relu (x_dq)
}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "case.onnxtxt"
    path.write_text(text)
    return path


def test_a_case_that_comes_out_as_expected_passes_however_it_is_spaced(tmp_path: Path) -> None:
    check_golden(written(tmp_path, BEFORE + AFTER))
    check_golden(written(tmp_path, BEFORE + AFTER.replace(" (x, ", "(x,").replace("   ", " ")))


def test_a_difference_is_shown_as_a_diff(tmp_path: Path) -> None:
    path = written(tmp_path, BEFORE + AFTER.replace("{0.5}", "{0.25}"))
    with pytest.raises(AssertionError) as caught:
        check_golden(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "case.onnxtxt came out otherwise:"
    assert "-   <float x_scale = {0.25}, uint8 x_zero_point = {0}>" in lines
    assert "+   <float x_scale = {0.5}, uint8 x_zero_point = {0}>" in lines


def test_update_writes_what_came_out_and_keeps_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path, BEFORE)
    assert update_golden(path)
    assert path.read_text() == BEFORE + AFTER
    assert not update_golden(path)


def test_without_an_expected_graph_the_graph_stays() -> None:
    unchanged = BEFORE.replace("# encode x: scale=0.5 zero_point=0\n", "")
    assert str(run_case(read_case(unchanged))) == unchanged


def test_remarks_are_expected_in_full(tmp_path: Path) -> None:
    text = """# RUN: encode-weights
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x, float[2,2] w) => (float[N,2] y)
{
    [layer] y = MatMul(x, w)
}
"""
    path = written(tmp_path, text)
    with pytest.raises(AssertionError, match=r"\+# REMARK: layer: both of its inputs are computed"):
        check_golden(path)
    update_golden(path)
    assert "# RUN: encode-weights\n# REMARK: layer: both of its inputs" in path.read_text()
    check_golden(path)


def test_an_expected_error_is_a_part_of_the_message(tmp_path: Path) -> None:
    text = BEFORE.replace("insert-qdq", "insert-qdz")
    check_golden(written(tmp_path, text.replace("\n", "\n# ERROR: unknown pass\n", 1)))
    path = written(tmp_path, text.replace("\n", "\n# ERROR: something else\n", 1))
    with pytest.raises(AssertionError, match=r"\+# ERROR: unknown pass 'insert-qdz'"):
        check_golden(path)


def test_an_expected_error_that_does_not_come_is_shown(tmp_path: Path) -> None:
    path = written(tmp_path, BEFORE.replace("\n", "\n# ERROR: unknown pass\n", 1))
    with pytest.raises(AssertionError, match="-# ERROR: unknown pass"):
        check_golden(path)


def test_types_and_facts_are_shown_when_asked_for() -> None:
    text = """# RUN: infer-shapes
# SHOW: facts types
# fact x: low=-1.0 high=2.0
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
{
    [one] h = Relu(x)
    [two] y = Relu(h)
}
"""
    after = run_case(read_case(text)).after
    assert after is not None
    assert "float[N,2] h" in after
    assert after.startswith("# fact x: count=1 low=-1.0 high=2.0\n")
    hidden = run_case(read_case(text.replace("# SHOW: facts types\n", ""))).after
    assert hidden is None


def test_the_target_is_part_of_the_case() -> None:
    text = BEFORE.replace("\n", "\n# TARGET: portable\n", 1)
    assert read_case(text).target == "portable"
    assert str(read_case(text)) == text


def test_a_case_without_a_pipeline_says_what_it_lacks() -> None:
    with pytest.raises(RecipeError, match="a golden case needs a line: # RUN: pipeline"):
        read_case(BEFORE.replace("# RUN: insert-qdq\n", ""))
