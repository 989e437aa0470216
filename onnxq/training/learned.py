"""What is learned, as arrays: plain constants, weights on grids, and grids of activations.

Scales are learned relative to those that training begins with. Their gradients are those of LSQ: multiplied
by ``1 / sqrt(N Qp)``, with N values on the grid and Qp its largest integer, so that scales and weights change
at like rates, whatever moves them.

Sources:
    Esser et al., 2020, arXiv:1902.08153 (LSQ); Bhalgat et al., 2020, arXiv:2004.09576 (LSQ+, offsets).

"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding

Array = NDArray[Any]
Arrays = Mapping[str, Array]

LEAST = 0.05
"""A scale never falls below this part of what it was."""


class Learned(Protocol):
    """Something that is learned."""

    variables: dict[str, Array]
    """What is moved, in place, by name."""
    fed: dict[str, Array]
    """What the graph reads of it, by the names of inputs; written to in place."""

    def slopes(self, found: Arrays, rows: int) -> dict[str, Array]:
        """Return the gradients of the variables, of what the graph found on so many samples."""
        ...

    def refresh(self) -> None:
        """Write into ``fed`` what follows from the variables."""
        ...


@dataclass
class Plain:
    """A constant that stays in float.

    Args:
        name: Of its input.
        array: Where it begins.

    """

    name: str
    array: Array
    variables: dict[str, Array] = field(init=False)
    fed: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        """Feed what is moved."""
        self.variables = {self.name: np.array(self.array, np.float32, order="C")}
        self.fed = self.variables

    @property
    def result(self) -> Array:
        """The constant as it is now."""
        return self.variables[self.name]

    def slopes(self, found: Arrays, rows: int) -> dict[str, Array]:
        """Return the gradient as it is."""
        return {self.name: found[f"{self.name}_slope"]}

    def refresh(self) -> None:
        """Nothing follows."""


@dataclass
class Gridded:
    """A weight on a grid whose scales are learned too.

    Args:
        name: Of its input.
        array: Where it begins.
        begun: The grid at first: one scale, or one for each channel.

    """

    name: str
    array: Array
    begun: Encoding
    variables: dict[str, Array] = field(init=False)
    fed: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        """Begin where the weight is, with the scales that were decided."""
        latent, ratio = np.array(self.array, np.float32, order="C"), np.ones_like(self.begun.scale)
        self.variables = {self.name: latent, self.ratio_name: ratio}
        self.fed = {self.name: np.empty_like(latent)}
        zero = self.begun.spread(latent.shape)[1]
        self._bounds = [np.asarray(limit - zero, np.float32) for limit in self.begun.limits]
        axis = self.begun.axis
        self._others = tuple(one for one in range(latent.ndim) if axis is None or one != axis % latent.ndim)
        count, most = latent.size / ratio.size, max(self.begun.limits[1], 1)
        self._damping = (1 / (math.sqrt(count * most) * self.begun.scale)).astype(np.float32)
        self.refresh()

    @property
    def ratio_name(self) -> str:
        """The name of the variable that says how much larger the scales are than at first."""
        return f"{self.name}_ratio"

    @property
    def scale(self) -> Array:
        """The scales as they are now."""
        ratio = np.maximum(self.variables[self.ratio_name], np.float32(LEAST))
        return np.asarray(self.begun.scale * ratio)

    @property
    def encoding(self) -> Encoding:
        """The grid as it is now."""
        return replace(self.begun, scale=self.scale)

    @property
    def result(self) -> Array:
        """The weight as it is now, on its grid."""
        return self.fed[self.name]

    @property
    def integers(self) -> Array:
        """How many steps from the zero point each weight lies."""
        return np.asarray(np.clip(np.rint(self._steps), *self._bounds))

    @property
    def off_grid(self) -> Array:
        """How far each weight lies from where it is rounded to; 0 where the grid ends before it."""
        latent, low, high = self.variables[self.name], *(bound * self._spread for bound in self._bounds)
        return np.asarray(np.clip(latent, low, high) - self.integers * self._spread)

    def place(self, integers: Array, where: Array) -> None:
        """Put weights at integers, as many steps from the zero point, where a mask is true."""
        np.copyto(self.variables[self.name], integers * self._spread, where=where)

    @property
    def _steps(self) -> Array:
        return np.asarray(self.variables[self.name] / self._spread)

    @property
    def _spread(self) -> Array:
        return self.begun.layout.spread(self.scale, self.array.shape)

    def slopes(self, found: Arrays, rows: int) -> dict[str, Array]:
        """Go straight through the rounding, where nothing saturates."""
        slope, steps = found[f"{self.name}_slope"], self._steps
        integers = np.clip(np.rint(steps), *self._bounds)
        inside = (steps >= self._bounds[0]) & (steps <= self._bounds[1])
        by_scale = (slope * (integers - inside * steps)).sum(self._others)
        return {self.name: slope * inside, self.ratio_name: np.asarray(by_scale * self._damping)}

    def refresh(self) -> None:
        """Round to the grid."""
        np.multiply(self.integers, self._spread, out=self.fed[self.name])


@dataclass
class Steps:
    """A grid of activations.

    Args:
        name: Of the input that holds its scale.
        offset: Of the one that holds its zero point; None where that is 0.
        begun: The grid at first.

    """

    name: str
    offset: str | None
    begun: Encoding
    variables: dict[str, Array] = field(init=False)
    fed: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with what was decided."""
        shape = self.begun.scale.shape
        self.variables = {f"{self.name}_ratio": np.ones(shape, np.float32)}
        self.fed = {self.name: np.array(self.begun.scale)}
        if self.offset is not None:
            self.variables[f"{self.offset}_shift"] = np.zeros(shape, np.float32)
            self.fed[self.offset] = self.begun.zero_point.astype(np.float32)

    @property
    def width(self) -> int:
        """How many steps there are: shifts count in parts of it."""
        low, high = self.begun.limits
        return high - low

    @property
    def encoding(self) -> Encoding:
        """The grid as it is now."""
        zero = self.begun.zero_point
        if self.offset is not None:
            zero = np.clip(np.rint(self.fed[self.offset]), *self.begun.limits).astype(np.int32)
        return replace(self.begun, scale=np.array(self.fed[self.name]), zero_point=zero)

    def slopes(self, found: Arrays, rows: int) -> dict[str, Array]:
        """Dampen what the graph found, by how many values of a sample are on the grid."""
        count = float(found[f"{self.name}_size"]) / max(rows, 1) / self.begun.scale.size
        damping = np.float32(1 / math.sqrt(max(count, 1) * max(self.begun.limits[1], 1)))
        slopes = {
            f"{self.name}_ratio": np.asarray(found[f"{self.name}_slope"] * (damping / self.begun.scale))
        }
        if self.offset is not None:
            unit = np.float32(self.width) * damping
            slopes[f"{self.offset}_shift"] = np.asarray(found[f"{self.offset}_slope"] * unit)
        return slopes

    def refresh(self) -> None:
        """Compute scale and zero point, which stays one of the grid's."""
        ratio = np.maximum(self.variables[f"{self.name}_ratio"], np.float32(LEAST))
        np.multiply(self.begun.scale, ratio, out=self.fed[self.name])
        if self.offset is not None:
            moved = self.begun.zero_point + np.float32(self.width) * self.variables[f"{self.offset}_shift"]
            np.clip(moved, *self.begun.limits, out=self.fed[self.offset])
