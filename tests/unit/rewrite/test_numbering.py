"""Numbered channels: which ones belong together, which take no scale, and that a fold changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.numbering import Numbering
from onnxq.target import find_target
from onnxq.testing.laws import assert_exact, random_feeds

HEAD = '<ir_version: 10, opset_import: ["" : 21]>'


def _module(body: str, weights: dict[str, tuple[int, ...]], outputs: str) -> GraphModule:
    rng = np.random.default_rng(0)
    arrays = ", ".join(
        f"float[{','.join(map(str, shape))}] {name} = "
        f"{{{', '.join(f'{number:.4f}' for number in rng.normal(size=shape).ravel())}}}"
        for name, shape in weights.items()
    )
    module = parse(f"{HEAD}\nmain (float[N,2,6,6] x) => ({outputs}) <{arrays}> {{ {body} }}")
    PassManager(parse_pipeline("infer-shapes"), find_target("cpu")).run(module)
    return module


FIRE = _module(
    """
    [squeeze] a = Conv(x, w1, b1)
    [act1] s = Relu(a)
    [narrow] b = Conv(s, w2)
    [act2] c = Relu(b)
    [wide] d = Conv<pads = [1, 1, 1, 1]>(s, w3)
    [act3] e = LeakyRelu(d)
    [join] f = Concat<axis = 1>(c, e)
    [pool] g = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(f)
    [depth] h = Conv<group = 7>(g, w4)
    [mean] i = GlobalAveragePool(h)
    [flat] j = Flatten(i)
    [last] y = Gemm(j, w5)
    """,
    {
        "w1": (5, 2, 1, 1),
        "b1": (5,),
        "w2": (3, 5, 1, 1),
        "w3": (4, 5, 3, 3),
        "w4": (7, 1, 3, 3),
        "w5": (7, 2),
    },
    "float[N,2] y",
)


def _fresh(module: GraphModule) -> GraphModule:
    return GraphModule(module.model.clone())


def test_what_is_joined_has_the_numbers_of_both() -> None:
    found = Numbering.of(FIRE)
    numbers = {value.name: part.tolist() for value, part in found.numbers.items()}
    assert numbers["a"] == numbers["s"] == [0, 1, 2, 3, 4]
    assert numbers["g"] == numbers["f"] == numbers["c"] + numbers["e"] == [*range(5, 12)]
    assert numbers["j"] == numbers["h"] == [*range(12, 19)]
    assert [consumer.layer.node.name for consumer in found.consumers] == ["narrow", "wide", "depth", "last"]
    assert [value.name for value in found.read] == ["s", "g", "j"]
    assert found.pinned == {*numbers["y"]}


@pytest.mark.parametrize("seed", range(5))
def test_a_fold_changes_nothing_but_the_numbers_between(seed: int) -> None:
    module, before = _fresh(FIRE), _fresh(FIRE)
    found = Numbering.of(module)
    scale = np.random.default_rng(seed).uniform(0.1, 10, found.count)
    scale[sorted(found.pinned)] = 1
    found.fold(scale, Editor(module), why="a test")
    assert {"s_folded", "g_folded", "j_folded"} <= {value.name for value in module.values()}
    assert_exact(before, module, random_feeds(before, seed))


@pytest.mark.parametrize(
    ("body", "outputs", "pinned"),
    [
        ("[r] y = Relu(a)", "float[N,5,6,6] y", {*range(5)}),
        ("[c] y = Conv(a, w2) [s] z = Sigmoid(a)", "float[N,3,6,6] y, float[N,5,6,6] z", {*range(8)}),
        ("[c] y = Conv(a, w2) [s] z = Add(a, a)", "float[N,3,6,6] y, float[N,5,6,6] z", {*range(8)}),
        (
            "[c] b = Conv(a, w2) [j] e = Concat<axis = 2>(a, a) [d] y = Conv(e, w2) [f] z = Relu(b)",
            "float[N,3,12,6] y, float[N,3,6,6] z",
            {*range(11)},
        ),
        ("[c] b = Conv(a, w2) [r] s = Relu(b) [d] y = Conv(s, w6)", "float[N,1,6,6] y", {8}),
    ],
)
def test_what_others_read_is_pinned(body: str, outputs: str, pinned: set[int]) -> None:
    weights = {"w1": (5, 2, 1, 1), "w2": (3, 5, 1, 1), "w6": (1, 3, 1, 1)}
    assert Numbering.of(_module(f"[a] a = Conv(x, w1) {body}", weights, outputs)).pinned == pinned


def test_what_is_encoded_is_pinned() -> None:
    module = _fresh(FIRE)
    PassManager(parse_pipeline("encode-weights"), find_target("cpu")).run(module)
    found = Numbering.of(module)
    assert found.pinned == {*range(found.count)}
