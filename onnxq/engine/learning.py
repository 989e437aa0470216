"""What passes learn with: the data that is measured on, and graphs that ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from onnxq.engine.known import UnmeasuredError
from onnxq.engine.measurements import Measurements
from onnxq.ir.module import GraphModule
from onnxq.ir.store import output_files, write_model
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session


def open_graph(module: GraphModule, run: Run) -> Session:
    """Open a graph in ONNX Runtime, which maps the weights of a large one; its files go once it is open.

    Raises:
        ModelError: It cannot be loaded.

    """
    with TemporaryDirectory(prefix="onnxq-learn-", ignore_cleanup_errors=True) as folder:
        files = output_files(module, Path(folder, "learned.onnx"))
        write_model(module, files)
        return open_session(files[-1], run)


@dataclass(frozen=True)
class Learning:
    """The ``Runtime`` of passes.

    Args:
        measurements: Whose data, threads and progress they are.

    """

    measurements: Measurements

    def batches(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield the feeds of each batch, from the beginning.

        Raises:
            DataError: As ``Dataset.batches``.

        """
        return (batch.feeds for batch in self.measurements.data.batches())

    def open(self, module: GraphModule) -> Callable[[Mapping[str, NDArray[Any]]], Mapping[str, Any]]:
        """Open a graph in ONNX Runtime, which maps the weights of a large one.

        Raises:
            ModelError: It cannot be loaded.

        """
        return open_graph(module, Run(threads=self.measurements.threads)).run


@dataclass(frozen=True)
class Unlearned:
    """The ``Runtime`` where nothing is learned: what another process has not learned is to be done there."""

    def batches(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Raise UnmeasuredError."""
        raise UnmeasuredError("it has not been learned")

    def open(self, module: GraphModule) -> Callable[[Mapping[str, NDArray[Any]]], Mapping[str, Any]]:
        """Raise UnmeasuredError."""
        raise UnmeasuredError("it has not been learned")
