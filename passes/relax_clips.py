"""Make a Relu of each Clip at zero whose upper bound is never reached: scales pass a Relu, but no Clip.

Before: ``y = Clip(x, 0, 6)``. After: ``y = Relu(x)``. On the calibration data the numbers are the same; data
that goes beyond the bound gets other ones, which is why the pass counts as quantizing.

Source: Nagel et al., 2019, arXiv:1906.04721, section 5.1.1, where every ReLU6 is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import GraphModule, constant_of, input_of, is_float, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.facts import Need
from onnxq.quant.statistics import Range


@dataclass(frozen=True)
class RelaxClips(Pass):
    """Replace each Clip from zero to a constant.

    Options:
        always: Replace those too whose bound the calibration data reaches: the model computes another
            function, which is to be compared.

    """

    name: ClassVar[str] = "relax-clips"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    always: bool = False

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask how far each Clip's input reaches."""
        for node, _ in _clips(module):
            if not self.always:
                yield Need(name_of(node.inputs[0]), frozenset({Range}))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Drop both bounds; a Relu has the lower one built in."""
        for node, bound in list(_clips(module)):
            high = module.measured(node.inputs[0]).high if not self.always else bound
            if high == -np.inf:
                ctx.skip(node, "its input never had an element")
                continue
            if high > bound:
                ctx.skip(node, f"its input reaches {high:.4g}, beyond its bound {bound:.4g}")
                continue
            reached = "given up" if self.always else f"above {high:.4g}, the most that its input reaches"
            why = f"its bound {bound:.4g} is {reached}"
            ctx.edit.retype(node, "Relu", inputs=node.inputs[:1], why=why)


def _clips(module: GraphModule) -> Iterator[tuple[ir.Node, float]]:
    """Yield each Clip of floats from zero to a constant, with that bound."""
    for node in module.graph:
        if not is_standard(node, "Clip") or not is_float(node.inputs[0]):
            continue
        low, high = constant_of(input_of(node, 1)), constant_of(input_of(node, 2))
        if low is not None and high is not None and float(low) == 0:
            yield node, float(high)
