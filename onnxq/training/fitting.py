"""The loop: batches, gradients, steps, checks, and the best of what was found.

All that is drawn at random depends on the seed and the number of the step, so that training that goes on from
a checkpoint gives the same numbers as training that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import DataError
from onnxq.quant.adam import Adam
from onnxq.training.learned import Array, Arrays, Learned
from onnxq.training.momentum import Momentum
from onnxq.training.network import LOSS
from onnxq.training.pool import Part
from onnxq.training.schedule import Shape, part_of_rate

OPTIMIZERS = {"adam": Adam, "sgd": Momentum}


class Optimizer(Protocol):
    """Moves one array."""

    @property
    def state(self) -> dict[str, Array]:
        """What a later run goes on with: arrays that are written to in place."""
        ...

    def step(self, gradient: NDArray[np.float32], rate: float) -> None:
        """Move it."""
        ...


@dataclass(frozen=True)
class Plan:
    """How training goes.

    Args:
        steps: How many there are.
        batch: Samples in each.
        rate: How far a weight moves in a step at most, with ``adam``; what its gradient is multiplied by,
            with ``sgd``.
        scale_rate: The same of scales, relative to what they were, and of offsets, to the grid's width.
        optimizer: What moves them.
        shape: How the rate falls.
        warm_up: In so many steps it rises.
        decay: By which part of itself, times the rate, a weight shrinks in each step (AdamW).
        clip: How long the gradient of all weights together may be; longer ones are shortened.
        check_every: How many steps lie between checks.
        patience: After so many checks without a better one training ends; None for never.
        seed: Of the order of the samples.
        dampen: How strongly weights of few bits are drawn to grid points in the end: ``oscillations.py``.
        freeze: Whether those that flip between integers are frozen.
        flip: Whether images are mirrored at random.
        shift: By up to how many pixels they are moved at random.

    """

    steps: int = 1000
    batch: int = 32
    rate: float = 1e-4
    scale_rate: float = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    shape: Shape = "cosine"
    warm_up: int = 0
    decay: float = 0.0
    clip: float | None = None
    check_every: int = 100
    patience: int | None = None
    seed: int = 0
    dampen: float = 0.0
    freeze: bool = False
    flip: bool = False
    shift: int = 0

    @property
    def varies(self) -> bool:
        """Whether images change each time they are drawn."""
        return self.flip or self.shift > 0


@dataclass(frozen=True)
class Check:
    """How good what was learned is at one step, on samples that were not learned from.

    Args:
        step: How many steps were done.
        loss: The mean over all samples.
        metric: What the goal is about: the share of right classes, or of the classes of the source; None
            where there are no classes.

    """

    step: int
    loss: float
    metric: float | None


class Samples(Protocol):
    """What is learned from."""

    def drawn(self, step: int) -> Part:
        """Return the batch of a step, the same whenever it is asked for."""
        ...


class Cure(Protocol):
    """Something that looks at, or changes, what is learned around each step."""

    @property
    def state(self) -> dict[str, Array]:
        """What a later run goes on with: arrays that are written to in place."""
        ...

    def before(self, slopes: dict[str, Array], done: float) -> None:
        """Change gradients, when this part of all steps is done."""
        ...

    def after(self, done: float) -> None:
        """Change variables behind a step."""
        ...


@dataclass
class Fitting:
    """Training as it stands.

    Args:
        plan: How it goes.
        learned: What is learned.
        pool: What from.
        model: Runs the graph on a batch, which reads ``fed`` of what is learned.
        check: Judges what is learned as it is.
        cures: What else happens in each step.
        step: How many steps are done.
        checks: What was found so far.

    """

    plan: Plan
    learned: Sequence[Learned]
    pool: Samples
    model: Callable[[Arrays], Arrays]
    check: Callable[[int], Check]
    cures: Sequence[Cure] = ()
    step: int = 0
    checks: list[Check] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin at rest."""
        kind: Any = OPTIMIZERS[self.plan.optimizer]
        self.variables = {name: array for one in self.learned for name, array in one.variables.items()}
        self.optimizers: dict[str, Optimizer] = {name: kind(array) for name, array in self.variables.items()}
        self.best = {name: array.copy() for name, array in self.variables.items()}

    @property
    def ended(self) -> bool:
        """Whether all steps are done, or no check was better for a while."""
        best = self.best_check
        late = self.plan.patience is not None and best is not None
        if late and best is not None:
            behind = [one for one in self.checks if one.step > best.step]
            late = len(behind) >= (self.plan.patience or 0)
        return late or self.step >= self.plan.steps

    @property
    def best_check(self) -> Check | None:
        """The check of the smallest loss, the first of those."""
        return min(self.checks, key=lambda one: one.loss, default=None)

    def run(self) -> Iterator[Check | None]:
        """Train until the end; yield after each step, and each check where there was one."""
        if not self.checks:
            yield self._judge()
        while not self.ended:
            self._one_step()
            last = self.step == self.plan.steps
            yield self._judge() if last or self.step % self.plan.check_every == 0 else None

    def take_best(self) -> None:
        """Put what the best check saw into what is learned."""
        for name, array in self.variables.items():
            array[...] = self.best[name]
        for one in self.learned:
            one.refresh()

    def state(self) -> dict[str, Array]:
        """Return all arrays that a later run goes on with, to be written to in place."""
        arrays = {f"variable {name}": array for name, array in self.variables.items()}
        arrays |= {f"best {name}": array for name, array in self.best.items()}
        for name, one in self.optimizers.items():
            arrays |= {f"optimizer {name} {key}": array for key, array in one.state.items()}
        for number, cure in enumerate(self.cures):
            arrays |= {f"cure {number} {key}": array for key, array in cure.state.items()}
        return arrays

    def _judge(self) -> Check:
        check = self.check(self.step)
        if self.best_check is None or check.loss < self.best_check.loss:
            for name, array in self.variables.items():
                self.best[name][...] = array
        self.checks.append(check)
        return check

    def _one_step(self) -> None:
        part, done = self.pool.drawn(self.step), self.step / self.plan.steps
        slopes = self._slopes(part)
        for cure in self.cures:
            cure.before(slopes, done)
        part_of = part_of_rate(self.step, self.plan.steps, self.plan.shape, self.plan.warm_up)
        for name, slope in slopes.items():
            self._move(name, slope, part_of)
        for cure in self.cures:
            cure.after(done)
        for one in self.learned:
            one.refresh()
        self.step += 1

    def _slopes(self, part: Part) -> dict[str, Array]:
        found = self.model(part.arrays)
        if not np.isfinite(found[LOSS]).all():
            raise DataError(
                f"the loss is {found[LOSS]} at step {self.step}",
                where="training",
                hint="give a smaller --lr, or --clip",
            )
        slopes = {k: v for one in self.learned for k, v in one.slopes(found, part.rows).items()}
        return slopes if self.plan.clip is None else _clipped(slopes, self.plan.clip)

    def _move(self, name: str, slope: Array, part_of: float) -> None:
        is_scale = name.endswith(("_ratio", "_shift"))
        rate = (self.plan.scale_rate if is_scale else self.plan.rate) * part_of
        if self.plan.decay and not is_scale:
            self.variables[name] *= np.float32(1 - rate * self.plan.decay)
        self.optimizers[name].step(slope, rate)


def _clipped(slopes: dict[str, Array], most: float) -> dict[str, Array]:
    """Return the gradients, shortened together where they are longer than ``most``."""
    length = float(np.sqrt(sum(float(np.sum(np.square(one, dtype=np.float64))) for one in slopes.values())))
    if length <= most:
        return slopes
    return {name: one * np.float32(most / length) for name, one in slopes.items()}
