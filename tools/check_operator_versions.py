"""Every version of every standard operator through every recipe: the result opens, and is right.

ONNX's own single-operator models (``onnx.backend.test``) are written for the newest version of their
operator. For an older version the same model gets an older operator set, and what became an input since is an
attribute again. Of each version the first models that ONNX Runtime runs, up to ``--models``, go through every
shipped recipe; where the operator is linear, also with its weight as a constant. What has to hold says
``onnxq.testing.trials``. Counted are versions:

- without a kernel: ONNX Runtime runs no model of it that can be made here, or computes no numbers;
- ok, refused, failed: by recipe, the worst of its models. "Refused" is an error of the caller's side.

Exits with 1 if one failed.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from backend_cases import DRAWING, feeds_of, node_cases, with_constants
from measuring import parser, show
from onnx import helper

from onnxq.errors import OnnxqError
from onnxq.ir.module import LINEAR
from onnxq.testing.routes import Route, recipe_routes
from onnxq.testing.trials import UnusableError, source_values, try_route

HANDMADE = (
    "(float[1,2,4,4] x) => (float[1,2,1,1] y) { y = GlobalLpPool<p = 2>(x) }",
    "(float[1,2,4,4] x, float[1,5] rois) => (float[1,2,2,2] y) "
    "{ y = MaxRoiPool<pooled_shape = [2, 2]>(x, rois) }",
    "(float[2,3] x) => (int32[2,4] y) { y = Multinomial<sample_size = 4>(x) }",
    "() => (float[2,3] y) { y = RandomNormal<shape = [2, 3]>() }",
    "() => (float[2,3] y) { y = RandomUniform<shape = [2, 3]>() }",
    "(float[2,3] x) => (float[2,3] y) { y = RandomNormalLike(x) }",
    "(float[2,3] x) => (float[2,3] y) { y = RandomUniformLike(x) }",
    '(float[1,1,2,2] x, float[4] scales) => (float[1,1,?,?] y) { y = Resize<mode = "linear">(x, scales) }',
    "(float[1,1,2,2] x, float[0] roi, float[4] scales) => (float[1,1,?,?] y) { y = Resize(x, roi, scales) }",
    "(float[1,1,4,4] x, float[1,4] rois, int64[1] batch) => (float[1,1,2,2] y) "
    "{ y = RoiAlign<output_height = 2, output_width = 2>(x, rois, batch) }",
)
"""Models of operators for which ONNX has none of one node, or none in the form of an old version."""
WORST = ("ok", "refused", "failed")


@dataclass(frozen=True)
class Model:
    """A model of one operator with its feeds."""

    name: str
    proto: onnx.ModelProto
    feeds: Mapping[str, Any]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--models", type=int, default=2, help="how many models of each version are tried")
    options.add_argument("--only", default="", help="try only this operator")
    args = options.parse_args()
    recipes, found, missing = recipe_routes(), Counter[tuple[str, str]](), []
    kinds: dict[str, list[str]] = defaultdict(list)
    cases = cases_by_operator()
    versions = [v for v in operator_versions() if args.only in ("", v[0])]
    for operator, version in versions:
        models = list(usable_models(cases.get(operator, []), operator, version, args.models))
        if not models:
            missing.append(f"{operator}-{version}")
            continue
        for route in recipes:
            outcomes = [attempt(model, route, kinds) for model in models]
            found[route.name, max(outcomes, key=WORST.index)] += 1
    rows = [
        {"recipe": route.name.removeprefix("recipe ")} | {o: found[route.name, o] for o in WORST}
        for route in recipes
    ]
    title = f"{len(versions)} versions of ONNX's operators, {len(versions) - len(missing)} with a kernel"
    show(title, rows, list(_notes(kinds, missing)), as_json=args.json)
    return int(any(row["failed"] for row in rows))


def operator_versions() -> list[tuple[str, int]]:
    """Return name and first operator set of every version of every operator of the standard domain."""
    schemas = onnx.defs.get_all_schemas_with_history()
    return sorted({(s.name, s.since_version) for s in schemas if s.domain == "" and not s.deprecated})


def cases_by_operator() -> dict[str, list[Model]]:
    """Return ONNX's models of one node, by operator."""
    found: dict[str, list[Model]] = defaultdict(list)
    for case in node_cases():
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].domain == "":
            model = Model(case.name, case.model, feeds_of(case))
            found[case.model.graph.node[0].op_type].append(model)
    for text in HANDMADE:
        model = _handmade(text)
        found[model.proto.graph.node[0].op_type].append(model)
    return found


def _handmade(text: str) -> Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 21]> main {text}')
    feeds = {value.name: _made_up(value) for value in proto.graph.input}
    return Model(f"{proto.graph.node[0].op_type} made here", proto, feeds)


def _made_up(value: onnx.ValueInfoProto) -> Any:
    """Return what an input is fed: factors and regions that are valid, else numbers from 0.1 upwards."""
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    known = {"scales": [1, 1, 2, 2], "rois": [[0, 0, 0, 3, 3]] if shape == [1, 5] else [[0, 0, 3, 3]]}
    counted = 0.1 + np.arange(np.prod(shape)).reshape(shape)
    return np.asarray(known.get(value.name, counted), dtype)


def usable_models(models: list[Model], operator: str, version: int, count: int) -> Iterator[Model]:
    """Yield the first models of this version that ONNX Runtime runs."""
    for model in models:
        if count == 0:
            return
        older = at_version(model, version)
        if older is None or not _runs(older):
            continue
        yield older
        count -= 1
        if operator in LINEAR:
            constant = with_constant_weight(older)
            if _runs(constant):
                yield constant


def at_version(model: Model, version: int) -> Model | None:
    """Return the model with an operator of this version, or None where the version has no such form."""
    node = model.proto.graph.node[0]
    schema = onnx.defs.get_schema(node.op_type, version, "")
    newest = onnx.defs.get_schema(node.op_type, model.proto.opset_import[0].version, "")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.opset_import[0].version = version
    changed, feeds = proto.graph.node[0], dict(model.feeds)
    if newest.since_version != schema.since_version:
        for place in range(len(changed.input) - 1, schema.max_input - 1, -1):
            name = changed.input.pop()
            if name and not _becomes_attribute(
                newest.inputs[place].name, feeds.pop(name, None), changed, schema
            ):
                return None
        if any(attribute.name not in schema.attributes for attribute in changed.attribute):
            return None
    kept = [value for value in proto.graph.input if value.name in feeds]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)
    return Model(f"{model.name} at {version}", proto, feeds)


def _becomes_attribute(name: str, value: Any, node: onnx.NodeProto, schema: Any) -> bool:
    if value is None or name not in schema.attributes:
        return False
    node.attribute.append(helper.make_attribute(name, value.tolist()))
    return True


def with_constant_weight(model: Model) -> Model:
    """Return the model with everything but its first input as constants."""
    first = model.proto.graph.node[0].input[0]
    others = [name for name in model.feeds if name != first]
    proto = with_constants(model.proto, model.feeds, others)
    return Model(f"{model.name}, constant weight", proto, {first: model.feeds[first]})


def attempt(model: Model, route: Route, kinds: dict[str, list[str]]) -> str:
    """Return what became of a model, and note why unless all was well."""
    try:
        same = model.proto.graph.node[0].op_type not in DRAWING
        try_route(model.proto, model.feeds, route, repeatable=same)
    except UnusableError:
        return "ok"  # beyond a narrow float type
    except Exception as error:
        outcome = "refused" if isinstance(error, OnnxqError) and error.exit_code == 2 else "failed"
        text = " ".join(str(error).split())[:200]
        kinds[f"{outcome}: {type(error).__name__}: {text}"].append(f"{model.name}, {route.name}")
        return outcome
    return "ok"


def _runs(model: Model) -> bool:
    try:
        onnx.checker.check_model(model.proto)
        source_values(model.proto, model.feeds)
    except Exception:
        return False
    return True


def _notes(kinds: Mapping[str, list[str]], missing: list[str]) -> Iterator[str]:
    yield f"without a kernel {len(missing)}: {', '.join(missing)}"
    for kind, names in sorted(kinds.items(), key=lambda item: -len(item[1])):
        yield f"{len(names)} {kind} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"


if __name__ == "__main__":
    sys.exit(main())
