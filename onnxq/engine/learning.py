"""What passes learn with: the data that is measured on, and graphs that ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.engine.known import UnmeasuredError
from onnxq.engine.measurements import Measurements
from onnxq.ir.module import GraphModule
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session


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
        """Open a graph in ONNX Runtime.

        Raises:
            ModelError: It cannot be loaded.

        """
        return open_session(ir.to_proto(module.model), Run(threads=self.measurements.threads)).run


@dataclass(frozen=True)
class Unlearned:
    """The ``Runtime`` where nothing is learned: what another process has not learned is to be done there."""

    def batches(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Raise UnmeasuredError."""
        raise UnmeasuredError("it has not been learned")

    def open(self, module: GraphModule) -> Callable[[Mapping[str, NDArray[Any]]], Mapping[str, Any]]:
        """Raise UnmeasuredError."""
        raise UnmeasuredError("it has not been learned")
