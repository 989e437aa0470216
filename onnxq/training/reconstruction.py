"""Training a block so that its output, all of it quantized, is that of the float model.

Sources:
    Li et al., 2021, arXiv:2102.05426 (BRECQ: a block's output by rounding, after Nagel et al., 2020,
    arXiv:2004.10568); Wei et al., 2022, arXiv:2203.05740 (QDrop: activations are quantized at random).

"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.adam import Adam
from onnxq.quant.soft_rounding import SoftRounding
from onnxq.training.trainee import TARGET, Trainee

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Model = Callable[[Arrays], Arrays]

STRENGTH = 20.0
"""As with a single layer (``quant/adaround.py``), in units of what rounding to nearest costs a weight."""

RATE, SCALE_RATE = 0.02, 0.01
"""How far V moves in a step, and by which part of itself a scale does at first."""

QUANTIZED = 0.5
"""How likely an activation, or what the block reads, is quantized in a step."""


@dataclass(frozen=True)
class Unit:
    """Some samples, as they reach a block.

    Args:
        exact: What it reads in the float model, by name.
        quantized: The same behind blocks that are quantized.

    """

    exact: Arrays
    quantized: Arrays


@dataclass(frozen=True)
class Learned:
    """What was learned of a block.

    Args:
        weights: On their grids, by the names of their inputs.
        scales: By the names of theirs.
        error: The mean squared error of the output, over that of rounding to nearest with the scales as they
            were.

    """

    weights: Arrays
    scales: Arrays
    error: float


@dataclass
class Reconstruction:
    """One block that is trained.

    Args:
        trainee: The block.
        model: What runs it.
        units: The samples.
        rng: What draws the order of the units, and switches.

    """

    trainee: Trainee
    model: Model
    units: Sequence[Unit]
    rng: np.random.Generator
    targets: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        """Compute what the output shall be."""
        exact = {name: one.array for name, one in self.trainee.weights.items()}
        self.targets = self._outputs([unit.exact for unit in self.units], exact, self.scales, 0.0)

    @property
    def scales(self) -> dict[str, Array]:
        """The scales of activations as they were decided."""
        return {name: np.asarray(one.scale) for name, one in self.trainee.scales.items()}

    @property
    def nearest(self) -> dict[str, Array]:
        """The weights, each rounded to the nearest."""
        return {name: one.encoding.restored(one.array) for name, one in self.trainee.weights.items()}

    def outputs(self, weights: Arrays, scales: Arrays) -> list[Array]:
        """Return the output for each unit, all of it quantized."""
        return self._outputs([unit.quantized for unit in self.units], weights, scales, 1.0)

    def _outputs(self, read: Sequence[Arrays], weights: Arrays, scales: Arrays, switch: float) -> list[Array]:
        switches = dict.fromkeys(self.trainee.switches, np.array(switch, np.float32))
        nothing = {TARGET: np.zeros((1,) * self.trainee.rank, np.float32)}
        fixed = {**weights, **scales, **switches, **nothing}
        return [self.model({**self._fed(one), **fixed})[self.trainee.output] for one in read]

    def _fed(self, read: Arrays) -> Arrays:
        return {self.trainee.inputs[name]: array for name, array in read.items()}

    def _error(self, outputs: Sequence[Array]) -> float:
        pairs = zip(outputs, self.targets, strict=True)
        return float(np.mean([np.mean(np.square(one - aim, dtype=np.float64)) for one, aim in pairs]))

    def learn(self, steps: int, movable: Collection[str], on_step: Callable[[], None]) -> Learned:
        """Train for so many steps, each on one unit.

        Args:
            steps: How many.
            movable: The names of scales that may change.
            on_step: Called after each step.

        """
        before = self._error(self.outputs(self.nearest, self.scales))
        state = self._state(movable)
        for step in range(steps):
            self._step(state, step / steps)
            on_step()
        weights, scales = {name: one.hard for name, one in state.weights.items()}, state.scales
        after = self._error(self.outputs(weights, scales))
        return Learned(weights, scales, after / before if before > 0 else 1.0)

    def _state(self, movable: Collection[str]) -> _State:
        """Return where training begins; a weight's error counts by what rounding to nearest costs one."""
        exact, known = [unit.exact for unit in self.units], self.trainee.weights
        cost = self._error(self._outputs(exact, self.nearest, self.scales, 0.0))
        weights = {name: SoftRounding.of(one.array, one.encoding) for name, one in known.items()}
        count = sum(one.array.size for one in known.values())
        moved = {name: scale for name, scale in self.scales.items() if name in movable}
        logs = {name: Adam(np.asarray(np.log(scale))) for name, scale in moved.items()}
        return _State(weights, self.scales, logs, 2 * count / cost if cost > 0 else 0.0)

    def _step(self, state: _State, done: float) -> None:
        place = int(self.rng.integers(len(self.units)))
        unit, target = self.units[place], self.targets[place]
        drawn = self.rng.random(len(self.trainee.switches) + 1) < QUANTIZED
        read = unit.quantized if drawn[-1] else unit.exact
        switches = {
            name: np.array(one, np.float32) for name, one in zip(self.trainee.switches, drawn, strict=False)
        }
        soft = {name: one.soft for name, one in state.weights.items()}
        found = self.model({**self._fed(read), **soft, **state.scales, **switches, TARGET: target})
        for name, weight in state.weights.items():
            slope = found[f"{name}_slope"] * np.float32(state.factor / target.size)
            weight.step(slope, done, STRENGTH, RATE)
        for name, log in state.logs.items():
            log.step(found[f"{name}_slope"] * state.scales[name], SCALE_RATE * (1 - done))
            state.scales[name] = np.asarray(np.exp(log.parameters))


@dataclass
class _State:
    """What is learned.

    Args:
        weights: By the names of their inputs.
        scales: As they are now.
        logs: The logarithms of those that may change.
        factor: What the slope of the mean error is multiplied by.

    """

    weights: Mapping[str, SoftRounding]
    scales: dict[str, Array]
    logs: Mapping[str, Adam]
    factor: float
