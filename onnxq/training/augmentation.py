"""Images are mirrored and shifted at random before they are learned from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from onnxq.training.learned import Array, Arrays
from onnxq.training.pool import Part, Pool

IMAGE_RANK = 4


@dataclass(frozen=True)
class Varied:
    """A pool whose images differ each time they are drawn.

    Args:
        pool: Where samples come from.
        flip: Mirror every second image, left to right.
        shift: Move images by up to so many pixels each way; what comes in is 0.
        targets: The names of what is no input: it stays as it is, unless it is computed anew.
        again: Computes targets of changed inputs; None where they stay, as labels do.

    """

    pool: Pool
    flip: bool
    shift: int
    targets: Collection[str]
    again: Callable[[Arrays], Arrays] | None

    def drawn(self, step: int) -> Part:
        """Return the batch of a step, the same whenever it is asked for."""
        part = self.pool.drawn(step)
        rng = np.random.default_rng([self.pool.seed, step, 1])
        inputs = {name: array for name, array in part.arrays.items() if name not in self.targets}
        varied = {
            name: self._varied(array, rng) if array.ndim == IMAGE_RANK and part.owns(name) else array
            for name, array in inputs.items()
        }
        anew = {} if self.again is None else self.again(varied)
        return Part({**part.arrays, **varied, **anew}, part.rows, part.labels)

    def _varied(self, images: Array, rng: np.random.Generator) -> Array:
        """Return images of shape (N, C, H, W), each changed in its own way."""
        found = images.copy()
        if self.flip:
            mirrored = rng.random(len(images)) < 0.5
            found[mirrored] = found[mirrored, :, :, ::-1]
        if self.shift:
            edges = [(0, 0), (self.shift, self.shift), (self.shift, self.shift)]
            height, width = images.shape[2:]
            for number, (down, right) in enumerate(rng.integers(0, 2 * self.shift + 1, (len(images), 2))):
                wide = np.pad(found[number], edges)
                found[number] = wide[:, down : down + height, right : right + width]
        return found
