"""A real headless Chromium, and pages to open in it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxq.ir.store import save_model
from onnxq.ir.text import parse

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

from chromium import chromium, missing, opened  # noqa: E402


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with chromium(1400, 900) as driver:
        yield driver


@pytest.fixture
def visit(browser: Any) -> Callable[..., Any]:
    """Return a function that opens a page, waits until it has drawn itself, and gives the driver."""

    def go(path: Path, address: str = "") -> Any:
        browser.get_log("browser")
        opened(browser, f"file://{path}{address}")
        return browser

    return go


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with attention, so that there is something to see."""
    path = tmp_path_factory.mktemp("source") / "self_attention.onnx"
    save_model(parse((REPOSITORY / "models" / "self_attention.onnxtxt").read_text()), path)
    return path


@pytest.fixture(scope="session")
def compiled(source: Path) -> Path:
    """Return that model compiled on random data, with its manifest."""
    from onnxq.calibration.data import DataOptions, input_specs, open_data
    from onnxq.comparison import CompileOptions
    from onnxq.compile import compile_model
    from onnxq.ir.store import load_model
    from onnxq.recipe import load_recipe

    data = open_data("random", input_specs(load_model(source).model), DataOptions(limit=4))
    output = source.with_name("compiled.onnx")
    recipe = load_recipe("portable")
    compile_model(source, output, recipe=recipe, data=data, options=CompileOptions(tune=False, threads=1))
    return output
