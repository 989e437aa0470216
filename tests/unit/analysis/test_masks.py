"""What masks rule out, read off graphs as exporters write them."""

import math

import onnx_ir as ir
import pytest
import sympy

from onnxq.analysis.cases import AtMostZero, IsSet
from onnxq.analysis.masks import BATCH, KEY, QUERY, Ruling, ruling_of
from onnxq.analysis.padding import key_lengths_of
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[B,S,8] x, int64[B,T] flags, bool[B,T] bits, int64[B] lengths, float[B,2,P,4] past,
      float[B,T] floats) => ({dtype}[a,b,c,d] mask)
<int64 zero = {{0}}, int64 one = {{1}}, int64 two = {{2}}, int64 window = {{4}}, int64 minus = {{-2}},
 int64[1] flat = {{-1}}, int64[1] first = {{0}}, int64[1] second = {{1}},
 int64[2] middle = {{1, 2}}, int64[3] behind = {{1, 2, 3}},
 int64[3] before = {{0, 1, 2}}, int64[3] around = {{0, 1, 3}}, float nothing = {{0}},
 float whole = {{1}}, float much = {{-10000}}, float least = {{-3.4028234663852886e+38}}>
{{
    xs = Shape(x)
    S = Gather(xs, one)
    B = Gather(xs, zero)
    ps = Shape(past)
    P = Gather(ps, two)
    all = Add(P, S)
    query_places = Range(P, all, one)
    key_places = Range(zero, all, one)
    q = Unsqueeze(query_places, around)
    k = Unsqueeze(key_places, before)
    seen = LessOrEqual(k, q)
    {body}
}}"""
FLAGS = "wide = Unsqueeze(flags, middle)\n"
LOOKED_UP = """
    truths = Cast <to = 9> (flags)
    samples = Range(zero, B, one)
    b = Unsqueeze(samples, behind)
    fs = Shape(truths)
    length = Gather(fs, one)
    rows = Mul(b, length)
    places = Add(k, rows)
    row = Flatten <axis = 2> (truths)
    found = Gather(row, places)
    shape = Shape(places)
    in_a_row = Reshape(found, flat)
    real = Reshape(in_a_row, shape)
    keep = And(seen, real)
    """

LOOKED_UP_BY_TWO = """
    truths = Cast <to = 9> (flags)
    samples = Range(zero, B, one)
    b = Unsqueeze(samples, second)
    before_1 = Shape <start = 2, end = 3> (past)
    before_0 = Squeeze(before_1)
    keys = Add(before_0, S)
    places = Range(zero, keys, one)
    kb = Unsqueeze(places, first)
    joined = Max(b, kb)
    wide = Shape(joined)
    bw = Expand(b, wide)
    kw = Expand(kb, wide)
    b3 = Unsqueeze(bw, flat)
    k3 = Unsqueeze(kw, flat)
    pairs = Concat <axis = -1> (b3, k3)
    found = GatherND(truths, pairs)
    real = Unsqueeze(found, second)
    qs = Unsqueeze(query_places, second)
    earlier = LessOrEqual(kb, qs)
    both = And(earlier, real)
    B1 = Reshape(B, flat)
    S1 = Reshape(S, flat)
    all1 = Reshape(keys, flat)
    four = Concat <axis = 0> (B1, second, S1, all1)
    keep = Reshape(both, four)
    mask = Where(keep, nothing, least)"""


def ruling(body: str, dtype: str = "float", **shapes: list[str]) -> Ruling | None:
    """Return what the mask says; ``shapes`` are those that the exporter has told."""
    module = parse(TEXT.format(body=body, dtype=dtype))
    PassManager(parse_pipeline("infer-shapes"), find_target("cuda")).run(module)
    for value in module.values():
        if value.name in shapes:
            value.shape = ir.Shape(shapes[value.name])
    return ruling_of(module.graph.outputs[0])


def plain(found: Ruling | None) -> set[str]:
    assert found is not None
    return {
        str(one.expression) if isinstance(one, AtMostZero) else f"{one.value.name}{one.index}"
        for one in found.conditions
    }


CAUSAL = str(KEY - QUERY - sympy.Symbol("length P", integer=True))
PADDING = f"flags{(BATCH, KEY)}"


@pytest.mark.parametrize(
    ("body", "dtype", "conditions", "entry"),
    [
        ("mask = Identity(seen)", "bool", {CAUSAL}, -math.inf),
        ("mask = Where(seen, nothing, least)", "float", {CAUSAL}, -3.4028234663852886e38),
        ("hid = Not(seen) mask = Where(hid, least, nothing)", "float", {CAUSAL}, -3.4028234663852886e38),
        (f"{FLAGS} real = Cast <to = 9> (wide) mask = And(real, seen)", "bool", {CAUSAL, PADDING}, -math.inf),
        (f"{FLAGS} f = Cast <to = 1> (wide) g = Sub(whole, f) mask = Mul(g, much)", "float", {PADDING}, -1e4),
        (
            f"{FLAGS} f = Cast <to = 1> (wide) g = Sub(whole, f) h = Cast <to = 9> (g) "
            "mask = Where(h, least, g)",
            "float",
            {PADDING},
            -3.4028234663852886e38,
        ),
        (
            f"{FLAGS} e = Equal(wide, zero) hid = Not(seen) h = Or(e, hid) mask = Where(h, least, nothing)",
            "float",
            {CAUSAL, PADDING},
            -3.4028234663852886e38,
        ),
        (
            f"{FLAGS} g = Greater(wide, zero) m = Where(g, nothing, much) n = Where(seen, nothing, least) "
            "mask = Add(m, n)",
            "float",
            {CAUSAL, PADDING},
            -1e4,
        ),
        (f"{LOOKED_UP} mask = Identity(keep)", "bool", {CAUSAL, PADDING}, -math.inf),
        ("f = Cast <to = 9> (flags) mask = Unsqueeze(f, middle)", "bool", {PADDING}, -math.inf),
        (
            "S2 = Gather(xs, minus) all_2 = Add(P, S2) rows = Range(P, all_2, one) "
            "row = Unsqueeze(rows, around) mask = LessOrEqual(k, row)",
            "bool",
            {CAUSAL},
            -math.inf,
        ),
        (
            "low = Sub(q, window) near = Greater(k, low) mask = And(seen, near)",
            "bool",
            {CAUSAL, str(QUERY + sympy.Symbol("length P", integer=True) - KEY - 3)},
            -math.inf,
        ),
    ],
)
def test_a_mask_is_read(body: str, dtype: str, conditions: set[str], entry: float) -> None:
    found = ruling(body, dtype)
    assert plain(found) == conditions
    assert found is not None
    assert found.entry == entry


@pytest.mark.parametrize(
    ("body", "dtype"),
    [
        ("wide = Unsqueeze(floats, middle) mask = Where(seen, wide, least)", "float"),
        ("t = Cast <to = 1> (seen) mask = Mul(t, least)", "float"),  # rules out what may be seen
        (f"{FLAGS} r = Cast <to = 9> (wide) mask = Or(r, seen)", "bool"),
        ("moved = Add(k, one) p = Mul(moved, B) mask = LessOrEqual(p, q)", "float"),  # of another type
        ("t = Trilu(past) mask = Identity(t)", "float"),
        (  # would take 2 ** 40 steps
            "m0 = Where(seen, nothing, least) "
            + " ".join(f"m{n + 1} = Add(m{n}, m{n})" for n in range(40))
            + " mask = Identity(m40)",
            "float",
        ),
        (  # deeper than anybody follows
            "m0 = Where(seen, nothing, least) "
            + " ".join(f"m{n + 1} = Identity(m{n})" for n in range(400))
            + " mask = Identity(m400)",
            "float",
        ),
    ],
)
def test_what_else_a_graph_may_do_is_not_guessed(body: str, dtype: str) -> None:
    assert ruling(body, dtype) is None


LENGTHS = "wide = Unsqueeze(lengths, behind) mask = Less(k, wide)"


def test_lengths_that_the_model_takes_need_no_word() -> None:
    module = parse(TEXT.format(body=LENGTHS, dtype="bool"))
    PassManager(parse_pipeline("infer-shapes"), find_target("cuda")).run(module)
    found = key_lengths_of(module.graph.outputs[0])
    assert found is not None
    assert (found.source.name, found.flags) == ("lengths", False)


@pytest.mark.parametrize(
    "body",
    [
        "mask = Identity(seen)",
        LENGTHS.replace("Less(", "LessOrEqual("),
        "wide = Unsqueeze(lengths, behind) within = Less(k, wide) mask = And(within, seen)",
        "wide = Unsqueeze(lengths, behind) mask = Less(q, wide)",
    ],
)
def test_other_masks_have_no_lengths(body: str) -> None:
    module = parse(TEXT.format(body=body, dtype="bool"))
    PassManager(parse_pipeline("infer-shapes"), find_target("cuda")).run(module)
    assert key_lengths_of(module.graph.outputs[0]) is None


def test_flags_are_of_the_sample_and_the_key() -> None:
    found = ruling(f"{FLAGS} mask = Cast <to = 9> (wide)", "bool")
    assert found is not None
    (condition,) = found.conditions
    assert isinstance(condition, IsSet)
    assert (condition.value.name, condition.index) == ("flags", (BATCH, KEY))


def test_flags_looked_up_by_sample_and_key_are_read() -> None:
    """As torch's dynamo exporter writes masks: GatherND, and a sum of two lengths as one axis."""
    found = ruling(LOOKED_UP_BY_TWO, both=["B", "S", "S + P"])
    assert found is not None
    causal, flags = AtMostZero(KEY - QUERY - sympy.Symbol("length P", integer=True)), (BATCH, KEY)
    assert causal in found.conditions
    assert [one.index for one in found.conditions if isinstance(one, IsSet)] == [flags]
