"""What a pass is, and what it may use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer
from onnxq.analysis.products import sums_fit
from onnxq.ir.module import GraphModule
from onnxq.ir.records import Edit, Remark
from onnxq.kernels import KernelList
from onnxq.passmanager.memo import Memo
from onnxq.passmanager.precision import Precision, is_named
from onnxq.passmanager.values import value_text
from onnxq.progress import Progress, quiet
from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Facts, Need
from onnxq.rewrite.edit import Editor
from onnxq.target import Target

Measure = Callable[[GraphModule, Sequence[Need]], Mapping[str, Facts]]
"""Runs the data through a module as it stands and returns facts for the values needed."""

Kernels = Callable[[], KernelList]
"""Lists the kernels of the runtime at hand, on the provider that runs any model."""


class Runtime(Protocol):
    """What a pass learns with: the calibration data, and something that runs graphs."""

    def batches(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yield the feeds of each batch, from the beginning."""

    def open(self, module: GraphModule) -> Callable[[Mapping[str, NDArray[Any]]], Mapping[str, Any]]:
        """Return what runs a graph: outputs by name, of feeds by name."""


class Effect(Enum):
    """A pass's promise about numbers; the tests hold it to its word."""

    EXACT = "exact"
    """The model computes the same function, up to float rounding."""
    ROUNDING = "rounding"
    """The same function on values of a narrower float type: each node rounds its result once."""
    QUANTIZING = "quantizing"
    """The model's numbers move, within the bounds of the encodings."""


@dataclass
class PassContext:
    """All that a pass may use besides the module.

    Args:
        edit: Changes the graph.
        target: Where the model shall run.
        rng: Seeded for this pass and its place in the pipeline.
        measure: Measures another module on the calibration data, for a pass whose steps build on each other;
            what ``needs`` can name is measured without it. None where there is no data.
        integers: Whether a pass of the pipeline quantizes to 8 bits what layers read.
        kernels: What the runtime at hand has; None where the model shall not be opened here.
        memo: What the pass computed in an earlier build of the same model.
        precision: What the recipe assigns to layers and values by name.
        runtime: Runs graphs on the calibration data; None where there is none.
        progress: Told how far a pass is that takes long.

    """

    edit: Editor
    target: Target
    rng: np.random.Generator
    measure: Measure | None = None
    integers: bool = False
    kernels: Kernels | None = None
    memo: Memo = field(default_factory=Memo)
    precision: Precision = field(default_factory=Precision)
    runtime: Runtime | None = None
    progress: Progress = quiet

    def weight_limit(self, layer: Layer) -> int | None:
        """Return the largest integer for an int8 weight of ``layer``, None for all of int8's.

        A weight that meets integers may have to stay in narrower bounds, so that no kernel saturates.
        """
        return self.target.weight_limit(layer) if self.integers else None

    def overflows(self, layer: Layer, weight: NDArray[Any], encoding: Encoding) -> bool:
        """Tell whether int32 does not hold what ``layer`` adds up of ``weight`` and 8-bit integers."""
        return self.integers and encoding.dtype == "int8" and not sums_fit(layer, weight, encoding)

    def reason_to_leave(self, node: ir.Node, exclude: Iterable[str], given: Iterable[str]) -> str | None:
        """Return why a pass shall leave a layer alone; None if it may encode it.

        Args:
            node: The layer.
            exclude: Operators and names that the pass leaves out.
            given: The precisions that it gives.

        """
        if is_named(node, exclude):
            return "excluded by its name or operator"
        wanted = self.precision.of_layer(node)
        return None if wanted is None or wanted in given else f"the recipe assigns {wanted} to it"

    def is_assigned(self, node: ir.Node) -> bool:
        """Tell whether the recipe assigns a precision to a layer by name."""
        return self.precision.of_layer(node) is not None

    def skip(self, node: ir.Node, reason: str) -> None:
        """Note that ``node`` was left alone; every omission gets its reason."""
        self.edit.skip(node, reason)


@dataclass(frozen=True)
class Pass(ABC):
    """One step of a pipeline. The fields of a subclass are its options."""

    name: ClassVar[str]
    effect: ClassVar[Effect]
    optional: ClassVar[bool] = False
    """Whether it is an exact rewrite for speed alone, so that tuning may leave it out."""
    numbers_only: ClassVar[bool] = False
    """Whether the time of the model is the same without it, as it changes no more than constants."""
    encodes_weights: ClassVar[bool] = False
    """Whether it decides how weights are stored in fewer bits."""
    realises: ClassVar[bool] = False
    """Whether it makes nodes and integers of all decisions: before it they are complete."""

    @property
    def makes_integers(self) -> bool:
        """Whether the pass quantizes to 8 bits what layers read, or decides that it shall be."""
        return False

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """The precisions that it gives to layers, where a recipe assigns one by name."""
        return ()

    @property
    def value_precisions(self) -> tuple[str, ...]:
        """The precisions that it gives to activations, where a recipe assigns one by name."""
        return ()

    @property
    def simulated(self) -> str | None:
        """What it keeps to fewer bits than are stored and computed with, in words; None if nothing."""
        return None

    @property
    def variants(self) -> tuple[str, ...]:
        """Settings of its own, as ``option=value``, that may be faster and give other numbers.

        They have to be clearly worth it; tuning tries them on devices.
        """
        return ()

    @property
    def plainer(self) -> Pass | None:
        """The pass with fewer values in integers, which may be faster; None if there is none."""
        return None

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Name the values whose facts ``run`` will read; they are measured before it starts."""
        return ()

    def foresees(self, module: GraphModule) -> Iterable[Need]:
        """Name what it may need once other passes have run, so that it is measured along with theirs."""
        return self.needs(module)

    @property
    def asks(self) -> bool:
        """Whether it reads facts."""
        return type(self).needs is not Pass.needs

    @abstractmethod
    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Change the module through ``ctx.edit``."""

    def settings(self) -> list[str]:
        """Return as pipeline text the options that differ from their defaults."""
        return [
            f"{f.name}={value_text(getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]

    def __str__(self) -> str:
        """Print as pipeline text."""
        settings = self.settings()
        return f"{self.name}{{{', '.join(settings)}}}" if settings else self.name


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Args:
        text: The pass as pipeline text.
        seconds: Wall time, calibration for it not counted.
        edits: Its changes, in order.
        remarks: The nodes it left alone.

    """

    text: str
    seconds: float
    edits: tuple[Edit, ...] = field(default=())
    remarks: tuple[Remark, ...] = field(default=())
