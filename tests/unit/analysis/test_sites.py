"""Fold sites: what is found, and that folds change no function."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.analysis.sites import find_sites
from onnxq.errors import PreconditionError
from onnxq.ir.module import GraphModule, array_of, name_of, rank_of
from onnxq.quant.encodings import symmetric_encoding
from onnxq.quant.facts import Need
from onnxq.quant.statistics import ChannelRange, Histogram, Rows
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.fold import fold
from onnxq.testing.laws import FeedsData, assert_exact, random_feeds, run_model

HEADER = '<ir_version: 11, opset_import: ["" : 23]>'


def build(body: str, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> GraphModule:
    """Return a module with seeded weights of these shapes; what starts with ``gamma`` is positive."""
    rng = np.random.default_rng(seed)
    proto = onnx.parser.parse_model(f"{HEADER}\n{body}")
    for name, shape in shapes.items():
        array = rng.normal(size=shape).astype(np.float32)
        array = np.abs(array) + np.float32(0.5) if name.startswith(("gamma", "var")) else array
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    module = GraphModule(ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True)))
    for node in module.graph:
        node.name = node.name or name_of(node.outputs[0])
    return module


def folded(module: GraphModule, seed: int, *, powers: bool, shift: bool = False) -> GraphModule:
    """Return a copy in which each site is folded by random factors."""
    copy = module.clone()
    rng = np.random.default_rng(seed)
    edit = Editor(copy)
    for site in find_sites(copy):
        exponents = rng.integers(-4, 5, site.count) if powers else rng.uniform(-3, 3, site.count)
        moved = rng.normal(size=site.count) if shift and site.shift else None
        fold(site, np.exp2(exponents), edit, shift=moved, why="test")
    return copy


def kinds(module: GraphModule) -> list[str]:
    return [site.kind for site in find_sites(module)]


PRE_NORM = (
    """main (float[2,3,D] x) => (float[2,3,D] y) {
    n = LayerNormalization<axis = -1>(x, gamma, beta)
    u = MatMul(n, w1)
    h = Add(u, b1)
    r = Relu(h)
    d = MatMul(r, w2)
    o = Add(b2, d)
    y = Add(o, x)
}""",
    {"gamma": "D", "beta": "D", "w1": "DE", "b1": "E", "w2": "ED", "b2": "D"},
)
POST_NORM = (
    """main (float[2,3,D] x) => (float[2,3,D] y) {
    n = LayerNormalization<axis = -1>(x, gamma, beta)
    u = MatMul(n, w1)
    h = Add(u, b1)
    g = Gelu(h)
    d = MatMul(g, w2)
    o = Add(d, b2)
    s = Sum(o, n)
    y = LayerNormalization<axis = -1>(s, gamma, beta)
}""",
    {"gamma": "D", "beta": "D", "w1": "DE", "b1": "E", "w2": "ED", "b2": "D"},
)
DECOMPOSED = (
    """main (float[2,3,D] x) => (float[2,3,E] y, float[2,3,D] n) <int64[1] last = {-1}> {
    m = ReduceMean(x, last)
    c = Sub(x, m)
    t = Mul(c, gamma)
    n = Add(t, beta)
    u = MatMul(n, w1)
    y = Add(u, b1)
}""",
    {"gamma": "D", "beta": "D", "w1": "DE", "b1": "E"},
)
GEMMS = (
    """main (float[4,D] x) => (float[4,D] y) {
    h = Gemm<transB = 1>(x, w1, b1)
    l = LeakyRelu<alpha = 0.1>(h)
    y = Gemm<alpha = 0.5>(l, w2, b2)
}""",
    {"w1": "ED", "b1": "E", "w2": "ED", "b2": "D"},
)
CONVS = (
    """main (float[2,D,6,6] x) => (float[2,D] y) {
    a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w1, b1)
    n = BatchNormalization(a, gamma, beta, mean, var)
    r = Relu(n)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = E>(p, w2, b2)
    q = PRelu(d, slope)
    t = ConvTranspose<kernel_shape = [2, 2]>(q, w3)
    v = Relu(t)
    g = GlobalAveragePool(v)
    f = Flatten(g)
    y = Gemm(f, w4)
}""",
    {
        "w1": "ED33",
        "b1": "E",
        "gamma": "E",
        "beta": "E",
        "mean": "E",
        "var": "E",
        "w2": "E133",
        "b2": "E",
        "slope": "E11",
        "w3": "ED22",
        "w4": "DD",
    },
)
GROUPED = (
    """main (float[2,D,4,4] x) => (float[2,D,4,4] y) {
    a = Conv<kernel_shape = [1, 1]>(x, w1, b1)
    r = Relu(a)
    y = Conv<kernel_shape = [1, 1], group = 2>(r, w2)
}""",
    {"w1": "ED11", "b1": "E", "w2": "DH11"},
)
ATTENTION = (
    """main (float[2,3,D] x) => (float[2,3,D] y) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v0 = MatMul(x, wv)
    v = Add(v0, bv)
    c = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
    o = MatMul(c, wo)
    y = Add(o, bo)
}""",
    {"wq": "DD", "wk": "DD", "wv": "DD", "bv": "D", "wo": "DD", "bo": "D"},
)
HEADS = (
    """main (float[2,3,D] x) => (float[2,3,D] y)
    <int64[4] split = {2, 3, 2, -1}, int64[3] merge = {0, 0, -1}, float root = {1.5}>
{
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v0 = MatMul(x, wv)
    v = Add(v0, bv)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    s = MatMul(qt, kt)
    d = Div(s, root)
    p = Softmax(d)
    c = MatMul(p, vt)
    ct = Transpose<perm = [0, 2, 1, 3]>(c)
    m = Reshape(ct, merge)
    o = MatMul(m, wo)
    y = Add(o, bo)
}""",
    {"wq": "DD", "wk": "DD", "wv": "DD", "bv": "D", "wo": "DD", "bo": "D"},
)
COMPUTED_HEADS = (
    """main (float[N,T,D] x) => (float[N,T,D] y)
    <int64[1] two = {2}, int64[1] size = {H}, int64[1] wide = {D}>
{
    n = Shape<start = 0, end = 1>(x)
    t = Shape<start = 1, end = 2>(x)
    split = Concat<axis = 0>(n, t, two, size)
    merge = Concat<axis = 0>(n, t, wide)
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v0 = MatMul(x, wv)
    v = Add(v0, bv)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    s = MatMul(qt, kt)
    p = Softmax(s)
    c = MatMul(p, vt)
    ct = Transpose<perm = [0, 2, 1, 3]>(c)
    m = Reshape(ct, merge)
    o = MatMul(m, wo)
    y = Add(o, bo)
}""",
    {"wq": "DD", "wk": "DD", "wv": "DD", "bv": "D", "wo": "DD", "bo": "D"},
)
"""As exporters write it where the batch and the number of tokens are open."""
SHARED = (
    """main (float[2,3,D] x) => (float[2,3,E] y, float[2,3,D] z) {
    n = LayerNormalization<axis = -1>(x, gamma, beta)
    m = RMSNormalization<axis = -1>(x, gamma)
    a = MatMul(n, w)
    b = MatMul(m, w)
    y = Add(a, b)
    z = Mul(n, gamma)
}""",
    {"gamma": "D", "beta": "D", "w": "DE"},
)
GRAPHS = {
    "pre_norm": PRE_NORM,
    "post_norm": POST_NORM,
    "decomposed": DECOMPOSED,
    "gemms": GEMMS,
    "convs": CONVS,
    "grouped": GROUPED,
    "attention": ATTENTION,
    "heads": HEADS,
    "computed heads": COMPUTED_HEADS,
    "shared": SHARED,
}
KINDS = {
    "pre_norm": ["norm", "relu"],
    "post_norm": ["norm", "activation"],
    "decomposed": ["norm"],
    "gemms": ["activation", "relu"],
    "convs": ["activation", "norm", "relu", "relu"],
    "grouped": ["activation", "relu"],
    "attention": ["activation", "query-key", "value"],
    "heads": ["activation", "query-key", "value"],
    "computed heads": ["activation", "query-key", "value"],
    "shared": ["norm", "norm"],
}


def sized(name: str, wide: int, inner: int, seed: int = 0) -> GraphModule:
    """Return one of ``GRAPHS`` with D = ``wide`` channels outside and E = ``inner`` channels inside."""
    body, shapes = GRAPHS[name]
    lengths = {"D": wide, "E": inner, "H": inner // 2}
    body = body.replace("D]", f"{wide}]").replace(",D,", f",{wide},").replace("E]", f"{inner}]")
    body = body.replace("= E", f"= {inner}").replace("{H}", f"{{{wide // 2}}}").replace("{D}", f"{{{wide}}}")
    full = {
        weight: tuple(lengths[c] if c in lengths else int(c) for c in axes) for weight, axes in shapes.items()
    }
    return build(body, full, seed)


@pytest.mark.parametrize("name", GRAPHS)
def test_sites_are_found(name: str) -> None:
    assert kinds(sized(name, 4, 6)) == KINDS[name]


def test_heads_are_followed_where_only_the_wanted_shapes_tell_their_sizes() -> None:
    module = sized("computed heads", 4, 6)
    for value in (value for node in module.graph for value in node.outputs):
        if rank_of(value) == 4:
            value.shape = ir.Shape([None] * 4)
    assert kinds(module) == KINDS["computed heads"]


@pytest.mark.parametrize("name", GRAPHS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(half_wide=st.integers(1, 5), half_inner=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_powers_of_two_fold_bit_for_bit(name: str, half_wide: int, half_inner: int, seed: int) -> None:
    module = sized(name, 2 * half_wide, 2 * half_inner, seed)
    feeds = random_feeds(module, seed)
    before, after = run_model(module, feeds), run_model(folded(module, seed, powers=True), feeds)
    for output, array in before.items():
        np.testing.assert_array_equal(after[output], array, output)


@pytest.mark.parametrize("name", GRAPHS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(half_wide=st.integers(1, 5), half_inner=st.integers(1, 6), seed=st.integers(0, 2**16))
def test_any_factors_and_shifts_fold_within_rounding(
    name: str, half_wide: int, half_inner: int, seed: int
) -> None:
    module = sized(name, 2 * half_wide, 2 * half_inner, seed)
    assert_exact(module, folded(module, seed, powers=False, shift=True), random_feeds(module, seed))


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("shift", [False, True])
def test_facts_move_with_the_values(name: str, shift: bool) -> None:
    """What moves is what a measurement of the folded graph gives, up to its rounding."""
    module = sized(name, 4, 6)
    data = FeedsData([random_feeds(module, seed) for seed in range(2)])
    wanted = frozenset({ChannelRange, Rows, Histogram})
    places = [place for site in find_sites(module) for place in site.places if place.channels.axis]
    needs = [Need(name_of(place.value), wanted, place.channels.axis or -1) for place in places]
    module.learn(data.measure(module, needs))
    after = folded(module, 1, powers=False, shift=shift)
    known = {name: facts for name, facts in after.facts().items() if "folded" in name}
    assert known
    axes = {(name, axis) for name, facts in known.items() for axis in facts.axes}
    found = data.measure(after, [Need(name, wanted, axis) for name, axis in sorted(axes)])
    for value, axis in axes:
        facts = known[value]
        rows = facts.known(Rows, axis).values  # the bins are theirs, moved
        np.testing.assert_array_equal(facts.known(Histogram).counts, Histogram.of(rows).counts)
        # Both sides round a few times; factors up to 8 and numbers near 1 leave errors far below 1e-3.
        scale = max(abs(found[value].low), abs(found[value].high), 1)
        assert facts.low == pytest.approx(found[value].low, abs=1e-4 * scale)
        for kind, part in ((ChannelRange, "low"), (ChannelRange, "high"), (Rows, "values")):
            moved, again = (getattr(one.known(kind, axis), part) for one in (facts, found[value]))
            np.testing.assert_allclose(moved, again, atol=1e-4 * scale)


def test_what_folds_change_is_a_copy() -> None:
    module = sized("shared", 4, 6)
    after = folded(module, 0, powers=True)
    for name in ("gamma", "beta", "w"):
        before, kept = module.graph.initializers[name], after.graph.initializers[name]
        np.testing.assert_array_equal(array_of(kept), array_of(before))


def test_an_output_keeps_its_name_and_its_numbers() -> None:
    after = folded(sized("shared", 4, 6), 0, powers=True)
    assert [name_of(value) for value in after.graph.outputs] == ["y", "z"]
    made = {node.op_type: name_of(node.outputs[0]) for node in after.graph}
    assert made["LayerNormalization"] == "n_folded"
    assert made["RMSNormalization"] == "m_folded"


def test_a_second_fold_needs_no_second_node() -> None:
    module = sized("post_norm", 4, 6)
    norm = lambda module: next(site for site in find_sites(module) if site.kind == "norm")  # noqa: E731
    edit, scale = Editor(module), np.full(4, 2.0)
    fold(norm(module), scale, edit, shift=np.ones(4), why="test")
    count = len(list(module.graph))
    assert not norm(module).paid
    fold(norm(module), scale, edit, shift=np.ones(4), why="test")
    assert len(list(module.graph)) == count
    feeds = random_feeds(module, 0)
    assert_exact(sized("post_norm", 4, 6), module, feeds)


def test_what_is_encoded_is_no_site() -> None:
    module = sized("decomposed", 4, 6)
    edit = Editor(module)
    edit.encode(module.graph.initializers["w1"], symmetric_encoding(1.0), why="test")
    assert find_sites(module) == []


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        (np.ones(3), None, "the scale must be 6 finite numbers"),
        (np.full(6, np.nan), None, "the scale must be 6 finite numbers"),
        (-np.ones(6), None, "every scale must be positive"),
        (np.ones(6), np.ones(6), "no shift can be folded here"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    scale: np.ndarray, shift: np.ndarray | None, message: str
) -> None:
    module = sized("gemms", 4, 6)
    site = next(site for site in find_sites(module) if site.kind == "relu")
    with pytest.raises(PreconditionError, match=message):
        fold(site, scale, Editor(module), shift=shift, why="test")


NO_SITES = {
    "an output is clipped": "c = Clip(h, zero, six)\n y = MatMul(c, w2)",
    "channels are mixed": "c = Softmax(h)\n y = MatMul(c, w2)",
    "they turn around": "c = Transpose<perm = [1, 0]>(h)\n y = MatMul(c, w3)",
}


@pytest.mark.parametrize("tail", NO_SITES.values(), ids=NO_SITES)
def test_where_channels_do_not_pass_a_mul_is_offered(tail: str) -> None:
    body = "main (float[3,4] x) => (float[A,B] y) <float zero = {0}, float six = {6}>"
    module = build(f"{body} {{ h = MatMul(x, w1)\n {tail} }}", {"w1": (4, 6), "w2": (6, 2), "w3": (3, 2)})
    assert kinds(module) == ["activation", "activation"]
    feeds = random_feeds(module, 0)
    assert_exact(module, folded(module, 0, powers=False, shift=True), feeds)


def test_a_vector_has_no_channels() -> None:
    """A product sums over its one axis, and where it is measured that axis counts for samples."""
    body = """main (float[8] x, float[8,8] a) => (float[4] y) {
        n = LayerNormalization(x, gamma, beta)
        h = MatMul(a, n)
        y = MatMul(h, w)
    }"""
    assert kinds(build(body, {"gamma": (8,), "beta": (8,), "w": (8, 4)})) == []


def test_one_scale_for_all_channels_is_no_site() -> None:
    """LayerNormalization broadcasts a scale of one number, which has no channels to divide."""
    body = """main (float[3,8] x) => (float[3,4] y) {
        n = LayerNormalization(x, gamma, beta)
        u = MatMul(n, w)
        y = Add(u, b)
    }"""
    module = build(body, {"gamma": (1,), "beta": (8,), "w": (8, 4), "b": (4,)})
    assert kinds(module) == ["activation"]
    assert_exact(module, folded(module, 1, powers=False, shift=True), random_feeds(module, 0))


def test_a_summand_of_one_column_takes_no_shift() -> None:
    body = """main (float[3,8] x) => (float[3,4] y, float[3,8] z) {
        n = LayerNormalization(x, gamma, beta)
        u = MatMul(n, w)
        y = Add(u, b)
        g = Gemm(x, narrow, c)
        z = Add(n, g)
    }"""
    shapes = {"gamma": (8,), "beta": (8,), "w": (8, 4), "b": (4,), "narrow": (8, 1), "c": (1,)}
    module = build(body, shapes)
    assert find_sites(module)[-1].shift
    assert_exact(module, folded(module, 1, powers=False, shift=True), random_feeds(module, 0))


def test_a_long_chain_is_followed_for_a_while() -> None:
    """A walk that went on to the end would exhaust Python's stack."""
    relus = [f"r{step + 1} = Relu(r{step})" for step in range(2000)]
    body = "\n".join(
        ["main (float[3,8] x) => (float[3,4] y) {", "r0 = MatMul(x, v)", *relus, "y = MatMul(r2000, w)}"]
    )
    module = build(body, {"v": (8, 8), "w": (8, 4)})
    assert kinds(module) == ["activation", "activation"]
