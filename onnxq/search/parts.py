"""What can go to float by name, a layer or a value, and what the error of each alone costs the outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from onnxq.analysis.layers import linear_layers
from onnxq.engine.build import Build, gives_precision
from onnxq.engine.executor import Executor
from onnxq.ir.module import GraphModule, is_standard, name_of
from onnxq.ir.store import save_model
from onnxq.passmanager.originals import Originals
from onnxq.passmanager.pipeline import format_pipeline, parse_pipeline
from onnxq.passmanager.precision import FLOAT, Precision, names_of
from onnxq.progress import Steps
from onnxq.recipe import Recipe
from onnxq.rewrite.switches import Edge, insert_switches
from onnxq.runtime.batch import Batch
from onnxq.runtime.run import Run
from onnxq.search.switched import Switchboard

TOGETHER = 8
"""So many neighbours are measured together at first: where errors are spread, few have to be split."""


@dataclass(frozen=True)
class Part:
    """What goes to float together.

    Args:
        name: A layer, or a value that no layer reads or gives.
        is_layer: Whether it is a layer.
        edges: What is quantized for it: all that it reads, and what it gives to others than layers.

    """

    name: str
    is_layer: bool
    edges: frozenset[Edge]


@dataclass(frozen=True)
class Cost:
    """What some parts cost the outputs together.

    Args:
        parts: Neighbours in the graph.
        noise: Power of the error over power of the signal, of the output that errs most, where nothing else
            is quantized.

    """

    parts: tuple[Part, ...]
    noise: float

    def halves(self) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Return the first parts and the others."""
        middle = len(self.parts) // 2
        return self.parts[:middle], self.parts[middle:]


def in_float(parts: Iterable[Part]) -> Precision:
    """Return what keeps these parts in float."""
    chosen = list(parts)
    return Precision(
        {part.name: FLOAT for part in chosen if part.is_layer},
        {part.name: FLOAT for part in chosen if not part.is_layer},
    )


@dataclass(frozen=True)
class Samples:
    """What parts are compared on.

    Args:
        source: The model.
        batches: A few batches.
        run: Where and how models run.

    """

    source: Path
    batches: Sequence[Batch]
    run: Run


NoiseOf = Callable[[Iterable[tuple[Part, ...]]], Iterator[float]]


def costs(
    build: Build,
    recipe: Recipe,
    samples: Samples,
    small: float,
    executor: Executor,
    on_progress: Steps,
) -> list[Cost]:
    """Return what the parts of the recipe's result cost, in the order of the graph.

    The model is opened once, in float with QuantizeLinear and DequantizeLinear where a switch asks for them.
    Errors taken alone add up as long as they are small, and tell who leads where they are not.

    Args:
        build: Builds the recipe.
        recipe: Its passes up to the first that realises decide what is encoded.
        samples: What is compared.
        small: Neighbours whose noise together is no larger stay together.
        executor: Who measures.
        on_progress: Called with (parts measured, parts in all).

    """
    originals = Originals()
    module = build.trial(_before_realised(recipe), instruments=(originals,))
    names = _names(build, recipe)
    owners = _Owners.of(module, names)
    edges = insert_switches(module, originals.found)
    parts = [part for part in owners.parts(edges) if part.name in names]
    with TemporaryDirectory(prefix="onnxq-parts-") as folder:
        save_model(module, path := Path(folder, "model.onnx"))
        board = _Alone(samples.source, path, samples.batches, edges, samples.run)
        with executor.opened(board) as each:
            return _split(parts, small, each, on_progress)


def _split(parts: Sequence[Part], small: float, each: NoiseOf, on_progress: Steps) -> list[Cost]:
    """Measure neighbours together, and those of which it is not small in halves, and so on."""
    waiting = [tuple(parts[start : start + TOGETHER]) for start in range(0, len(parts), TOGETHER)]
    found: dict[Part, Cost] = {}
    while waiting:
        on_progress(sum(len(cost.parts) for cost in found.values()), len(parts))
        measured = [Cost(*one) for one in zip(waiting, each(waiting), strict=True)]
        large = [cost for cost in measured if len(cost.parts) > 1 and cost.noise > small]
        found |= {cost.parts[0]: cost for cost in measured if cost not in large}
        waiting = [half for cost in large for half in cost.halves()]
    on_progress(len(parts), len(parts))
    return [found[part] for part in parts if part in found]


def _names(build: Build, recipe: Recipe) -> set[str]:
    """Return the names that a recipe can assign to: nodes and values before encoding."""
    passes = parse_pipeline(recipe.pipeline)
    first = next((place for place, pass_ in enumerate(passes) if gives_precision(pass_)), 0)
    beginning = {"pipeline": format_pipeline(passes[:first]), "precision": Precision()}
    module = build.trial(recipe.model_copy(update=beginning))
    nodes = {name for node in module.graph for name in names_of(node)}
    return nodes | {name_of(value) for value in module.values()}


def _before_realised(recipe: Recipe) -> Recipe:
    passes = parse_pipeline(recipe.pipeline)
    end = next((place for place, pass_ in enumerate(passes) if pass_.realises), 0)
    return recipe.model_copy(update={"pipeline": format_pipeline(passes[:end])})


@dataclass(frozen=True)
class _Owners:
    """To which layer an edge counts.

    Args:
        layers: By the name of a node that reads an encoded weight, what recipes call the layer.
        giving: By the name of a value, the layer that gives it.

    """

    layers: Mapping[str, str]
    giving: Mapping[str, str]

    @classmethod
    def of(cls, module: GraphModule, names: Collection[str]) -> _Owners:
        """Look at a module whose decisions are complete; recipes can assign to ``names``."""
        layers = [one for one in linear_layers(module) if module.reads_encoded(one.node, one.weight)]
        giving = {
            name_of(value): _called(layer.node, names)
            for layer in layers
            for value in (layer.output, layer.clamped_output)
        }
        tables = (
            node for node in module.graph if is_standard(node, "Gather") and module.encoding_at(node, 0)
        )
        nodes = (*(layer.node for layer in layers), *tables)
        return cls({node.name or "": _called(node, names) for node in nodes}, giving)

    def parts(self, edges: Sequence[Edge]) -> list[Part]:
        """Return all parts; constants that no layer reads stay as they are."""
        found: dict[tuple[str, bool], list[Edge]] = defaultdict(list)
        for edge in edges:
            owner = self.layers.get(edge.reader or "") or self.giving.get(edge.value)
            if owner is not None:
                found[owner, True].append(edge)
            elif not edge.constant:
                found[edge.value, False].append(edge)
        return [Part(*key, frozenset(same)) for key, same in found.items()]


def _called(node: ir.Node, names: Collection[str]) -> str:
    """Return the one of ``names`` that is the node's: passes may have put it in another's place."""
    return next((name for name in names_of(node) if name in names), node.name or "")


@dataclass(frozen=True)
class _Alone(Switchboard):
    """The job of measuring what parts alone cost."""

    def __call__(self, parts: tuple[Part, ...]) -> float:
        """Return the power of the error over that of the signal."""
        edges = frozenset().union(*(part.edges for part in parts))
        return float(10 ** (-self.sqnr_db(lambda edge: edge in edges) / 10))

    def elsewhere(self) -> _Alone:
        """Return the same for another process, which opens both models itself."""
        return _Alone(*vars(super().elsewhere()).values())

    def accept(self, answer: float) -> float:
        """Return what was found."""
        return answer
