"""onnxq diff, as a user runs it."""

import json
import re
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def compiled(onnxq, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compiled") / "out.onnx"
    result = onnxq("compile", model, "-o", output, "--data", data, "--no-bench", "--no-validate", "--no-tune")
    assert result.exit_code == 0, result.stderr
    return output


def test_the_exit_code_is_that_of_diff(onnxq, model: Path, compiled: Path, tmp_path: Path) -> None:
    same = onnxq("diff", model, model)
    assert (same.exit_code, same.stdout) == (0, "nothing differs but, perhaps, names\n")
    assert onnxq("diff", model, compiled).exit_code == 1
    missing = onnxq("diff", model, tmp_path / "none.onnx")
    assert missing.exit_code == 2
    assert missing.stderr.startswith("error: ")


def test_the_text_has_patterns_and_fits_the_terminal(onnxq, model: Path, compiled: Path, data: Path) -> None:
    result = onnxq("diff", model, compiled, "--data", data)
    for title in ("Models", "Changes", "Tensors", "Where error enters", "How error grows"):
        assert f"\n{title}\n" in f"\n{result.stdout}"
    assert "Linear -> Q" in result.stdout
    assert "float -> int8" in result.stdout
    tables = result.stdout.partition("compared on")[0]
    assert max(map(len, tables.splitlines())) <= 80


def test_json_holds_all_with_its_schema(onnxq, model: Path, compiled: Path, data: Path) -> None:
    result = onnxq("diff", model, compiled, "--data", data, "--json", "--fail-on", "changes>0")
    content = json.loads(result.stdout)
    assert (result.exit_code, content["schema"], content["command"]) == (1, 1, "diff")
    assert content["failed"] == ["changes>0"]
    measured = content["measured"]
    assert measured["samples"] == 24
    last = measured["errors"][-1]
    assert last["sqnr_db"] > 20  # 8 bits of a few layers; a wrong pair of values would be near 0
    assert sum(change["microseconds_after"] for change in content["changes"]) > 0


@pytest.mark.parametrize(
    ("rule", "code"),
    [("changes>0", 1), ("unaligned>0", 0), ("bytes<0", 1), ("removed>1000", 0), ("rewritten>=0", 1)],
)
def test_a_rule_decides_the_exit_code(onnxq, model: Path, compiled: Path, rule: str, code: int) -> None:
    smaller = compiled.stat().st_size < model.stat().st_size
    expected = int(smaller) if rule == "bytes<0" else code
    assert onnxq("diff", model, compiled, "--fail-on", rule).exit_code == expected


def test_rules_of_error_want_data(onnxq, model: Path, compiled: Path, data: Path) -> None:
    without = onnxq("diff", model, compiled, "--fail-on", "sqnr_db<20")
    assert without.exit_code == 2
    assert "sqnr_db is known with data only" in without.stderr
    for rule, code in (("sqnr_db<0", 0), ("cosine<=1", 1), ("max_abs>1e+9", 0)):
        assert onnxq("diff", model, compiled, "--data", data, "--fail-on", rule).exit_code == code


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("sqnr", "'sqnr' is no rule"),
        ("sqnr<2", "unknown quantity 'sqnr'"),
        ("bytes=2", "'bytes=2' is no rule"),
        ("bytes>1.2.3", "'bytes>1.2.3' is no rule"),
    ],
)
def test_a_wrong_rule_is_refused(onnxq, model: Path, rule: str, message: str) -> None:
    result = onnxq("diff", model, model, "--fail-on", rule)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_documented_keys_are_those_that_are_printed(
    onnxq, model: Path, compiled: Path, data: Path
) -> None:
    """The tables of the documentation and the objects agree, key by key."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "see-what-changed.md").read_text(encoding="utf-8")
    part = page.partition("`onnxq diff --json`:")[2].partition("`onnxq report --json`")[0]
    documented = {
        name for line in part.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)
    }
    content = json.loads(onnxq("diff", model, compiled, "--data", data, "--json").stdout)
    free = {"bytes_by_dtype", "opsets", "counts"}
    """Their keys are types, domains and kinds."""

    def keys(thing: object) -> set[str]:
        if isinstance(thing, list):
            return {key for one in thing for key in keys(one)}
        if not isinstance(thing, dict):
            return set()
        below = {key for name, one in thing.items() if name not in free for key in keys(one)}
        return set(thing) | below

    words = {"structure", "weights", "names", "neighbours"}
    assert keys(content) - {"schema", "command"} == documented - words
