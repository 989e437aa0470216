"""What can be told of one model: what is in it, what passes would do to it, and which kernels run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxq.analysis.overview import Overview, overview
from onnxq.analysis.sites import Site
from onnxq.diff.flat import Flat
from onnxq.diff.weights import bits_per_weight, stored_weights
from onnxq.ir.module import GraphModule
from onnxq.ir.store import model_size
from onnxq.passmanager.summary import PassSummary
from onnxq.runtime.kernels import KernelReport


@dataclass(frozen=True)
class Inspection:
    """What was found in one model; a part that was not asked for is None.

    Args:
        model: The file.
        size_bytes: On disk, with external data.
        overview: What is in it.
        bits_per_weight: How many bits a weight of a layer takes in the mean; None without layers.
        passes: What exact passes find to do.
        sites: Where scales of channels can move.
        kernels: What ran it.

    """

    model: Path
    size_bytes: int
    overview: Overview
    bits_per_weight: float | None
    passes: tuple[PassSummary, ...] | None = None
    sites: tuple[Site, ...] | None = None
    kernels: KernelReport | None = None

    @classmethod
    def of(cls, path: Path, module: GraphModule) -> Inspection:
        """Return what is in the model that was read from ``path``."""
        bits = bits_per_weight(stored_weights(Flat.of(module.model)))
        return cls(path, model_size(path), overview(module), bits)

    def to_dict(self) -> dict[str, Any]:
        """Return everything that was asked for as plain values, the overview spread out."""
        content = {"model": str(self.model), "size_bytes": self.size_bytes, **self.overview.to_dict()}
        content["bits_per_weight"] = self.bits_per_weight
        if self.passes is not None:
            content["passes"] = [one.model_dump(mode="json") for one in self.passes]
        if self.sites is not None:
            content["sites"] = [site.to_dict() for site in self.sites]
        if self.kernels is not None:
            content["kernels"] = self.kernels.to_dict()
        return content
