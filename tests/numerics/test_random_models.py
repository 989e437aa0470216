"""Random models through passes and recipes; ``tools/fuzz.py`` tries thousands of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxq.testing.generate.draws import Draws
from onnxq.testing.generate.model import random_sample
from onnxq.testing.routes import Route, routes
from onnxq.testing.trials import UnusableError, try_route

pytest.importorskip("onnxruntime", reason="the laws run models")

MODELS = 50
"""About ten seconds; ``tools/fuzz.py`` tries thousands."""
ROUTES = routes()


@dataclass
class Drawn(Draws):
    """Choices that hypothesis makes, and makes simpler where a test fails."""

    data: st.DataObject

    def below(self, count: int) -> int:
        return self.data.draw(st.integers(0, count - 1))


@given(st.data(), st.sampled_from(ROUTES))
@settings(max_examples=MODELS, derandomize=True, print_blob=False)
def test_a_random_model_keeps_every_promise(data: st.DataObject, route: Route) -> None:
    sample = random_sample(Drawn(data))
    try:
        try_route(sample.model, sample.feeds, route)
    except UnusableError:
        assume(False)
