"""How much onnxq does for one file before it says no: a small file can ask for any time and memory.

Each limit lies far above what real models and data need, and an environment variable raises it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from onnxq.errors import InputError, RecipeError

PREFIX = "ONNXQ_MAX_"


@dataclass(frozen=True)
class Limit:
    """The most of one thing that is accepted.

    Args:
        name: What the environment variable is called, behind ``ONNXQ_MAX_``.
        default: How much.
        unit: What is counted, in the plural.

    """

    name: str
    default: int
    unit: str

    @property
    def variable(self) -> str:
        """The environment variable that sets another limit."""
        return PREFIX + self.name

    @property
    def value(self) -> int:
        """The limit that holds now.

        Raises:
            RecipeError: The variable is set to something else than a whole number.

        """
        given = os.environ.get(self.variable)
        if given is None:
            return self.default
        if not given.isdecimal():
            raise RecipeError(
                f"{given!r} is not a whole number", where=self.variable, hint=f"a number of {self.unit}"
            )
        return int(given)

    def check(self, found: int, what: str, where: str, kind: type[InputError] = InputError) -> None:
        """Raise ``kind`` if ``found`` is too much.

        Args:
            found: How many units there would be.
            what: What has them, to begin the message with.
            where: The file, and the place in it.
            kind: The error.

        Raises:
            InputError: It is too much, in the class ``kind``.

        """
        if found > self.value:
            enough = 1 << (found - 1).bit_length()  # a power of 2: ``found`` may be a part of what comes
            raise kind(
                f"{what} {found:,} {self.unit}, and the limit is {self.value:,}",
                where=where,
                hint=f"if you trust the file, raise the limit: {self.variable}={enough}",
            )


CONSTANT_BYTES = Limit("CONSTANT_BYTES", 4 << 30, "bytes")
"""A value that a model computes from constants alone."""
INLINED_NODES = Limit("INLINED_NODES", 1 << 15, "nodes")
"""The nodes that a model has when each call of a function is replaced by its body."""
ITEM_BYTES = Limit("ITEM_BYTES", 4 << 30, "bytes")
"""What must be in memory at once to read one item of the data."""
LINE_CHARACTERS = Limit("LINE_CHARACTERS", 1 << 24, "characters")
"""One line of a text file."""
PIXELS = Limit("PIXELS", 1 << 27, "pixels")
"""One image, as it is stored and as it is prepared."""
