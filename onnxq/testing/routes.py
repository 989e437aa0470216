"""Pipelines to try models on: the shipped recipes, further combinations, and every pass by itself."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.passmanager.registry import pass_names
from onnxq.recipe import Recipe, shipped_recipes

TIDY = (
    "remove-initializer-inputs,inline-functions,lift-constants,fold-constants,convert-opset{minimum=13},"
    "widen-float16,infer-shapes,fold-pads,fold-batch-norm"
)
WEIGHTS = "encode-weights,encode-embeddings"
PIPELINES = {
    "static": f"{TIDY},sum-residuals,{WEIGHTS},sum-biases,encode-activations,fit-biases,encode-biases,"
    "tie-encodings,insert-qdq,remove-dead",
    "clipped": f"{TIDY},sum-residuals,{WEIGHTS},sum-biases,encode-activations,"
    "correct-clipping{channels=1, gain=0},encode-biases,tie-encodings,insert-qdq,fold-clips,remove-dead",
    "folded": f"{TIDY},sum-residuals,shift-and-scale{{steps=3}},smooth{{steps=3}},"
    f"group-embeddings{{shift=true}},{WEIGHTS},sum-biases,encode-activations,encode-biases,tie-encodings,"
    "insert-qdq,remove-dead",
    "equalized and rounded": f"{TIDY},unfuse-gemm,sum-residuals,equalize-activations,encode-weights,"
    "round-weights,encode-embeddings,sum-biases,encode-activations,encode-biases,tie-encodings,"
    "insert-qdq,remove-dead",
    "grouped": f"{TIDY},{WEIGHTS},encode-activations{{scope=all-tensors}},"
    "group-embeddings{mode=axis, groups=2},encode-biases,tie-encodings,insert-qdq,remove-dead",
    "split by groups": f"{TIDY},group-embeddings{{mode=split, groups=2, kinds=norm+value+relu}},{WEIGHTS},"
    "encode-activations,encode-biases,tie-encodings,insert-qdq,remove-dead",
    "all-tensors": f"{TIDY},{WEIGHTS},encode-activations{{scope=all-tensors}},encode-biases,tie-encodings,"
    "insert-qdq,remove-dead",
    "mixed": f"{TIDY},convert-opset{{minimum=21}},{WEIGHTS},encode-activations{{scope=all-tensors}},"
    "mixed-precision{levels=128},encode-biases,tie-encodings,insert-qdq,remove-dead",
    "dynamic": f"{TIDY},sum-residuals,{WEIGHTS},sum-biases,quantize-dynamically,insert-qdq,remove-dead",
    "blocks": f"{TIDY},convert-opset{{minimum=21}},unfuse-gemm,encode-weight-blocks,"
    "encode-embeddings{block=32, minimum=1},insert-qdq,remove-dead",
    "weight-only": f"{TIDY},{WEIGHTS},insert-qdq,remove-dead",
    "split": f"{TIDY},split-linear,sum-biases,encode-activations,encode-biases,insert-qdq,remove-dead",
    "split branches": f"{TIDY},split-linear{{mode=branches, bits=2}},encode-activations,encode-biases,"
    "insert-qdq,remove-dead",
    "split packed": f"{TIDY},convert-opset{{minimum=25}},unfuse-gemm,"
    "split-linear{mode=branches, bits=2, scope=tensor, packed=true},insert-qdq,remove-dead",
    "split blocks": f"{TIDY},convert-opset{{minimum=21}},"
    "split-linear{mode=branches, scope=block, block=32},insert-qdq,remove-dead",
    "half": f"{TIDY},lower-precision,remove-dead",
    "half, cached": f"{TIDY},cache-in-place,remove-dead,infer-shapes,lower-precision,remove-dead",
    "half, packed": f"{TIDY},fuse-attention,lower-precision,infer-shapes,pack-attention,remove-dead",
    "half with blocks": f"{TIDY},convert-opset{{minimum=21}},unfuse-gemm,"
    "encode-weight-blocks{symmetric=true},"
    "encode-embeddings{block=32, minimum=1},insert-qdq,fuse-block-matmul,infer-shapes,lower-precision,"
    "remove-dead",
    "half with float8": f"{TIDY},convert-opset{{minimum=21}},unfuse-gemm,"
    "encode-weight-blocks{float8=true, bits=8, block=32, symmetric=true},insert-qdq,remove-dead,infer-shapes,"
    "lower-precision,fuse-float8-matmul,remove-dead",
    "float8": f"{TIDY},convert-opset{{minimum=19}},encode-weights{{dtype=float8e4m3fn}},"
    "encode-activations{dtype=float8e4m3fn},round-weights,insert-qdq,remove-dead",
}

STATIC = "encode-weights,encode-activations{scope=all-tensors}"
BEFORE = {
    "insert-qdq": STATIC,
    "correct-bias": STATIC,
    "round-weights": STATIC,
    "correct-clipping": STATIC,
    "mixed-precision": f"convert-opset{{minimum=21}},{STATIC}",
    "tie-encodings": STATIC,
    "encode-biases": STATIC,
    "fit-biases": STATIC,
    "fold-clips": f"{STATIC},insert-qdq",
    "fuse-integer-matmul": "encode-weights,encode-activations,encode-biases,insert-qdq",
    "fuse-block-matmul": "convert-opset{minimum=21},encode-weight-blocks{symmetric=true},insert-qdq",
    "fuse-float8-matmul": "convert-opset{minimum=21},"
    "encode-weight-blocks{float8=true, bits=8, block=32, symmetric=true},insert-qdq,infer-shapes,"
    "lower-precision",
    "encode-weight-blocks": "convert-opset{minimum=21}",
    "pack-attention": "fuse-attention,infer-shapes",
    "trim-keys": "fuse-attention,infer-shapes",
}
"""What a pass finds before it in every recipe, besides the tidy passes."""
NEEDS = {"convert-opset": "inline-functions,convert-opset"}
"""What a pass refuses to do without, even by itself."""
REALISE = "insert-qdq,remove-dead"


@dataclass(frozen=True)
class Route:
    """A pipeline with a name.

    Args:
        name: What listings call it.
        pipeline: The passes as text.
        target: The target's name.

    """

    name: str
    pipeline: str
    target: str = "cpu"


def routes() -> list[Route]:
    """Return all routes; the recipes, as the most important ones, come twice."""
    recipes = recipe_routes()
    combined = [Route(f"pipeline {name}", text) for name, text in PIPELINES.items()]
    bare = [Route(f"bare {name}", f"infer-shapes,{NEEDS.get(name, name)}") for name in pass_names()]
    return [*recipes, *combined, *recipes, *bare, *map(alone, pass_names())]


def recipe_routes() -> list[Route]:
    """Return the shipped recipes, and those with choices once more with all of them taken."""
    shipped = shipped_recipes()
    chosen = [_recipe_route(recipe, chosen=True) for recipe in shipped if recipe.choices]
    return [*map(_recipe_route, shipped), *chosen]


def alone(name: str) -> Route:
    """Return a pass where a pipeline would have it: after the tidy passes and what it stands on."""
    parts = [TIDY, *([BEFORE[name]] if name in BEFORE else []), name, REALISE]
    return Route(f"pass {name}", ",".join(parts))


def _recipe_route(recipe: Recipe, *, chosen: bool = False) -> Route:
    """Return a recipe as it is, or with the last of the values that it may choose."""
    if chosen:
        recipe = recipe.with_options([f"{key}={values[-1]}" for key, values in recipe.tried().items()])
    suffix = " with choices" if chosen else ""
    return Route(f"recipe {recipe.name}{suffix}", recipe.pipeline, recipe.target)
