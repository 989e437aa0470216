"""Where and how a model runs: the one value that all take who open a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from onnxq.errors import TargetError

Provider = Literal["cpu", "cuda", "tensorrt"]

PROVIDERS: Mapping[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


QUIET: Mapping[str, str] = {"session.intra_op.allow_spinning": "0"}
"""With these entries threads that wait for work sleep: no time is measured, and spinning takes others'."""


@dataclass(frozen=True)
class Run:
    """Where and how a model runs.

    Args:
        provider: ``cpu``, ``cuda`` or ``tensorrt``. On ``cuda`` the CPU is second choice for single nodes,
            on ``tensorrt`` CUDA is, and then the CPU; ``kernel_report`` tells where each node ran.
        threads: Threads within an operator; None leaves the choice to ONNX Runtime.
        entries: ONNX Runtime's session configuration entries.
        cuda_graph: On ``cuda``, record the first run and replay it. Inputs and outputs have to stay where
            they were, with their shapes (``onnxq.runtime.bound``), and every node has to run there.

    Raises:
        TargetError: CUDA graphs are asked for on another provider.

    """

    provider: Provider = "cpu"
    threads: int | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        if self.cuda_graph and self.provider != "cuda":
            raise TargetError(
                f"there are no CUDA graphs on provider {self.provider!r}",
                hint="ask for them with --provider cuda",
            )

    @property
    def without_graph(self) -> Run:
        """The same with each kernel launched anew, for feeds of any shape."""
        return replace(self, cuda_graph=False)

    def with_defaults(self, entries: Mapping[str, str]) -> Run:
        """Return the same with more session entries; those that it has already stay."""
        return replace(self, entries={**entries, **self.entries})


def known_provider(name: str) -> Provider | None:
    """Return the provider of this name, be it here or not; None if onnxq knows none."""
    return next((provider for provider in PROVIDERS if provider == name), None)
