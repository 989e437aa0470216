"""What tuning may leave out of a recipe, or do in another way: its forms, by name."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, attribute
from onnxq.passmanager.base import Pass
from onnxq.passmanager.pipeline import format_pipeline, parse_pipeline
from onnxq.passmanager.precision import Precision
from onnxq.passmanager.values import value_text
from onnxq.recipe import Recipe

BETWEEN = "integers between layers"
"""The form that leaves out what lies between the layers."""


@dataclass(frozen=True)
class Form:
    """One thing that can be left out of a recipe, or done in another way.

    Args:
        name: What is left out: ``int8 for MatMul 384x1536``, ``pass sum-residuals`` or ``BETWEEN``. Or a
            variant of a pass, as ``lower-precision.dtype=bfloat16``.
        recipe: The recipe without it, or with it.

    """

    name: str
    recipe: Recipe


def with_passes(recipe: Recipe, passes: Sequence[Pass]) -> Recipe:
    """Return the recipe with other passes."""
    return recipe.model_copy(update={"pipeline": format_pipeline(passes)})


def timed_alone(recipe: Recipe) -> Recipe:
    """Return the recipe with no passes but those that a form's time depends on."""
    return with_passes(recipe, timed_passes(recipe))


def timed_passes(recipe: Recipe) -> list[Pass]:
    """Return the passes that a form's time depends on."""
    return [pass_ for pass_ in parse_pipeline(recipe.pipeline) if not pass_.numbers_only]


def deciding(passes: Sequence[Pass]) -> int:
    """Return how many of the passes there are up to where the weights' encodings are decided."""
    return max((count for count, pass_ in enumerate(passes, start=1) if pass_.encodes_weights), default=0)


def groups_of(module: GraphModule, precision: Precision) -> Mapping[str, Sequence[str]]:
    """Return the names of the layers whose weight is encoded though nobody assigned that, by shape."""
    groups: dict[str, list[str]] = defaultdict(list)
    for layer in linear_layers(module):
        if precision.of_layer(layer.node) is None and module.reads_encoded(layer.node, layer.weight):
            groups[_shape_of(layer)].append(layer.node.name or "")
    return groups


def forms_of(recipe: Recipe, groups: Mapping[str, Sequence[str]]) -> Iterator[Form]:
    """Yield what may be left out of a recipe or done otherwise, given the layers of each shape."""
    passes = parse_pipeline(recipe.pipeline)
    shapes = groups if any(map(_leaves_out, passes)) else ()
    names = [f"int8 for {shape}" for shape in shapes]
    names += [BETWEEN] if any(pass_.plainer for pass_ in passes) else []
    names += [f"pass {name}" for name in sorted({pass_.name for pass_ in passes if pass_.optional})]
    names += _variants(recipe, passes)
    for name in names:
        yield Form(name, without(recipe, groups, [name]))


def _variants(recipe: Recipe, passes: Sequence[Pass]) -> list[str]:
    """Return what passes may do otherwise, as settings; on processors there is nothing to gain."""
    if recipe.runs_on.provider == "cpu":
        return []
    return [f"{pass_.name}.{setting}" for pass_ in passes for setting in pass_.variants]


def is_variant(name: str) -> bool:
    """Tell whether a form does something in another way, and leaves nothing out."""
    return "=" in name


def _leaves_out(pass_: Pass) -> bool:
    """Tell whether the pass encodes weights, but those of layers that its option names."""
    return pass_.encodes_weights and any(option.name == "exclude" for option in fields(pass_))


def without(recipe: Recipe, groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> Recipe:
    """Return the recipe with the named forms left out, and variants taken."""
    passes = [pass_ for pass_ in parse_pipeline(recipe.pipeline) if f"pass {pass_.name}" not in names]
    nodes = _layers_of(groups, names)
    if BETWEEN in names:
        passes = [pass_.plainer or pass_ for pass_ in passes]
    recipe = with_passes(recipe, passes).with_options([*filter(is_variant, names)])
    return _in_float(recipe, [*map(glob.escape, nodes)]) if nodes else recipe


def _layers_of(groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[str]:
    """Return the layers that the named forms leave out."""
    return [node for shape, members in groups.items() if f"int8 for {shape}" in names for node in members]


def in_float(recipe: Recipe) -> Recipe:
    """Return the recipe with all layers in float; one that quantizes none stays as it is."""
    return _in_float(recipe, ["*"])


def _in_float(recipe: Recipe, patterns: Sequence[str]) -> Recipe:
    settings = [
        f"{pass_.name}.exclude={_with_more(getattr(pass_, 'exclude', ()), patterns)}"
        for pass_ in parse_pipeline(recipe.pipeline)
        if _leaves_out(pass_)
    ]
    return recipe.with_options(settings)


def _with_more(excluded: Sequence[str], patterns: Sequence[str]) -> str:
    return value_text(tuple(dict.fromkeys((*excluded, *patterns))))


def _shape_of(layer: Layer) -> str:
    """Return what decides a layer's speed: operator, weight shape, strides and groups."""
    weight = "x".join(str(size) for size in layer.weight.shape or ())
    strides = attribute(layer.node, "strides", None)
    group = attribute(layer.node, "group", 1)
    parts = [layer.node.op_type, weight]
    parts += [f"stride {max(strides)}"] if strides and max(strides) > 1 else []
    parts += [f"groups {group}"] if group > 1 else []
    return " ".join(parts)
