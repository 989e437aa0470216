"""Weights stay within what the processor's integer kernels add up, whatever recipe or pass makes them."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.analysis.products import saturating_products
from onnxq.ir.module import LINEAR, GraphModule, attribute, constant_of, input_of, is_standard
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.processor import EXACT_LIMIT, PROCESSORS, at_hand
from onnxq.recipe import Recipe, load_recipe, shipped_recipes
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, run_model

Build = Callable[..., GraphModule]

EXACT = [name for name, one in PROCESSORS.items() if not one.saturates]
SATURATING = [name for name, one in PROCESSORS.items() if one.saturates]
ALL = 127
WEIGHTS = {
    "dense": (8, 4, 3, 3),
    "depthwise": (8, 1, 3, 3),
    "grouped": (8, 2, 1, 1),
    "transposed": (8, 4, 2, 2),
    "gemm": (4, 8),
    "product": (8, 6),
}
GRAPH = """main (float[N,4,6,6] x) => (float[N,6] y) {
    a = Conv(x, dense)  b = Relu(a)
    c = Conv <group = 8> (b, depthwise)  d = Relu(c)
    e = Conv <group = 4> (d, grouped)
    f = ConvTranspose(e, transposed)
    g = GlobalAveragePool(f)  h = Flatten(g)
    i = Gemm(h, gemm)  j = Relu(i)
    y = MatMul(j, product)
}"""
"""A layer of every kind, called by its weight."""
NARROW = frozenset({"dense", "grouped", "gemm", "product"})
"""Those that meet a kernel that saturates; the others multiply in wider integers, or in float."""

TIDY = "convert-opset{minimum=13}, infer-shapes"
STATIC = "encode-activations, insert-qdq, remove-dead"


@pytest.fixture
def network(build: Build) -> GraphModule:
    rng = np.random.default_rng(0)
    # Laplace's tails are what mse cuts off: there rounding may leave the range.
    weights = {name: rng.laplace(size=shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    return build(GRAPH, weights)


def compiled(module: GraphModule, recipe: Recipe, processor: str) -> GraphModule:
    """Return what a recipe makes of a module for a processor."""
    rng = np.random.default_rng(1)
    data = FeedsData([{"x": rng.normal(size=(4, 4, 6, 6)).astype(np.float32)}])
    target = recipe.model_copy(update={"processor": processor}).runs_on
    copy = GraphModule(module.model.clone())
    PassManager(parse_pipeline(recipe.pipeline), target, measure=data.measure).run(copy)
    return copy


def integer_weights(module: GraphModule) -> Iterator[tuple[str, ir.Node, NDArray[np.int8]]]:
    """Yield each int8 weight that meets a layer, with its kind, which is the start of its name."""
    for node in module.graph:
        if node.op_type not in (*LINEAR, "MatMulIntegerToFloat"):
            continue
        weight = input_of(node, 1)
        producer = None if weight is None else weight.producer()
        integers = constant_of(weight if producer is None else input_of(producer, 0))
        if weight is not None and integers is not None and integers.dtype == np.int8:
            name = str(weight.name if producer is None else producer.inputs[0].name)
            yield next(kind for kind in WEIGHTS if name.startswith(kind)), node, integers


def largest(module: GraphModule) -> dict[str, int]:
    """Return the largest magnitude of each int8 weight, by its kind."""
    found: dict[str, int] = {}
    for kind, _, integers in integer_weights(module):
        found[kind] = max(found.get(kind, 0), int(np.abs(integers.astype(int)).max()))
    return found


def sums_by_vpmaddubsw(x: NDArray[np.int64], weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add up products as VPMADDUBSW does: two neighbours in 16 bits with saturation, all pairs in 32 bits."""
    products = x * weight
    if len(products) % 2:
        products = np.append(products, np.zeros_like(products[:1]), axis=0)
    return np.clip(products[::2] + products[1::2], -(2**15), 2**15 - 1).sum(axis=0)


def orders_of_kernels(node: ir.Node, weight: NDArray[np.int8]) -> Iterator[NDArray[np.int64]]:
    """Yield a weight, one column for each output, as kernels may read it: by channels, by places, shifted."""
    wide = weight.astype(np.int64)
    if is_standard(node, "Conv"):
        matrices = [wide.reshape(len(wide), -1).T, np.moveaxis(wide, 1, -1).reshape(len(wide), -1).T]
    elif attribute(node, "transB", 0):
        matrices = [wide.T]
    else:
        matrices = [wide]
    for matrix in matrices:
        yield from (matrix, matrix[1:])


def assert_worst_cases_are_exact(module: GraphModule) -> None:
    """Feed each column the inputs that push its pairs furthest, up and down."""
    for kind, node, integers in integer_weights(module):
        for matrix in orders_of_kernels(node, integers) if kind in NARROW else ():
            for x in (255 * (matrix > 0), 255 * (matrix < 0), np.full_like(matrix, 255)):
                np.testing.assert_array_equal(sums_by_vpmaddubsw(x, matrix), (x * matrix).sum(axis=0), kind)


def recipes() -> Iterator[Recipe]:
    """Yield every way to make int8 weights that meet integers on the CPU."""
    for recipe in shipped_recipes():
        if find_target(recipe.target).provider == "cpu" and "encode-activations" in recipe.pipeline:
            yield recipe
    yield load_recipe("cpu-dynamic")
    for option in ("method=mse", "granularity=tensor"):
        yield (
            load_recipe("cpu").with_options([f"encode-weights.{option}"]).model_copy(update={"name": option})
        )
    chosen = load_recipe("portable").with_options(
        ["encode-weights.method=mse", "round-weights=on", "equalize-activations=on"]
    )
    yield chosen.model_copy(update={"name": "chosen"})
    for name, split in (("eight bits", "bits=8"), ("branches", "mode=branches, bits=8")):
        yield Recipe(name=name, pipeline=f"{TIDY}, split-linear{{{split}}}, {STATIC}")
    later = f"{TIDY}, encode-activations{{scope=all-tensors}}, encode-weights, insert-qdq, remove-dead"
    yield Recipe(name="activations first", pipeline=later)


@pytest.mark.parametrize("recipe", list(recipes()), ids=lambda recipe: recipe.name)
def test_weights_that_meet_integers_keep_within_the_processor(network: GraphModule, recipe: Recipe) -> None:
    saturating = compiled(network, recipe, "avx2")
    narrow = largest(saturating)
    wide = largest(compiled(network, recipe, "avx512_vnni"))
    assert narrow.keys() == wide.keys()
    assert NARROW & wide.keys(), "nothing was quantized"
    assert_worst_cases_are_exact(saturating)
    for name, most in narrow.items():
        assert wide[name] >= ALL - 2, name  # the whole grid is in use, but for what rounding moves inwards
        assert most >= (EXACT_LIMIT if name in NARROW else ALL) - 2, name


@pytest.mark.parametrize("processor", PROCESSORS)
def test_each_processor_gets_what_it_adds_up(network: GraphModule, processor: str) -> None:
    module = compiled(network, load_recipe("portable"), processor)
    found = largest(module)
    assert found.keys() == WEIGHTS.keys()
    if processor in SATURATING:
        assert_worst_cases_are_exact(module)
        assert all(EXACT_LIMIT <= found[name] <= ALL for name in NARROW)
    else:
        with pytest.raises(AssertionError):
            assert_worst_cases_are_exact(module)
    assert all(found[name] == ALL for name in WEIGHTS if name not in NARROW or processor not in SATURATING)


@pytest.mark.parametrize(
    "recipe",
    [
        load_recipe("weight-only"),
        load_recipe("tensorrt"),
        Recipe(
            name="pipeline", pipeline=f"{TIDY}, encode-weights, insert-qdq, remove-dead", target="portable"
        ),
        Recipe(
            name="16 bits",
            pipeline=f"{TIDY}, encode-weights, encode-activations{{dtype=uint16}}, insert-qdq, remove-dead",
        ),
    ],
    ids=lambda recipe: recipe.name,
)
def test_no_bit_is_lost_where_no_kernel_saturates(network: GraphModule, recipe: Recipe) -> None:
    module = compiled(network, recipe, "avx2")
    assert set(largest(module).values()) == {ALL}
    if recipe.name in ("weight-only", "pipeline"):
        assert not saturating_products(module)


@pytest.mark.parametrize("bits", [7, 8])
def test_bits_that_are_given_are_taken(network: GraphModule, bits: int) -> None:
    recipe = load_recipe("cpu").with_options([f"encode-weights.bits={bits}"])
    for processor in ("avx2", "amx"):
        assert set(largest(compiled(network, recipe, processor)).values()) == {2 ** (bits - 1) - 1}


@pytest.mark.parametrize("recipe", ["cpu", "portable", "cpu-dynamic"])
def test_what_can_saturate_is_found(network: GraphModule, recipe: str) -> None:
    assert not saturating_products(compiled(network, load_recipe(recipe), "avx2"))
    module = compiled(network, load_recipe(recipe), "amx")
    # Without data only the products are in integers, and the Gemm is one.
    assert len(saturating_products(module)) == (2 if recipe == "cpu-dynamic" else len(NARROW))


WORST = {
    "Conv(x, w)": ((2, 4, 6, 6), (8, 4, 3, 3)),
    "Conv <group = 8> (x, w)": ((2, 8, 6, 6), (8, 1, 3, 3)),
    "Conv <group = 4> (x, w)": ((2, 8, 6, 6), (8, 2, 1, 1)),
    "ConvTranspose(x, w)": ((2, 8, 6, 6), (8, 4, 2, 2)),
    "Gemm(x, w)": ((2, 16), (16, 8)),
    "MatMul(x, w)": ((1, 16), (16, 8)),
    "MatMul (x, w)": ((3, 2, 16), (3, 16, 8)),
}
"""Layers with the shapes of their inputs and weights."""


@pytest.mark.parametrize("recipe", ["cpu", "portable", "all-tensors"])
@pytest.mark.parametrize("operator", WORST)
def test_the_kernels_of_this_processor_add_up_what_is_compiled_for_it(
    build: Build, recipe: str, operator: str
) -> None:
    """The worst case: the largest inputs and the largest weights, all of one sign.

    All inputs are one number and all weights another, the last ones of their grids, so that quantizing
    costs a few roundings in float32. A quantized output adds at most a step, 1/255 of the largest.
    """
    given, shape = WORST[operator]
    axes, rank = ",".join(["N", *map(str, given[1:])]), len(given)
    body = f"main (float[{axes}] x) => (float[{','.join('ABCD'[:rank])}] y) {{ y = {operator} }}"
    module, feeds = build(body, {"w": np.ones(shape, np.float32)}), {"x": np.ones(given, np.float32)}
    exact, passes = run_model(module, feeds)["y"], parse_pipeline(load_recipe(recipe).pipeline)
    target = load_recipe(recipe).model_copy(update={"processor": at_hand().name}).runs_on
    PassManager(passes, target, measure=FeedsData([feeds]).measure).run(module)
    found = open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)["y"]
    assert np.abs(found - exact).max() <= np.abs(exact).max() * (1 / 255 + 1e-5)
