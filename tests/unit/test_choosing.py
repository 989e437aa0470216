"""What counts as the error of a form, where outputs hold NaN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.choosing import choose
from onnxq.recipe import Recipe
from onnxq.testing.laws import FeedsBatch

PIPELINE = "encode-activations{dtype=uint8}"


def _model(folder: Path, body: str) -> Path:
    graph = onnx.parser.parse_graph(f"main (float[N,4] x) => (float[N,4] y) {{ {body} }}")
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("plain", "tried", "taken"), [("Neg(x)", "Sqrt(z)", False), ("Sqrt(z)", "Neg(x)", True)]
)
def test_a_form_that_gives_nan_is_the_worst(tmp_path: Path, plain: str, tried: str, taken: bool) -> None:
    """The square root of negative numbers is NaN: no number is left that could differ from the source's."""
    source = _model(tmp_path, "y = Identity(x)")
    forms = {
        text: _model(tmp_path, f"z = Neg(x) y = {body}" if "z" in body else f"y = {body}")
        for text, body in (("uint8", plain), ("int8", tried))
    }
    recipe = Recipe(name="mine", pipeline=PIPELINE, choices={"encode-activations": {"dtype": ("int8",)}})
    feeds = {"x": np.ones((2, 4), np.float32)}
    choice = choose(
        recipe,
        lambda one: forms["int8" if "dtype=int8" in one.pipeline else "uint8"],
        source,
        lambda: [FeedsBatch(feeds)],
        1,
        lambda done, total: None,
    )
    assert [trial.taken for trial in choice.trials] == [True, taken]
