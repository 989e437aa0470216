"""Give the activations that need it 16 bits instead of 8, or leave them in float.

Before: ``encode x`` in uint8. After: ``encode x`` in uint16 over the same range, or no encoding at all.
Values are chosen by name, or by what their range leaves to their channels: where a few channels are far wider
than the rest, most of the 256 levels lie where most channels never are.

Source: Bondarenko, Nagel and Blankevoort, 2021, arXiv:2109.12948, section 4: mixed precision, 16 bits for the
input, the output and the residual sum of a feed-forward network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.ir.knowledge import Decision
from onnxq.ir.module import GraphModule, constant_of, is_float, name_of, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding, affine_encoding, symmetric_encoding
from onnxq.quant.facts import Facts, Need
from onnxq.quant.statistics import ChannelRange

WIDE = {"uint8": "uint16", "int8": "int16"}
OPSET = 21
"""The operator set that brought integers of 16 bits."""


@dataclass(frozen=True)
class MixedPrecision(Pass):
    """Refine decisions on activations, or take them back; run it right after encode-activations.

    Options:
        sites: Names of values, in which * stands for anything.
        levels: Choose also each value whose median channel spans fewer of the 8-bit grid's steps than that,
            among those of two or three axes whose last has a known length; 0 chooses by name alone.
        precision: What the chosen values get: ``16-bit`` or ``float``.

    """

    name: ClassVar[str] = "mixed-precision"
    effect: ClassVar[Effect] = Effect.EXACT
    sites: tuple[str, ...] = ()
    levels: int = 0
    precision: Literal["16-bit", "float"] = "16-bit"

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the range of each channel: of all values that may be encoded by then, to measure once."""
        if self.levels:
            for value in _activations(module):
                if _has_channels(value):
                    yield Need(name_of(value), frozenset({ChannelRange}))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Say of each value why it was chosen."""
        for decision in [one for value in _activations(module) for one in module.decisions(value)]:
            if decision.encoding.axis is not None or decision.encoding.dtype not in WIDE:
                continue
            if ctx.precision.of_value(decision.value) is not None:
                continue  # it has what the recipe assigns
            why = self._why(decision.value, decision.encoding, module.facts_of(decision.value))
            if why is not None:
                self._refine(decision, why, module, ctx)

    def _refine(self, decision: Decision, why: str, module: GraphModule, ctx: PassContext) -> None:
        readers = None if decision.for_all else decision.readers
        if self.precision == "float":
            ctx.edit.forget(decision.value, readers=readers, why=why)
        elif module.opset < OPSET:
            for node in decision.readers:
                reason = f"operator set {module.opset} has no 16 bits: convert-opset{{minimum={OPSET}}}"
                ctx.skip(node, reason)
        else:
            ctx.edit.encode(decision.value, _widened(decision.encoding), readers=readers, why=why)

    def _why(self, value: ir.Value, encoding: Encoding, facts: Facts | None) -> str | None:
        """Return the reason to choose ``value``, or None."""
        if any(fnmatchcase(name_of(value), pattern) for pattern in self.sites):
            return "chosen by its name"
        if not self.levels or not _has_channels(value) or facts is None:
            return None
        known = facts.get(ChannelRange)
        if known is None:
            return None
        width = float(np.median(known.high - known.low))
        levels = width / float(encoding.scale)
        return f"its median channel spans {levels:.1f} levels of 8 bits" if levels < self.levels else None


def _activations(module: GraphModule) -> Iterator[ir.Value]:
    for value in module.values():
        if is_float(value) and constant_of(value) is None and not value.is_initializer():
            yield value


def _has_channels(value: ir.Value) -> bool:
    return rank_of(value) in (2, 3) and value.shape is not None and isinstance(value.shape[-1], int)


def _widened(encoding: Encoding) -> Encoding:
    """Return 16 bits over the range of 8; zero stays where it is on a symmetric grid."""
    dtype = WIDE[encoding.dtype]
    if encoding.dtype == "int8" and not encoding.zero_point.any():
        return symmetric_encoding(encoding.high, dtype)
    return affine_encoding(encoding.low, encoding.high, dtype)
