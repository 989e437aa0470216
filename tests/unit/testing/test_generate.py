"""The generator of random models: valid, repeatable, and with everything in it that it promises."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxq.testing.generate.builder import Sample
from onnxq.testing.generate.draws import SeededDraws, once_in, pick
from onnxq.testing.generate.model import OPSETS, seeded_sample
from onnxq.testing.trials import UnusableError, source_values

SEEDS = range(400)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [seeded_sample(seed) for seed in SEEDS]


def test_a_seed_names_one_model() -> None:
    one, other = seeded_sample(7), seeded_sample(7)
    assert one.model.SerializeToString(deterministic=True) == other.model.SerializeToString(
        deterministic=True
    )
    assert {name: array.tobytes() for name, array in one.feeds.items()} == {
        name: array.tobytes() for name, array in other.feeds.items()
    }
    assert seeded_sample(8).model != one.model


def test_draws_come_from_the_options() -> None:
    draws = SeededDraws(0)
    assert {pick(draws, "abc") for _ in range(100)} == set("abc")
    assert 5 < sum(once_in(draws, 10) for _ in range(200)) < 40


def test_nearly_all_models_run(samples: list[Sample]) -> None:
    unusable = 0
    for sample in samples[:100]:
        try:
            source_values(sample.model, sample.feeds)
        except UnusableError:
            unusable += 1
    assert unusable <= 8


def test_all_operator_sets_occur(samples: list[Sample]) -> None:
    assert {sample.model.opset_import[0].version for sample in samples} == set(OPSETS)


def test_the_odd_forms_occur(samples: list[Sample]) -> None:
    models = [sample.model for sample in samples]
    operators = {node.op_type for model in models for node in model.graph.node}
    assert {
        "If",
        "Loop",
        "Scan",
        "Constant",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "Gather",
    } <= operators
    assert any(model.functions for model in models)
    assert any(model.ir_version == 3 for model in models)
    types = {value.type.tensor_type.elem_type for model in models for value in model.graph.input}
    assert {TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL} <= types
    assert any(0 in tensor.dims for model in models for tensor in model.graph.initializer)
    assert any(not tensor.dims for model in models for tensor in model.graph.initializer)
    assert any(set(_outputs(model)) & set(_given(model)) for model in models)
    assert any(node.name in node.output for model in models for node in model.graph.node if node.name)
    assert any("x_scale" in set(_given(model)) for model in models)


def test_a_name_of_an_axis_stands_for_one_size(samples: list[Sample]) -> None:
    """ONNX Runtime lets values of the same declared shape share memory, and fails where they differ."""
    for sample in [*samples, seeded_sample(110015)]:
        sizes: dict[str, set[int]] = {}
        for value in sample.model.graph.input:
            shape = value.type.tensor_type.shape.dim
            for dim, size in zip(shape, sample.feeds.get(value.name, np.empty(0)).shape, strict=False):
                sizes.setdefault(dim.dim_param, set()).add(size)
        assert len(sizes.get("N", ())) <= 1


def _outputs(model: onnx.ModelProto) -> Iterator[str]:
    yield from (value.name for value in model.graph.output)


def _given(model: onnx.ModelProto) -> Iterator[str]:
    yield from (value.name for value in model.graph.input)
    yield from (tensor.name for tensor in model.graph.initializer)
