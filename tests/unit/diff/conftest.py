"""Models to compare: the repository's own, and a way to take every name out of one."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model, save_model


def rename(module: GraphModule) -> GraphModule:
    """Give every node, value and initializer another name, the model's inputs and outputs too."""
    numbers = itertools.count()
    for graph in module.model.graphs():
        for value in (*graph.initializers.values(), *graph.inputs):
            value.name = f"r{next(numbers)}"
        for node in graph:
            node.name = f"r{next(numbers)}"
            for value in node.outputs:
                value.name = f"r{next(numbers)}" if value.name else value.name
    return module


@pytest.fixture
def renamed(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that writes a copy of a model with other names everywhere."""

    def write(path: Path) -> Path:
        target = tmp_path / f"renamed_{path.name}"
        save_model(rename(load_model(path)), target)
        return target

    return write
