"""What is remembered of ranges depends on all that a method reads, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import RecipeError
from onnxq.ir.store import save_model
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.memo import Memo
from onnxq.passmanager.pipeline import load_pass, parse_pipeline
from onnxq.quant.facts import Facts, facts_of
from onnxq.quant.statistics import ChannelRange, Histogram, Range, Rows
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

ENDS = np.array([[-1.0, 4.0]], np.float32)


def _facts(seed: int) -> Facts:
    """Return facts of other values between the same ends."""
    values = np.random.default_rng(seed).normal(0, 0.3, (63, 2)).clip(-1, 4).astype(np.float32)
    rows = np.concatenate([ENDS, values])
    parts = Range(-1.0, 4.0), Histogram.of(rows), Rows(rows), ChannelRange(rows.min(axis=0), rows.max(axis=0))
    return facts_of(rows.size, *parts)


@pytest.mark.parametrize(("method", "kept"), [("min-max", 1), ("mse", 2), ("cross-entropy", 2)])
def test_a_range_is_chosen_once_for_what_its_method_reads(method: str, kept: int) -> None:
    memo = Memo()
    one, other = (
        load_pass("encode-activations")._measured_range(_facts(seed), method, "uint8", memo)
        for seed in (0, 1)
    )
    assert len(memo.kept) == kept
    assert (one == other) == (kept == 1)


@pytest.mark.parametrize("method", ["min-max", "mse", "entropy", "cross-entropy"])
def test_a_range_is_chosen_for_the_levels_that_are_used(method: str) -> None:
    wide, narrow = (
        load_pass(f"encode-activations{{bits={bits}}}")._measured_range(_facts(0), method, "uint8", Memo())
        for bits in (8, 3)
    )
    assert (narrow == wide) == (method == "min-max")
    if method == "mse":  # eight levels over all would cost the many small values more than the few large ones
        assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_fewer_bits_are_simulated_in_eight_only() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> main (float[2] x) => (float[2] y) { y = Relu(x) }'
    with pytest.raises(RecipeError, match="levels of 4 bits are simulated in 8, and not in uint16"):
        list(load_pass("encode-activations{bits=4, dtype=uint16}").needs(parse(text)))


def test_few_bits_are_what_a_model_computes_with(tmp_path: Path) -> None:
    """Values beyond the range saturate where the levels end, though the type goes on."""
    module = parse(
        "# fact x: count=8 low=-1.0 high=2.0\n# fact y: count=8 low=-1.0 high=1.0\n"
        '<ir_version: 10, opset_import: ["" : 21]> main (float[N,4] x) => (float[N,4] y) { y = Identity(x) }'
    )
    passes = "encode-activations{scope=all-tensors, bits=3}, insert-qdq, fold-clips"
    PassManager(parse_pipeline(passes), find_target("cpu")).run(module)
    save_model(module, tmp_path / "m.onnx")
    x = np.linspace(-9, 9, 400, dtype=np.float32).reshape(100, 4)
    (y,) = open_session(tmp_path / "m.onnx", Run(threads=1)).run({"x": x}).values()
    assert len(np.unique(y)) <= 8
    # Seven steps of 2/7 around an exact zero; a step and its multiple are rounded once each.
    np.testing.assert_allclose((y.min(), y.max()), (-6 / 7, 8 / 7), rtol=2.0**-23)
