"""Precision by name: what a recipe assigns to layers and values, whatever its passes do to the others.

An entry is a name, or a pattern in which * and ? stand for anything. A name counts before all patterns, and
of the patterns that fit, the last one counts. A layer is called by its node, or by the node of the source in
whose place a pass has put it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase, translate
from functools import cached_property

import onnx_ir as ir

from onnxq.errors import RecipeError, did_you_mean
from onnxq.ir.knowledge import origin_of
from onnxq.ir.module import LINEAR, GraphModule, constant_of, input_of, is_standard, name_of
from onnxq.quant.encodings import Encoding, family_of

FLOAT = "float"
"""What a layer or a value has that nothing is decided for."""

LAYERS = (*LINEAR, "Gather")
"""Operators that read weights."""


def is_named(node: ir.Node, patterns: Iterable[str]) -> bool:
    """Tell whether one of ``patterns`` is the node's operator, or fits its name."""
    return any(fnmatchcase(node.name or "", one) or node.op_type == one for one in patterns)


def names_of(node: ir.Node) -> tuple[str, ...]:
    """Return the name of the node of the source in whose place it stands, and its own if that is another."""
    return tuple(dict.fromkeys((origin_of(node), node.name or "")))


@dataclass(frozen=True)
class _Entries:
    """Precisions by name and pattern; which entry counts for what is remembered."""

    entries: dict[str, str]
    found: dict[tuple[str, ...], str | None] = field(default_factory=dict)

    @cached_property
    def _patterns(self) -> list[str]:
        """The patterns, the last one first."""
        return [entry for entry in reversed(self.entries) if not {"*", "?", "["}.isdisjoint(entry)]

    @cached_property
    def _fitting(self) -> re.Pattern[str]:
        """One expression for all patterns, with a group for each; the last pattern is tried first."""
        return re.compile("|".join(f"({translate(pattern)})" for pattern in self._patterns) or "(?!)")

    def of(self, *names: str) -> str | None:
        """Return what is assigned to what has these names."""
        entry = self._entry(names) if self.entries else None
        return None if entry is None else self.entries[entry]

    def _entry(self, names: tuple[str, ...]) -> str | None:
        """Return the entry that counts."""
        if names not in self.found:
            fits = [fit.lastindex or 0 for name in names if (fit := self._fitting.match(name))]
            called = next((name for name in names if name in self.entries), None)
            self.found[names] = self._patterns[min(fits) - 1] if fits and called is None else called
        return self.found[names]

    def without_match(self, things: Sequence[tuple[str, ...]]) -> str | None:
        """Return the first entry that fits none of ``things``, each of which has some names."""
        counting = set(map(self._entry, things))
        names = dict.fromkeys(name for thing in things for name in thing)
        for entry in self.entries:
            if entry in counting or entry in names:
                continue
            if entry not in self._patterns or not any(map(re.compile(translate(entry)).match, names)):
                return entry
        return None


@dataclass(frozen=True)
class Precision:
    """What a recipe assigns.

    Args:
        layers: Precisions of layers, nodes that read constant weights, by name or pattern: what a pass of the
            pipeline gives (``Pass.layer_precisions``), or ``float``.
        values: Precisions of activations, likewise (``Pass.value_precisions``).

    """

    layers: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _layers(self) -> _Entries:
        return _Entries(self.layers)

    @cached_property
    def _values(self) -> _Entries:
        return _Entries(self.values)

    def of_layer(self, node: ir.Node) -> str | None:
        """Return what is assigned to a node; None where that is left to the passes."""
        return self._layers.of(*names_of(node))

    def of_value(self, value: ir.Value) -> str | None:
        """Return what is assigned to an activation; None where that is left to the passes."""
        return self._values.of(name_of(value))

    @property
    def makes_integers(self) -> bool:
        """Whether a value may be quantized to 8 bits because it is assigned so."""
        return not {"int8", "uint8"}.isdisjoint(self.values.values())

    def with_more(self, more: Precision) -> Precision:
        """Return these entries and ``more`` behind them, which count before them."""
        return Precision(_behind(self.layers, more.layers), _behind(self.values, more.values))

    def spelled_out(self, module: GraphModule) -> Precision:
        """Return the same for what ``module`` has, by the names that are in it alone."""
        layers = {node.name or "": self.of_layer(node) for node in module.graph}
        values = {name_of(value): self.of_value(value) for value in module.values()}
        return Precision(
            {name: precision for name, precision in layers.items() if precision},
            {name: precision for name, precision in values.items() if precision},
        )

    def require_given(self, layers: Iterable[str], values: Iterable[str]) -> None:
        """Require that passes give what is assigned.

        Args:
            layers: The precisions that passes give layers.
            values: Those that they give values.

        Raises:
            RecipeError: A precision is assigned that no pass gives.

        """
        for kind, entries, given in (("layers", self.layers, layers), ("values", self.values, values)):
            known = {FLOAT, *given}
            for entry, precision in entries.items():
                if precision not in known:
                    raise RecipeError(
                        f"no pass of the pipeline gives {kind} the precision {precision!r}",
                        where=f"precision.{kind}: {entry!r}",
                        hint=did_you_mean(precision, known),
                    )

    def require_matches(self, module: GraphModule) -> None:
        """Require that every entry fits something.

        Raises:
            RecipeError: One fits nothing; the hint names what is called nearly so.

        """
        layers = [names_of(node) for node in module.graph if is_standard(node, *LAYERS)]
        values = [(name_of(value),) for value in module.values() if constant_of(value) is None]
        for kind, found, things in (("layer", self._layers, layers), ("value", self._values, values)):
            entry = found.without_match(things) if found.entries else None
            if entry is not None:
                names = {name for thing in things for name in thing}
                raise RecipeError(
                    f"no {kind} is called so, and it fits none as a pattern",
                    where=f"precision.{kind}s: {entry!r}",
                    hint=did_you_mean(entry, names),
                )


@dataclass(frozen=True)
class Assigned:
    """What was assigned to one layer or value, and what became of it.

    Args:
        kind: ``layer`` or ``value``.
        name: The node, as the source calls it, or the value.
        assigned: The precision that the recipe wants.
        given: The precision that it has.

    """

    kind: str
    name: str
    assigned: str
    given: str


def assigned(module: GraphModule, precision: Precision) -> list[Assigned]:
    """Return what is assigned in ``module``, whose decisions are complete and not yet realised.

    Of values that fit a pattern, those are left out for which nothing is decided: most are read by nothing
    that computes in integers.
    """
    return list(dict.fromkeys((*_layers(module, precision), *_values(module, precision))))


def _layers(module: GraphModule, precision: Precision) -> Iterator[Assigned]:
    for node in module.graph:
        wanted = precision.of_layer(node) if is_standard(node, *LAYERS) else None
        weight = 0 if node.op_type == "Gather" else 1
        if wanted is not None and constant_of(input_of(node, weight)) is not None:
            given = name_of_precision(module.encoding_at(node, weight))
            yield Assigned("layer", origin_of(node), wanted, given)


def _values(module: GraphModule, precision: Precision) -> Iterator[Assigned]:
    for value in module.values():
        wanted = precision.of_value(value) if constant_of(value) is None else None
        if wanted is None:
            continue
        given = {name_of_precision(one.encoding) for one in module.decisions(value)}
        if given or name_of(value) in precision.values:
            yield Assigned("value", name_of(value), wanted, "+".join(sorted(given)) or FLOAT)


def name_of_precision(encoding: Encoding | None) -> str:
    """Return what a table calls the precision of an encoding: its type, or ``w4`` and ``w8`` in blocks."""
    if encoding is None:
        return FLOAT
    in_blocks = encoding.block_size is not None and family_of(encoding.dtype).integers
    return f"w{encoding.bits}" if in_blocks else encoding.dtype


def _behind(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    return {name: precision for name, precision in first.items() if name not in second} | second
