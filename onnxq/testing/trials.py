"""One model through one pipeline, held to everything that is promised for every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxq.analysis.products import saturating_products
from onnxq.errors import OnnxqError
from onnxq.ir.module import GraphModule
from onnxq.ir.schema import FLOAT8_PRODUCT
from onnxq.ir.store import load_model, save_model
from onnxq.passmanager.base import Pass
from onnxq.passmanager.instruments import Instrument, VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.processor import at_hand
from onnxq.runtime.available import cpu_kernels
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target
from onnxq.testing.laws import (
    FeedsData,
    HoldToPromise,
    assert_text_round_trip,
    rounding_bound,
    run_inside,
)
from onnxq.testing.routes import Route
from onnxq.testing.running import Array, Feeds, is_floats

REALISING = "insert-qdq"
NARROWING, NARROW_LIMIT = "lower-precision", 3e4
"""Without data, the pass cannot know what overflows float16; what is near its limits is no trial of it."""
TIMES, STEPS = 4.0, 8 / 255

Outputs = Mapping[str, Array]


class UnusableError(Exception):
    """The model says nothing about the compiler: ONNX Runtime does not run it, or it computes no numbers."""


def try_route(
    model: onnx.ModelProto, feeds: Feeds, route: Route, *, repeatable: bool = True, thorough: bool = True
) -> GraphModule:
    """Run a model through a pipeline and assert what holds for every model; return the result.

    Each pass keeps its promise (``HoldToPromise``). A second compilation, from the file again, gives the same
    bytes. ONNX Runtime opens the result, and computes the outputs' shapes, types and finite numbers from it.

    Args:
        model: The model.
        feeds: One batch for it.
        route: The pipeline.
        repeatable: Whether two runs of the model give the same numbers; if not, no numbers are compared.
        thorough: Whether to compile it a second time, and to read back the text form after every pass, not
            of the result alone.

    Raises:
        UnusableError: The source does not run in ONNX Runtime, or gives what is not finite.
        AssertionError: The result is not what was promised.
        OnnxqError: The model was refused, or a pass failed.

    """
    expected = source_values(model, feeds, largest=NARROW_LIMIT if NARROWING in route.pipeline else np.inf)
    with TemporaryDirectory(prefix="onnxq-trial-") as folder:
        source = Path(folder, "model.onnx")
        source.write_bytes(model.SerializeToString(deterministic=True))
        laws = [HoldToPromise([feeds], texts=thorough)] if repeatable else []
        module, data = compile_file(source, feeds, route, (VerifyEach(), *laws))
        again = compile_file(source, feeds, route)[1] if thorough else data
    assert again == data, "a second run gives other bytes"
    assert not module.decisions() or REALISING not in route.pipeline, "decisions are left"
    assert_text_round_trip(module)
    plain = run_inside(module, feeds)
    rounding = rounding_bound([(module, plain)])
    plain = {name: plain[name] for name in expected}
    assert_same_form(expected, plain)
    if find_target(route.target).provider == "cpu" and runs_here(module):
        optimised = _run_optimised(data, model, feeds)
        assert_same_form(expected, optimised)
        if repeatable and not (at_hand().saturates and saturating_products(module)):
            _assert_kernels_right(model, feeds, expected, plain, optimised, rounding)
    return module


def _run_optimised(data: bytes, model: onnx.ModelProto, feeds: Feeds) -> Outputs:
    """Run the result as a user would; where the optimiser fails on the source too, the model is no trial."""
    try:
        return open_session(data, Run(threads=1)).run(feeds)
    except OnnxqError:
        try:
            open_session(model, Run(threads=1)).run(feeds)
        except OnnxqError as error:
            raise UnusableError(f"ONNX Runtime's optimiser fails on the source: {error.message}") from error
        raise


def _assert_kernels_right(
    model: onnx.ModelProto,
    feeds: Feeds,
    expected: Outputs,
    plain: Outputs,
    optimised: Outputs,
    rounding: float,
) -> None:
    """Assert that the optimised form is about as near, unless the optimiser spoils the source itself.

    A MatMul of a Transpose by a weight of one axis, for example, loses its Transpose (onnxruntime 1.32.0).
    """
    try:
        assert_about_as_near(expected, plain, optimised, rounding)
    except AssertionError:
        try:
            assert_about_as_near(expected, expected, open_session(model, Run(threads=1)).run(feeds), rounding)
        except AssertionError as spoilt:
            raise UnusableError(f"ONNX Runtime's optimiser spoils the source: {spoilt}") from spoilt
        raise


def source_values(model: onnx.ModelProto, feeds: Feeds, largest: float = np.inf) -> dict[str, Array]:
    """Return the source's outputs.

    Raises:
        UnusableError: It does not run, or some value inside is not finite, or larger than ``largest``.

    """
    inner = [name for node in model.graph.node for name in node.output if name]
    try:
        session = open_session(model, Run(threads=1), extra_outputs=inner, optimization="none")
        values = session.run(feeds)
    except OnnxqError as error:
        raise UnusableError(error.message) from error
    for name, value in values.items():
        if not _is_finite(value):
            raise UnusableError(f"value {name!r} is not finite")
        if is_floats(value) and np.abs(value).max(initial=0.0) > largest:
            raise UnusableError(f"value {name!r} is beyond a narrow float type")
    return {value.name: values[value.name] for value in model.graph.output}


def compile_file(
    source: Path, feeds: Feeds, route: Route, instruments: Sequence[Instrument] = ()
) -> tuple[GraphModule, bytes]:
    """Return what the route makes of a file, and the bytes that are written, as ``onnxq compile`` does it."""
    module, output = load_model(source), source.with_name("compiled.onnx")
    measure = FeedsData([feeds]).measure
    PassManager(_passes(route), find_target(route.target), instruments, measure, kernels=cpu_kernels).run(
        module
    )
    save_model(module, output, source=source)
    return module, output.read_bytes()


@cache
def _passes(route: Route) -> list[Pass]:
    return parse_pipeline(route.pipeline)


def runs_here(module: GraphModule) -> bool:
    """Tell whether the CPU provider runs every node, and rightly.

    It has no products in float8. And before a QuantizeLinear to float8 its optimiser drops a Relu, as if the
    zero point 0 were the smallest number there is (onnxruntime 1.32.0).
    """
    return not any(
        node.op_type == FLOAT8_PRODUCT
        or (node.op_type == "QuantizeLinear" and node.outputs[0].dtype == ir.DataType.FLOAT8E4M3FN)
        for node in module.graph
    )


def assert_same_form(expected: Outputs, found: Outputs) -> None:
    """Assert that two runs gave outputs of the same names, types and shapes, and all that is finite."""
    assert list(found) == list(expected), f"outputs {list(expected)} became {list(found)}"
    for name, value in expected.items():
        assert _form(found[name]) == _form(value), (
            f"output {name!r}: {_form(value)} became {_form(found[name])}"
        )
        assert _is_finite(found[name]), f"output {name!r} is not finite"


def assert_about_as_near(source: Outputs, plain: Outputs, optimised: Outputs, rounding: float = 0.0) -> None:
    """Assert that ONNX Runtime's integer kernels give about what the written operators mean.

    A kernel may round a value to its other neighbour, and nothing bounds what later layers make of that. But
    what saturates, or is quantized behind our back, shows as an error of another size: more than ``TIMES``
    the error of the written operators and a share of ``STEPS`` of the largest output. What cancels to nothing
    keeps the rounding of what it was made of.
    """
    for name, wanted in source.items():
        if not is_floats(wanted) or not wanted.size:
            continue
        size = float(np.abs(wanted).max())
        error = float(np.abs(plain[name] - wanted.astype(np.float64)).max())
        moved = float(np.abs(optimised[name] - plain[name].astype(np.float64)).max())
        assert moved <= TIMES * error + STEPS * size + rounding, (
            f"optimised output {name!r}: moved by {moved} of {size}"
        )


def _form(value: Any) -> Any:
    """Return type and shape of an array, of each array of a sequence, or None for an absent value."""
    if isinstance(value, list):
        return [_form(item) for item in value]
    return value if value is None else f"{np.asarray(value).dtype}{list(np.shape(value))}"


def _is_finite(value: Any) -> bool:
    return not is_floats(value) or bool(np.isfinite(value).all())
