"""Collecting facts: one pass over real data through a real, small attention encoder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.calibration import collect as collecting
from onnxq.calibration.collect import collect
from onnxq.errors import CalibrationError, ModelError, PreconditionError
from onnxq.ir.inference import infer_types
from onnxq.quant.facts import Facts, Need
from onnxq.quant.statistics import STATISTICS, Average, ChannelRange, Histogram, Mean, Range, Rows
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session

HEADS, HEAD, WIDTH = 2, 4, 8


@dataclass(frozen=True)
class ListedBatch:
    feeds: Mapping[str, NDArray[Any]]
    rows: int


@dataclass(frozen=True)
class Listed:
    """Feeds that are cut into batches of ``size``."""

    feeds: Mapping[str, NDArray[Any]]
    size: int

    def batches(self) -> Iterator[ListedBatch]:
        count = len(next(iter(self.feeds.values())))
        for start in range(0, count, self.size):
            feeds = {name: array[start : start + self.size] for name, array in self.feeds.items()}
            yield ListedBatch(feeds, min(self.size, count - start))


ENCODER = """
<ir_version: 10, opset_import: ["" : 17]>
encoder (int64[{b},{t}] input_ids, int64[{b},{t}] attention_mask) => (float[b,t,8] y)
{{
    embedded = Gather(table, input_ids)
    {position}
    split = Reshape(placed, to_heads)
    heads = Transpose <perm = [0, 2, 1, 3]> (split)
    keys = Transpose <perm = [0, 2, 3, 1]> (split)
    raw = MatMul(heads, keys)
    real = Cast <to = 1> (attention_mask)
    absent = Sub(one, real)
    penalty = Mul(absent, far)
    spread = Unsqueeze(penalty, inner_axes)
    scores = Add(raw, spread)
    probs = Softmax <axis = -1> (scores)
    context = MatMul(probs, heads)
    merged = Transpose <perm = [0, 2, 1, 3]> (context)
    flat = Reshape(merged, to_rows)
    hidden = Gemm(flat, weight, offset)
    size = Shape(input_ids)
    wide = Concat <axis = 0> (size, width)
    y = Reshape(hidden, wide)
    weighted = Unsqueeze(real, last_axis)
    counted = Mul(y, weighted)
    pooled = ReduceMax <axes = [1], keepdims = 0> (counted)
}}
"""


def encoder(b: str = "b", t: str = "t", length: int | None = None) -> ir.Model:
    """Build it; with ``length`` it has a position table that fits this many tokens only."""
    rng = np.random.default_rng(0)
    position = "placed = Add(embedded, positions)" if length else "placed = Identity(embedded)"
    proto = onnx.parser.parse_model(ENCODER.format(b=b, t=t, position=position))
    weights: dict[str, NDArray[Any]] = {
        "table": rng.normal(size=(50, WIDTH)).astype(np.float32),
        "weight": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "offset": rng.normal(size=WIDTH).astype(np.float32),
        "one": np.float32(1)[()],
        "far": np.float32(-1e4)[()],
        "to_heads": np.array([0, 0, HEADS, HEAD]),
        "to_rows": np.array([-1, WIDTH]),
        "inner_axes": np.array([1, 2]),
        "last_axis": np.array([2]),
        "width": np.array([WIDTH]),
    }
    if length:
        weights["positions"] = rng.normal(size=(length, WIDTH)).astype(np.float32)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items())
    return ir.from_proto(proto)


def padded_feeds(count: int, length: int, seed: int = 0, *, left: bool = False) -> dict[str, NDArray[Any]]:
    """Make token ids with 1 to ``length`` real tokens for each sample."""
    rng = np.random.default_rng(seed)
    real = np.arange(length) < rng.integers(1, length + 1, count)[:, None]
    mask = (real[:, ::-1] if left else real).astype(np.int64)
    return {"input_ids": rng.integers(1, 50, (count, length)) * mask, "attention_mask": mask}


ALL = frozenset(kind for kind in STATISTICS.values() if kind.gradients == "none")
VALUES = ("embedded", "heads", "scores", "probs", "flat", "hidden", "y", "pooled")
PER_CHANNEL = {"embedded", "heads", "flat", "hidden", "y", "pooled"}


def needs() -> list[Need]:
    """Ask for everything; attention scores have no channels, as their last axis is the length."""
    plain = frozenset({Range, Average, Histogram})
    return [Need(name, ALL if name in PER_CHANNEL else plain) for name in VALUES]


def measure(model: ir.Model, feeds: Mapping[str, NDArray[Any]], size: int = 4) -> Mapping[str, Facts]:
    return collect(model, needs(), Listed(feeds, size), Run(threads=1)).facts


def assert_alike(got: Mapping[str, Facts], expected: Mapping[str, Facts]) -> None:
    """Compare two measurements of the same values, computed in other shapes.

    Sums over at most 12 terms in another order differ by a few float32 roundings of the largest term, so
    ranges agree to 1e-5 of the largest value, and few values cross into the next bin.
    """
    assert got.keys() == expected.keys()
    for name, facts in got.items():
        other = expected[name]
        slack = 1e-5 * max(-other.low, other.high)
        assert facts.count == other.count, name
        np.testing.assert_allclose([facts.low, facts.high], [other.low, other.high], rtol=0, atol=slack)
        assert facts.parts.keys() == other.parts.keys()
        for place, part in facts.parts.items():
            if place[0] in (Average, ChannelRange, Mean, Rows):
                for field, mine in vars(part).items():
                    theirs = getattr(other.parts[place], field)
                    np.testing.assert_allclose(mine, theirs, rtol=0, atol=slack, err_msg=f"{name}: {field}")
        moved = np.abs(facts.known(Histogram).counts - other.known(Histogram).counts).sum() / 2
        assert moved <= 0.01 * facts.count, name


def one_by_one(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> Mapping[str, Facts]:
    """Measure each sample alone and without its padding."""

    class Cut:
        def batches(self) -> Iterator[ListedBatch]:
            for index, mask in enumerate(feeds["attention_mask"]):
                yield ListedBatch({name: a[index : index + 1, mask > 0] for name, a in feeds.items()}, 1)

    return collect(model, needs(), Cut(), Run(threads=1)).facts


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("length", [2, 4, 5, 8])
def test_padding_is_not_measured(length: int, left: bool) -> None:
    """The lengths are those of other axes too: 2 heads, 4 values in a head, 8 channels."""
    model, feeds = encoder(), padded_feeds(14, length, left=left)
    got, expected = dict(measure(model, feeds)), dict(one_by_one(model, feeds))
    # A pooled value has no tokens: it is measured whole. Padding is zero in it, and so is no maximum below.
    assert got["pooled"].count == expected["pooled"].count == 14 * WIDTH
    del got["pooled"], expected["pooled"]
    assert_alike(got, expected)


def test_holes_in_the_mask_are_not_measured() -> None:
    feeds = padded_feeds(6, 9)
    feeds["attention_mask"][:, 0] = 1
    feeds["attention_mask"][:, 3] = 0
    model = encoder()
    got, expected = dict(measure(model, feeds)), dict(one_by_one(model, feeds))
    del got["pooled"], expected["pooled"]
    assert_alike(got, expected)


def test_a_sample_without_any_token_is_left_out() -> None:
    feeds = padded_feeds(6, 5)
    feeds["attention_mask"][2] = 0
    facts = measure(encoder(), feeds)
    assert facts["y"].count == feeds["attention_mask"].sum() * WIDTH


@pytest.mark.parametrize(("b", "t"), [("b", "5"), ("3", "t"), ("3", "5")])
def test_fixed_sizes(b: str, t: str) -> None:
    feeds = padded_feeds(12, 5)
    got = dict(measure(encoder(b, t), feeds, size=3))
    assert_alike(got, measure(encoder(), feeds))


def test_a_model_that_runs_at_one_length_only() -> None:
    feeds = padded_feeds(12, 5)
    facts = measure(encoder(length=5), feeds)
    assert facts["hidden"].count == feeds["attention_mask"].sum() * WIDTH
    assert facts["scores"].count == (feeds["attention_mask"].sum(axis=1) ** 2).sum() * HEADS


@pytest.mark.parametrize("size", [1, 3, 7, 20])
@pytest.mark.parametrize("padded", [False, True])
def test_batch_size_does_not_matter(size: int, padded: bool) -> None:
    feeds = padded_feeds(20, 6)
    if not padded:
        feeds["attention_mask"][:] = 1
    assert_alike(measure(encoder(), feeds, size), measure(encoder(), feeds, 4))


INSIDE = """<ir_version: 10, opset_import: ["" : 17]>
main (float[n,4] x) => (float[n,8] z) { y = Concat <axis = 1> (x, x) z = Relu(y) }"""


@pytest.mark.parametrize(("most", "rows"), [(3 * 2 * 8 * 4, [3, 3]), (3 * 2 * 8 * 4 - 1, [1] * 6)])
def test_samples_run_one_by_one_where_what_is_computed_of_a_batch_is_large(
    most: int, rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = infer_types(ir.from_proto(onnx.parser.parse_model(INSIDE)))
    monkeypatch.setattr(collecting, "HEAVY_INSIDE", most)
    ran, run = [], Session.run

    def counted(session: Session, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        ran.append(len(feeds["x"]))
        return run(session, feeds)

    monkeypatch.setattr(Session, "run", counted)
    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    facts = collect(model, [Need("z", frozenset({Range}))], Listed({"x": x}, 3)).facts["z"]
    assert (ran, facts.low, facts.high) == (rows, 0, 23)


def test_facts_are_those_of_the_values() -> None:
    feeds = padded_feeds(9, 6)
    feeds["attention_mask"][:] = 1
    facts = measure(encoder(), feeds)
    names = [need.value for need in needs()]
    session = open_session(ir.to_proto(encoder()), Run(threads=1), extra_outputs=names)
    ran = session.run(feeds)
    for name in names:
        slack = 1e-5 * np.abs(ran[name]).max()
        np.testing.assert_allclose(
            [facts[name].low, facts[name].high], [ran[name].min(), ran[name].max()], atol=slack
        )
        assert facts[name].count == ran[name].size


FLOATS = """
<ir_version: 10, opset_import: ["" : 17]>
floats (float[n,3] x, float16[n,3] h, double[n,3] d, int64[n,3] i) => (float16[n,3] y, double[n,3] z)
{
    s = Abs(x)
    y = Mul(h, h)
    z = Exp(d)
    j = Neg(i)
}
"""


def float_feeds(count: int = 10) -> dict[str, NDArray[Any]]:
    x = np.random.default_rng(0).normal(size=(count, 3))
    return {"x": x.astype(np.float32), "h": x.astype(np.float16), "d": x, "i": (9 * x).astype(np.int64)}


def collect_floats(*names: str, feeds: Mapping[str, NDArray[Any]] | None = None) -> Mapping[str, Facts]:
    wanted = [Need(name, ALL) for name in names]
    data = Listed(float_feeds() if feeds is None else feeds, 4)
    return collect(ir.from_onnx_text(FLOATS), wanted, data, Run(threads=1)).facts


def test_inputs_outputs_and_other_float_types() -> None:
    feeds = float_feeds()
    facts = collect_floats("x", "h", "d", "s", "y", "z")
    expected = {**feeds, "s": np.abs(feeds["x"]), "y": feeds["h"] * feeds["h"], "z": np.exp(feeds["d"])}
    for name in facts:
        exact = expected[name].astype(np.float32)
        # exp's last bit may differ between NumPy and ONNX Runtime
        np.testing.assert_allclose([facts[name].low, facts[name].high], [exact.min(), exact.max()], rtol=1e-6)
        assert facts[name].count == exact.size


@pytest.mark.parametrize("name", ["i", "j"])
def test_integers_are_refused(name: str) -> None:
    with pytest.raises(PreconditionError, match=f"value '{name}': it holds tensor.int64., not floats"):
        collect_floats(name)


def test_an_unknown_value_is_refused() -> None:
    with pytest.raises(PreconditionError, match="value 'nothing': it is no value of the main graph"):
        collect_floats("x", "nothing")


def test_a_weight_is_refused() -> None:
    with pytest.raises(PreconditionError, match="value 'weight': it is a weight, known without data"):
        collect(encoder(), [Need("weight", ALL)], Listed(padded_feeds(2, 3), 2))


def test_nan_is_refused() -> None:
    feeds = float_feeds()
    feeds["x"][5, 1] = np.nan
    with pytest.raises(
        CalibrationError, match=r"value 's': it is NaN in batch 1 \(samples 4 to 7\)"
    ) as caught:
        collect_floats("s", feeds=feeds)
    assert caught.value.hint is not None
    assert "look at these samples; a float16 model overflows beyond 65504" in caught.value.hint


@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinities_are_facts(bad: float) -> None:
    feeds = float_feeds()
    feeds["x"][5, 1] = bad
    found = collect_floats("x", feeds=feeds)["x"]
    assert bad in (found.low, found.high)
    low, high, _ = found.known(Histogram).ordered()
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()


def test_values_without_elements_leave_an_empty_range() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> m (float[N,0] x) => (float[M,0] y)'
        "{ y = Concat <axis = 0> (x, x) }"
    )
    found = collect(ir.from_proto(model), [Need("y", ALL)], Listed({"x": np.zeros((4, 0), np.float32)}, 2))
    assert found.facts["y"].count == 0
    assert found.facts["y"].low > found.facts["y"].high
    assert found.facts["y"].has(ALL)


def test_no_data_is_refused() -> None:
    with pytest.raises(CalibrationError, match="there is no sample to calibrate on") as caught:
        collect_floats("x", feeds=float_feeds(0))
    assert caught.value.hint == "give data with at least one sample"


def test_nothing_wanted_is_nothing_run() -> None:
    assert collect(encoder(), [], Listed({}, 1)).facts == {}


def test_errors_of_the_runtime_come_through() -> None:
    feeds = padded_feeds(2, 3)
    feeds["input_ids"][0, 0] = 99
    with pytest.raises(ModelError, match="ONNX Runtime failed on these feeds"):
        measure(encoder(), feeds)


def test_progress_counts_samples() -> None:
    done: list[int] = []
    found = collect(
        encoder(), needs(), Listed(padded_feeds(10, 3), 4), Run(threads=1), on_progress=done.append
    )
    assert done == [4, 8, 10]
    assert found.samples == 10


def test_a_model_file_is_measured_in_place(tmp_path: Path) -> None:
    path, feeds = tmp_path / "encoder.onnx", padded_feeds(6, 4)
    ir.save(encoder(), path, external_data="weights.bin")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    facts = collect(path, needs(), Listed(feeds, 4), Run(threads=1)).facts
    assert_alike(facts, measure(encoder(), feeds))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_model_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = encoder()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    measure(model, padded_feeds(6, 4))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert not list(tmp_path.iterdir()), "the temporary copy is gone"
