"""A pass that is switched off, in words: ``round-weights{off}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class Off(Pass):
    """Keeps the place of a pass and the options that it will have once it is on; does and wants nothing."""

    effect: ClassVar[Effect] = Effect.EXACT
    numbers_only: ClassVar[bool] = True
    inner: Pass

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the pass that is off."""
        return self.inner.name

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the graph as it is."""

    def settings(self) -> list[str]:
        """Say ``off`` before the options."""
        return ["off", *self.inner.settings()]


def switched(pass_: Pass, *, on: bool) -> Pass:
    """Return the pass on or off, its options as they are."""
    inner = pass_.inner if isinstance(pass_, Off) else pass_
    return inner if on else Off(inner)
