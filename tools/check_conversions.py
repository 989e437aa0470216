"""Carry ONNX's single-operator models over to later operator sets, and hold each to what it was before.

For each model of ``onnx.backend.test.case.node`` with one standard operator, and each older version of that
operator (from operator set 7 on) that takes the same node: if ONNX Runtime runs it there, it is converted to
the operator sets that passes ask for, and run again on the same data. It has to give the same: equal whole
numbers and texts, floats up to 64 units in the last place of the tensor's largest magnitude.

The same is done with onnx's own converter, which onnxq does not use; its row tells why. Operators that draw
random numbers are left out. The tool needs no assets. Exits with 1 if onnxq's own conversion fails.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from backend_cases import feeds_of, node_cases
from measuring import parser, show
from onnx import defs, helper

from onnxq.errors import OnnxqError
from onnxq.ir.module import GraphModule
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.available import cpu_kernels
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import RANDOM
from onnxq.runtime.session import open_session
from onnxq.target import find_target

FIRST = 7
"""ONNX Runtime promises nothing for older operator sets."""
TARGETS = (13, 17, 21, 22, 23, 27)
ULPS = 64

Converter = Callable[[onnx.ModelProto, int], onnx.ModelProto]


def by_pass(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Convert as ``onnxq compile`` does: as far as the node keeps a kernel."""
    module = GraphModule(ir.from_proto(model))
    passes = parse_pipeline(f"convert-opset{{minimum={version}}}")
    PassManager(passes, find_target("cpu"), kernels=cpu_kernels).run(module)
    return ir.to_proto(module.model)


CONVERTERS: Mapping[str, Converter] = {"onnxq": by_pass, "onnx": onnx.version_converter.convert_version}


@dataclass(frozen=True)
class Outcome:
    """What became of one conversion: ``same``, ``another result``, ``does not run`` or ``refused``."""

    converter: str
    operator: str
    versions: tuple[int, int]
    kind: str
    reason: str = ""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--every", type=int, default=1, help="try only every N-th model")
    args = options.parse_args()
    outcomes = [outcome for case in _cases()[:: args.every] for outcome in check(case)]
    rows = [
        {"converter": name, **Counter(one.kind for one in outcomes if one.converter == name)}
        for name in CONVERTERS
    ]
    steps = len({(one.operator, one.versions) for one in outcomes})
    title = f"ONNX's single-operator models in later operator sets: {steps} pairs of an operator's versions"
    show(title, rows, list(_notes(outcomes)), as_json=args.json)
    failures = ("another result", "does not run")
    return int(any(one.kind in failures for one in outcomes if one.converter == "onnxq"))


def check(case: Any) -> Iterator[Outcome]:
    """Convert one model from each older version of its operator."""
    (node,) = case.model.graph.node
    feeds, done = feeds_of(case), set()
    for version in range(FIRST, max(TARGETS)):
        old = _since(node, version)
        if old is None or not _fits(node, version):
            continue
        model = _in_version(case.model, version)
        before = _run(model, feeds)
        for target in [one for one in TARGETS if one > version] if isinstance(before, list) else []:
            new = _since(node, target) or target
            if (old, new) not in done and new != old:
                done.add((old, new))
                for name, convert in CONVERTERS.items():
                    kind, reason = _converted(convert, model, target, feeds, before)
                    yield Outcome(name, node.op_type, (old, new), kind, reason)


@cache
def _cases() -> list[Any]:
    return [case for case in node_cases() if _usable(case)]


def _usable(case: Any) -> bool:
    nodes = case.model.graph.node
    if len(nodes) != 1 or case.model.functions or nodes[0].domain or nodes[0].op_type in RANDOM:
        return False
    return not any(isinstance(a, np.ndarray) and a.dtype.kind == "V" for a in feeds_of(case).values())


def _since(node: onnx.NodeProto, version: int) -> int | None:
    if not defs.has(node.op_type, max_inclusive_version=version):
        return None
    return int(defs.get_schema(node.op_type, version).since_version)


def _fits(node: onnx.NodeProto, version: int) -> bool:
    schema = defs.get_schema(node.op_type, version)
    known = all(attribute.name in schema.attributes for attribute in node.attribute)
    return known and len(node.input) <= schema.max_input and len(node.output) <= schema.max_output


def _in_version(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.opset_import[:]
    copy.opset_import.append(helper.make_opsetid("", version))
    copy.ir_version = helper.find_min_ir_version_for(copy.opset_import)
    return copy


def _run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any] | str:
    """Return the outputs, or why there are none."""
    try:
        onnx.checker.check_model(model)
        return list(open_session(model, Run(threads=1)).run(feeds).values())
    except (OnnxqError, onnx.checker.ValidationError) as error:
        return " ".join(str(error).split())


def _converted(
    convert: Converter, model: onnx.ModelProto, target: int, feeds: Mapping[str, Any], before: list[Any]
) -> tuple[str, str]:
    try:
        converted = convert(model, target)
    except (OnnxqError, RuntimeError, ValueError) as error:
        return "refused", " ".join(str(error).split())
    after = _run(converted, feeds)
    if isinstance(after, str):
        return "does not run", after
    same = len(after) == len(before) and all(map(_is_same, after, before))
    return ("same", "") if same else ("another result", "")


def _is_same(found: Any, expected: Any) -> bool:
    """Tell whether results differ by rounding alone; an infinity is as good a mask as the last number."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_is_same, found, expected))
    if found is None or expected is None:
        return found is expected
    found, expected = np.asarray(found), np.asarray(expected)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if found.dtype.kind != "f" or not found.size:
        return bool((found == expected).all())
    end = float(np.finfo(expected.dtype).max)
    one, other = (np.clip(array.astype(np.float64), -end, end) for array in (found, expected))
    largest = np.abs(other[np.abs(other) < end]).max(initial=0)
    bound = ULPS * float(np.spacing(expected.dtype.type(largest)))
    return bool(np.allclose(one, other, rtol=0, atol=bound, equal_nan=True))


def _notes(outcomes: list[Outcome]) -> Iterator[str]:
    counts = Counter(
        (one.converter, one.kind, f"{one.operator} {one.versions[0]} to {one.versions[1]}", one.reason[:160])
        for one in outcomes
        if one.kind != "same"
    )
    for (converter, kind, what, reason), count in sorted(counts.items()):
        yield f"{converter}: {kind}: {what}, {count} models" + (f": {reason}" if reason else "")


if __name__ == "__main__":
    sys.exit(main())
