"""Say which outputs hold logits of classes, so that the loss is taken to be cross entropy of them.

It has to be said where no Softmax stands behind them: of every other output the loss is half the squared
error. What asks how much the loss cares (``method=hessian``, ``search-scales``,
``round-weights{hessian=true}``) goes by it from here on.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from onnxq.errors import RecipeError
from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class ClassifyOutputs(Pass):
    """Note outputs whose last axis counts classes; nothing else changes.

    Options:
        outputs: Their names, in which * stands for anything.

    """

    name: ClassVar[str] = "classify-outputs"
    effect: ClassVar[Effect] = Effect.EXACT
    outputs: tuple[str, ...] = ()

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Refuse a name that no output has.

        Raises:
            RecipeError: There is none.

        """
        names = [name_of(value) for value in module.graph.outputs]
        for pattern in self.outputs:
            found = [name for name in names if fnmatchcase(name, pattern)]
            if not found:
                hint = f"the outputs are: {', '.join(names)}"
                raise RecipeError(f"no output is called {pattern!r}", where=self.name, hint=hint)
            ctx.edit.classify(found, why="its last axis counts classes")
