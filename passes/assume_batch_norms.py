"""Take facts from BatchNormalizations, where there is no data to measure them on.

The output of a BatchNormalization has the mean ``beta`` and the standard deviation ``|gamma|`` in each
channel, on what the model was trained with. Taken as normal, it tells mean and range of each channel, there
and behind functions of each element, averages over an image, sums and joins. Passes that ask for no more,
such as ``correct-bias{method=assumed}``, then need no data.

The graph stays as it is. Run it in front of ``fold-batch-norm``.

Source: Nagel et al., 2019, arXiv:1906.04721, sections 4.1.3 and 4.2, with the integral over the density in
the place of a closed form for each function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.batch_norms import CHANNELS, Normal, following, normal_of, same
from onnxq.ir.module import GraphModule, is_standard, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.normal import Expected


@dataclass(frozen=True)
class AssumeBatchNorms(Pass):
    """Note mean and range of each channel, as far as they follow from BatchNormalizations.

    Options:
        reach: How many standard deviations values lie from the mean at most.

    """

    name: ClassVar[str] = "assume-batch-norms"
    effect: ClassVar[Effect] = Effect.EXACT
    reach: float = 6.0

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Follow the channels from node to node, in the order of the graph."""
        normal: dict[ir.Value | None, Normal] = {}
        expected: dict[ir.Value | None, Expected] = {}
        for node in module.graph:
            if is_standard(node, "BatchNormalization"):
                found = normal_of(node)
                if isinstance(found, str):
                    ctx.skip(node, found)
                    continue
                normal[node.outputs[0]] = found
                known: Expected | None = found.through(same, self.reach)
            else:
                known = following(node, normal, expected, self.reach)
            if known is not None:
                expected[node.outputs[0]] = known
                _assume(node, known, ctx)


def _assume(node: ir.Node, known: Expected, ctx: PassContext) -> None:
    rank = rank_of(node.outputs[0])
    if rank is None:
        ctx.skip(node, "how many axes its output has is not known")
        return
    why = "it follows from the statistics of a BatchNormalization"
    ctx.edit.assume(node.outputs[0], known.facts(CHANNELS - rank), why=why)
