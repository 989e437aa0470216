"""Opening a model so that it returns inner values, each node run by its own kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from onnxq.errors import PreconditionError, called
from onnxq.runtime.run import QUIET, Run
from onnxq.runtime.session import Session, open_session

if TYPE_CHECKING:
    import onnx_ir as ir

SAVED = "model.onnx"
"""What the float model is called while it is on disk."""
FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})
"""The types of values that can be observed; all are measured as float32."""


@contextmanager
def opened(model: ir.Model | Path, names: Iterable[str], run: Run) -> Iterator[Session]:
    """Open a session that returns the named values besides the model's own outputs.

    A copy of an ``ir.Model`` goes to a temporary folder, with its weights beside it.

    Raises:
        PreconditionError: One of them does not exist, or does not hold floats.
        ModelError: ONNX Runtime cannot load the model.

    """
    with TemporaryDirectory(prefix="onnxq-") as folder:
        inner = _inner_values(model, names)
        path = model if isinstance(model, Path) else _saved(model, Path(folder))
        with called(Path(folder, SAVED), "the model as prepared for calibration"):
            quiet = run.with_defaults(QUIET)
            session = open_session(path, quiet, extra_outputs=inner, optimization="none", arena=False)
            types = {spec.name: spec.type for spec in (*session.inputs, *session.outputs)}
            for name in names:
                if types[name] not in FLOATS:
                    raise PreconditionError(f"it holds {types[name]}, not floats", where=f"value {name!r}")
            yield session


def bytes_inside(model: ir.Model) -> int:
    """Return the bytes of all that the nodes of the main graph make of one sample, as far as shapes tell."""
    made = (value for node in model.graph for value in node.outputs)
    return sum(
        prod(size for size in value.shape if isinstance(size, int)) * value.dtype.bitwidth // 8
        for value in made
        if value.shape is not None and value.dtype is not None
    )


def _saved(model: ir.Model, folder: Path) -> Path:
    import onnx_ir as ir

    ir.save(model, folder / SAVED, external_data=f"{SAVED}.data")
    return folder / SAVED


def _inner_values(model: ir.Model | Path, names: Iterable[str]) -> list[str]:
    """Return which of ``names`` are made by a node of the main graph.

    Raises:
        PreconditionError: One of them is neither that nor an input.

    """
    import onnx_ir as ir

    graph = ir.load(model).graph if isinstance(model, Path) else model.graph
    inputs = {value.name for value in graph.inputs if value.name not in graph.initializers}
    made = {value.name for node in graph for value in node.outputs}
    for name in names:
        if name not in inputs | made:
            kind = (
                "a weight, known without data" if name in graph.initializers else "no value of the main graph"
            )
            raise PreconditionError(f"it is {kind}", where=f"value {name!r}")
    return [name for name in names if name not in inputs]
