"""Nothing that computes the same is measured twice: not in a run, nor in the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import Dataset, input_specs, open_feeds
from onnxq.calibration.table import facts_out
from onnxq.engine.cache import FactsCache, cache_folder
from onnxq.engine.measurements import Measurements
from onnxq.errors import PreconditionError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.facts import Facts, Need
from onnxq.quant.statistics import STATISTICS, Curvature, Gram, Mean, Range
from onnxq.target import find_target

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y) <float two = {2.0}> { h = Mul(x, two) y = Relu(h) }
"""
RANGE = frozenset({Range})
ALL = frozenset(kind for kind in STATISTICS.values() if kind.gradients == "none")


@pytest.fixture
def module() -> GraphModule:
    return parse(TEXT)


@pytest.fixture
def data(module: GraphModule) -> Dataset:
    x = np.array([[-1, 2], [3, -4]], np.float32)
    return open_feeds("x", lambda: [{"x": x}], input_specs(module.model))


def _ends(facts: Facts) -> tuple[float, float]:
    return facts.low, facts.high


def test_a_value_is_measured_once_whatever_it_is_called(module: GraphModule, data: Dataset) -> None:
    measurements = Measurements.on(data, 1)
    assert _ends(measurements.of(module, [Need("h", RANGE)])["h"]) == (-8, 6)
    renamed = parse(TEXT.replace("h = Mul", "g = Mul").replace("Relu(h)", "Relu(g)"))
    assert _ends(measurements.of(renamed, [Need("g", RANGE)])["g"]) == (-8, 6)
    assert (measurements.tally.streams, measurements.tally.measured) == (1, 1)


def test_a_statistic_that_is_missing_is_measured_and_the_others_stay(
    module: GraphModule, data: Dataset
) -> None:
    measurements = Measurements.on(data, 1)
    measurements.of(module, [Need("h", RANGE)])
    facts = measurements.of(module, [Need("h", frozenset({Mean}))])["h"]
    assert (facts.known(Mean).values.tolist(), _ends(facts)) == ([2.0, -2.0], (-8, 6))


def test_twins_are_measured_once(data: Dataset) -> None:
    twins = parse(TEXT.replace("y = Relu(h)", "g = Mul(x, two) y = Add(h, g)"))
    measurements = Measurements.on(data, 1)
    found = measurements.of(twins, [Need("h", RANGE), Need("g", RANGE)])
    assert _ends(found["h"]) == _ends(found["g"])
    assert measurements.tally.measured == 1


def test_another_run_measures_nothing(module: GraphModule, data: Dataset) -> None:
    first = Measurements.on(data, 1).of(module, [Need("h", ALL)])["h"]
    second = Measurements.on(data, 1)
    again = second.of(module, [Need("h", ALL)])["h"]
    assert (second.tally.streams, second.tally.measured, second.tally.recalled) == (0, 0, 1)
    assert facts_out(again) == facts_out(first)
    assert first.has(ALL)


GRADIENTS = Need("h", frozenset({Mean, Curvature}))


def test_gradients_are_kept_for_what_is_computed_of_a_value(module: GraphModule, data: Dataset) -> None:
    """Of y = relu(2 x): where 2 x > 0 the derivative by it is 1; that of its square is another."""
    measurements = Measurements.on(data, 1)
    first = measurements.of(module, [GRADIENTS])["h"]
    assert first.known(Curvature).values.tolist() == [0.5, 0.5]  # of 2 samples, each channel once
    other = parse(TEXT.replace("y = Relu(h)", "r = Relu(h) y = Mul(r, r)"))
    squared = measurements.of(other, [GRADIENTS])["h"]
    assert squared.known(Curvature).values.tolist() == [72.0, 32.0]  # (2 * 6)^2 / 2 and (2 * 4)^2 / 2
    assert _ends(squared) == _ends(first) == (-8, 6)
    assert (measurements.tally.streams, measurements.tally.measured) == (2, 2)
    again = Measurements.on(data, 1)
    for one, before in ((module, first), (other, squared)):
        assert facts_out(again.of(one, [GRADIENTS])["h"]) == facts_out(before)
    assert again.tally.streams == 0


def test_twins_have_gradients_of_their_own(data: Dataset) -> None:
    twins = parse(TEXT.replace("y = Relu(h)", "g = Mul(x, two) r = Relu(g) y = Sub(r, h)"))
    needs = [Need(name, frozenset({Curvature})) for name in ("h", "g")]
    found = Measurements.on(data, 1).of(twins, needs)
    assert {name: facts.known(Curvature).values.tolist() for name, facts in found.items()} == {
        "h": [1.0, 1.0],
        "g": [0.5, 0.5],
    }


def test_other_data_and_other_threads_are_another_matter(module: GraphModule, data: Dataset) -> None:
    Measurements.on(data, 1).of(module, [Need("h", RANGE)])
    x = np.array([[5, 6]], np.float32)
    other = open_feeds("x", lambda: [{"x": x}], input_specs(module.model))
    for again in (Measurements.on(other, 1), Measurements.on(data, 2)):
        again.of(module, [Need("h", RANGE)])
        assert again.tally.recalled == 0


def test_a_damaged_cache_is_begun_anew(module: GraphModule, data: Dataset) -> None:
    folder = cache_folder()
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / "facts.sqlite").write_bytes(b"no database at all, but long enough to look like one" * 50)
    for expected in (0, 1):  # the first run finds the damage, and what it measures is there for the second
        measurements = Measurements.on(data, 1)
        assert _ends(measurements.of(module, [Need("h", RANGE)])["h"]) == (-8, 6)
        assert measurements.tally.recalled == expected


def test_nothing_is_remembered_where_that_is_not_wanted(
    module: GraphModule, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXQ_CACHE", "off")
    assert FactsCache.on(data.digest(), 8, 1) is None
    measurements = Measurements.on(data, 1)
    assert _ends(measurements.of(module, [Need("h", RANGE)])["h"]) == (-8, 6)


def test_the_cache_lies_where_it_is_told(
    module: GraphModule, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXQ_CACHE", str(tmp_path / "mine"))
    Measurements.on(data, 1).of(module, [Need("h", RANGE)])
    assert (tmp_path / "mine/facts.sqlite").stat().st_mode & 0o777 == 0o600  # the user's alone


def test_what_is_not_there_is_named(module: GraphModule, data: Dataset) -> None:
    with pytest.raises(PreconditionError, match="'nothing'"):
        Measurements.on(data, 1).of(module, [Need("nothing", RANGE)])


def test_what_no_table_holds_is_let_go_of_and_measured_again(module: GraphModule, data: Dataset) -> None:
    measurements = Measurements.on(data, 1)
    wanted = [Need("h", frozenset({Range, Gram}), -1)]
    first = measurements.of(module, wanted)["h"].known(Gram)
    measurements.let_go()
    assert not any(facts.get(Gram) for facts in measurements.facts.values())
    assert measurements.of(module, wanted)["h"].known(Gram).values.tolist() == first.values.tolist()
    assert measurements.tally.streams == 2


def test_what_gradients_tell_is_drawn_in_one_stream_for_all_passes(data: Dataset) -> None:
    layer = parse(
        """<ir_version: 10, opset_import: ["" : 21]>
        main (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1, -2, 3, 4}> { h = Relu(x) y = MatMul(h, w) }
        """
    )
    measurements = Measurements.on(data, 1)
    encode = "encode-weights{method=hessian}, encode-activations{method=hessian}"
    passes = parse_pipeline(f"infer-shapes, {encode}, search-scales, insert-qdq")
    PassManager(passes, find_target("portable"), measure=measurements.of).run(layer)
    assert measurements.tally.streams == 1
