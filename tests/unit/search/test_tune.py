"""Which forms are tried, and what is left out of a recipe, given what races and profiles told."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from onnxq.comparison import Prefer
from onnxq.recipe import Recipe, load_recipe
from onnxq.runtime.bench import Spread
from onnxq.runtime.race import Standing
from onnxq.runtime.run import Run
from onnxq.search.forms import BETWEEN, forms_of, in_float
from onnxq.search.tune import (
    EXACT,
    GRAPH,
    PRICES,
    SOURCE,
    TOGETHER,
    Tuning,
    Verdict,
    _by_price,
    _holding,
    _never_slower,
    _profiled,
    _verdicts,
    _with_graph,
)


def test_a_profile_tells_of_fast_layers_and_of_small_ones() -> None:
    """Without the small one's integers the model runs at most at 1.008x: 111 / (111 - 1 + 0.1)."""
    times = {
        "all.onnx": {"fast": 100.0, "small": 1.0, "slow": 10.0},
        "exact.onnx": {"fast": 200.0, "small": 0.2, "slow": 5.0},
    }
    timing = SimpleNamespace(
        on_progress=lambda *args: None,
        whole="all.onnx",
        make=lambda recipe: "exact.onnx",
        layers=times.__getitem__,
    )
    groups = {"A": ["fast"], "B": ["small"], "C": ["slow"], "D": ["unseen"]}
    found, slow = _profiled(load_recipe("cpu"), groups, timing)
    assert [(name, verdict.dropped) for name, verdict in found.items()] == [
        ("int8 for A", False),
        ("int8 for B", False),
    ]
    assert slow == ["int8 for B", "int8 for C"]


@pytest.mark.parametrize(("gain", "left_out"), [(1.2, True), (1.0, False)])
def test_layers_that_no_race_tells_apart_are_left_out_together(gain: float, left_out: bool) -> None:
    standings = {"int8 for C": Standing(Spread(1.0, 0.9, 1.1)), TOGETHER: Standing(Spread(gain, gain, gain))}
    found = _verdicts(standings, ["int8 for B", "int8 for C"])
    assert TOGETHER not in found
    assert {name for name, one in found.items() if one.dropped} == (
        {"int8 for B", "int8 for C"} if left_out else set()
    )


@pytest.mark.parametrize(
    ("larger", "price", "left_out"),
    [(1.0, 0.1, True), (1.5, 0.1, True), (4.0, 0.1, False), (4.0, 0.0, True), (1.05, 10.0, False)],
)
def test_a_layer_in_float_has_to_be_worth_its_bytes(larger: float, price: float, left_out: bool) -> None:
    """It makes the model 1.1 times faster: that pays for 1.1 ** 10 = 2.6 times the bytes in the balance."""
    found = _verdicts({"int8 for C": Standing(Spread(1.1, 1.1, 1.1), larger)}, [], price)
    assert (found["int8 for C"].dropped, found["int8 for C"].faster) == (left_out, True)


def test_in_the_balance_time_alone_decides_where_the_source_would_be_faster() -> None:
    kept = Verdict("int8 for C", 1.1, (1.1, 1.1), dropped=False, faster=True)
    assert [*_by_price([kept], "balanced")] == [[kept], [replace(kept, dropped=True)]]
    assert [*_by_price([kept], "size")] == [[kept]]
    same = Verdict("pass a", 1.0, None, dropped=False)
    assert [*_by_price([same], "balanced")] == [[same]]


SMALL, FLOAT = load_recipe("cpu"), in_float(load_recipe("cpu"))


@pytest.mark.parametrize(
    ("source", "exact", "prefer", "kept", "slower", "told"),
    [
        (0.8, 1.1, "balanced", SMALL, False, "kept for its size: the exact passes alone"),
        (0.8, 1.1, "speed", FLOAT, False, "kept the exact passes alone, at 1.38x"),
        (0.8, 1.2, "balanced", FLOAT, False, "kept the exact passes alone, at 1.50x"),
        (1.05, 1.1, "balanced", FLOAT, True, "kept the exact passes alone, at 1.05x"),
        (1.05, 1.1, "size", SMALL, True, "not at 0.95x, in 3.9 times the bytes"),
        (0.8, 0.9, "size", SMALL, False, ""),
    ],
)
def test_the_exact_passes_have_to_be_worth_their_bytes(
    source: float, exact: float, prefer: Prefer, kept: Recipe, slower: bool, told: str
) -> None:
    """They are 3.9 times as large as the result, which pays from 3.9 ** 0.1 = 1.146 times its speed."""
    gains = {SOURCE: source, EXACT: exact}
    standings = {name: Standing(Spread(gain, gain, gain), 3.9) for name, gain in gains.items()}
    timing = SimpleNamespace(prefer=prefer, price=PRICES[prefer])
    found = _never_slower(SMALL, (), timing, standings)
    assert found.recipe == kept
    assert found.slower == (slower and prefer != "size")
    assert told in "".join(found.warnings)


def test_what_is_asked_for_decides_what_is_left_out() -> None:
    """Without b the result misses something, and so it does without both c and d, of which c brings more."""
    gains = {"a": 1.1, "b": 1.5, "c": 1.4, "d": 1.2}
    verdicts = [Verdict(name, gain, (gain, gain), dropped=True) for name, gain in gains.items()]
    held = _holding(verdicts, lambda names: "b" in names or {"c", "d"} <= {*names})
    assert [(one.name, one.dropped, one.needed) for one in held] == [
        ("a", True, False),
        ("b", False, True),
        ("c", True, False),
        ("d", False, True),
    ]
    assert _holding(verdicts, lambda names: False) == verdicts


def test_what_is_in_float_stays_as_it_is() -> None:
    floats = in_float(load_recipe("cpu"))
    assert in_float(floats) == floats


def test_what_lies_between_layers_is_tried_in_float_where_it_is_in_integers() -> None:
    forms = {form.name: form.recipe for form in forms_of(load_recipe("cpu"), {})}
    assert "scope=chains" not in forms[BETWEEN].pipeline
    assert BETWEEN not in {form.name for form in forms_of(forms[BETWEEN], {})}


def pipelines_of(name: str) -> dict[str, str]:
    return {form.name: form.recipe.pipeline for form in forms_of(load_recipe(name), {})}


def test_on_cuda_attention_and_types_are_tried_in_their_forms() -> None:
    forms = pipelines_of("cuda")
    passes = {"pass cache-in-place", "pass fuse-attention", "pass pack-attention"}
    assert passes < forms.keys()
    assert {name for name in forms if "=" in name} == {"lower-precision.dtype=bfloat16"}
    assert "lower-precision{dtype=bfloat16}" in forms["lower-precision.dtype=bfloat16"]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cuda-weights-4", {64, 128}), ("cuda-weights-8", {64, 128}), ("cuda-weights-fp8", set())],
)
def test_on_cuda_blocks_are_tried_in_other_lengths(name: str, sizes: set[int]) -> None:
    forms = pipelines_of(name)
    blocks = {f"encode-weight-blocks.block={size}" for size in sizes}
    assert {name for name in forms if "=" in name} == {"lower-precision.dtype=bfloat16", *blocks}


def test_on_processors_no_variant_is_tried() -> None:
    assert not [name for name in (*pipelines_of("cpu"), *pipelines_of("cpu-size")) if "=" in name]


def test_of_several_lengths_the_fastest_is_taken_where_it_is_worth_it() -> None:
    gains = {"w.block=64": 1.10, "w.block=128": 1.20, "l.dtype=bfloat16": 1.03, "pass a": 1.03}
    found = _verdicts({name: Standing(Spread(gain, gain, gain)) for name, gain in gains.items()}, [])
    assert [name for name, one in found.items() if one.dropped] == ["w.block=128", "pass a"]


@pytest.mark.parametrize(
    ("gain", "rows", "told"), [(1.6, (1, 1), True), (1.0, (1, 1), False), (1.6, (1, 2), False)]
)
def test_a_cuda_graph_is_told_of_where_it_is_faster_and_all_batches_are_alike(
    gain: float, rows: tuple[int, int], told: bool
) -> None:
    asked: list[Run] = []

    def raced(phase: str, models: dict[str, str], runs: dict[str, Run]) -> dict[str, Standing]:
        assert models == {"tuned": "form.onnx", GRAPH: "form.onnx"}
        asked.append(runs[GRAPH])
        return {GRAPH: Standing(Spread(gain, gain, gain))}

    timing = SimpleNamespace(
        run=Run("cuda", entries={"a": "b"}),
        feeds=[{"x": np.zeros((count, 4))} for count in rows],
        make=lambda recipe: "form.onnx",
        runs=lambda model, run: True,
        race=raced,
    )
    before = Tuning(load_recipe("cuda"), (), ("a warning",))
    found = _with_graph(before, timing)
    assert found.recipe == before.recipe
    assert [one.name for one in found.verdicts] == ([GRAPH] if asked else [])
    assert [run.cuda_graph for run in asked] == ([True] if rows == (1, 1) else [])
    assert found.warnings[0] == "a warning"
    assert any(f"CUDA graph the result runs at {gain:.2f}x" in one for one in found.warnings) == told
