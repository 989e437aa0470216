"""Round weights, and set scales of activations, so that blocks of layers compute what they did in float.

Before: ``y = x + MatMul(Relu(MatMul(x, w1)), w2)``, with all that products read encoded. After: the same with
``w1'`` and ``w2'`` on their grids, and other scales. Which of its two neighbours on the grid each weight
becomes is learned, for all layers of a block at once, on what reaches it behind blocks that are quantized
already. A block is what lies between two values that all numbers pass through: a residual branch with its
sum, or a layer with what follows it. Run it behind the passes that encode weights and activations, in the
place of ``round-weights`` and ``correct-bias``: what these move is learned along.

Sources: Li et al., 2021, arXiv:2102.05426 (BRECQ); Wei et al., 2022, arXiv:2203.05740 (QDrop); Nagel et al.,
2020, arXiv:2004.10568 (AdaRound); Esser et al., 2020, arXiv:1902.08153 (LSQ).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.blocks import Block, find_blocks
from onnxq.errors import CalibrationError
from onnxq.ir.digest import graph_digest
from onnxq.ir.module import LINEAR, GraphModule, constant_of, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext, Runtime
from onnxq.quant.encodings import Encoding
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.rounded import read_rounded
from onnxq.training.reconstruction import Learned, Reconstruction, Unit
from onnxq.training.trainee import Weight, prepared, trainee_of

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Reconstruct(Pass):
    """Train each block with an encoded layer, one after the other.

    Options:
        steps: How often the numbers of a block move, each time by what one batch says.
        samples: How many samples are learned from, in whole batches; what reaches a block of them, in float
            and quantized, is held in memory.

    """

    name: ClassVar[str] = "reconstruct"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    numbers_only: ClassVar[bool] = True
    steps: int = 500
    samples: int = 64

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a block alone where rounding to nearest errs no more.

        Raises:
            CalibrationError: There is no data.

        """
        blocks = find_blocks(module, lambda node: _weight_encoding(module, node) is not None)
        if not blocks:
            return
        if ctx.runtime is None:
            raise CalibrationError(
                "its blocks have to be run, and there is no data",
                where=f"block of {name_of(blocks[0].output)!r}",
                hint="give calibration data",
            )
        decided = tuple((one.value, one.encoding) for one in module.named_decisions())
        key = "reconstructed", str(self), graph_digest(module), decided
        found = ctx.memo.of(key, lambda: list(self._learned(blocks, module, ctx)))
        for block, one in zip(blocks, found, strict=True):
            _take(block, one, module, ctx)

    def _learned(self, blocks: Sequence[Block], module: GraphModule, ctx: PassContext) -> Iterator[_Found]:
        """Yield what is learned of each block, behind those before it as they are then."""
        assert ctx.runtime is not None
        base, done, total = prepared(module.undecided()), 0, self.steps * len(blocks)
        ctx.progress("reconstructing", done, total)

        def on_step() -> None:
            nonlocal done
            done += 1
            ctx.progress("reconstructing", done, total)

        samples = list(self._samples(blocks, base, ctx.runtime))
        for block in blocks:
            trainee = trainee_of(block, base)
            names = [name_of(value) for value in block.reads]
            units = [
                Unit(
                    {name: sample.exact[name] for name in names},
                    {name: sample.quantized.get(name, sample.exact[name]) for name in names},
                )
                for sample in samples
            ]
            work = Reconstruction(trainee, ctx.runtime.open(trainee.module), units, ctx.rng)
            movable = [name for name, one in trainee.scales.items() if _lies_within(one, block, module)]
            learned = work.learn(self.steps, movable, on_step)
            if learned.error >= 1:
                learned = Learned(work.nearest, work.scales, 1.0)
            outputs = work.outputs(learned.weights, learned.scales)
            for sample, exact, quantized in zip(samples, work.targets, outputs, strict=True):
                sample.go_on(name_of(block.output), exact, quantized)
            yield _Found(trainee.weights, trainee.scales, learned)

    def _samples(self, blocks: Sequence[Block], base: GraphModule, runtime: Runtime) -> Iterator[_Sample]:
        """Yield for each batch what blocks read that depends on no layer."""
        made = {block.output for block in blocks}
        given = dict.fromkeys(name_of(v) for block in blocks for v in block.reads if v not in made)
        inputs = {name_of(value) for value in base.graph.inputs}
        copy = base.clone()
        inner, values = Editor(copy), copy.by_name()
        inner.set_outputs([values[name] for name in given if name not in inputs], why="blocks read them")
        run = runtime.open(copy) if copy.graph.outputs else None
        left = self.samples
        for feeds in runtime.batches():
            if left <= 0:
                return
            left -= max(len(array) for array in feeds.values() if array.ndim)
            found = {**feeds, **({} if run is None else run(feeds))}
            yield _Sample({name: found[name] for name in given})


@dataclass(frozen=True)
class _Found:
    """What is kept of a block that was trained.

    Args:
        weights: What was rounded, by the names that ``learned`` has.
        scales: The encodings as they were, likewise.
        learned: The new numbers.

    """

    weights: Mapping[str, Weight]
    scales: Mapping[str, Encoding]
    learned: Learned


@dataclass
class _Sample:
    """One batch: what the next block reads.

    Args:
        exact: In float.
        quantized: Behind blocks that are quantized; what is missing is as in float.

    """

    exact: Arrays
    quantized: Arrays = field(default_factory=dict)
    last: str | None = None

    def go_on(self, name: str, exact: NDArray[Any], quantized: NDArray[Any]) -> None:
        """Take in the output of a block, and let go of that of the one before."""
        if self.last is not None:
            del self.exact[self.last], self.quantized[self.last]
        self.exact[name], self.quantized[name], self.last = exact, quantized, name


def _weight_encoding(module: GraphModule, node: ir.Node) -> Encoding | None:
    if not is_standard(node, *LINEAR) or constant_of(node.inputs[1]) is None:
        return None
    encoding = module.encoding_at(node, 1)
    return encoding if encoding is not None and encoding.integers else None


def _lies_within(encoding: Encoding, block: Block, module: GraphModule) -> bool:
    """Tell whether the encoding is the block's alone: others may be tied to it."""
    nodes: Collection[ir.Node] = set(block.nodes)
    same = [one for one in module.decisions() if one.encoding == encoding]
    within = all(node in nodes for one in same for node in one.readers)
    return within and not any(one.for_all and one.value.is_graph_output() for one in same)


def _take(block: Block, found: _Found, module: GraphModule, ctx: PassContext) -> None:
    """Put what was learned of a block into the graph."""
    nodes, learned = {node.name: node for node in block.nodes}, found.learned
    if learned.error >= 1:
        ctx.skip(nodes[next(iter(found.weights.values())).node], "rounding to nearest errs no more")
        return
    why = (
        f"squared error of {name_of(block.output)!r}: {learned.error:.2f} of what rounding to nearest causes"
    )
    for name, one in found.weights.items():
        read_rounded(nodes[one.node], one.index, learned.weights[name], one.encoding, ctx.edit, why=why)
    for name, encoding in found.scales.items():
        if not np.array_equal(learned.scales[name], encoding.scale):
            _rescale(encoding, replace(encoding, scale=learned.scales[name]), module, ctx.edit, why)


def _rescale(old: Encoding, new: Encoding, module: GraphModule, edit: Editor, why: str) -> None:
    for one in module.decisions():
        if one.encoding == old:
            edit.encode(one.value, new, readers=None if one.for_all else one.readers, why=why)
