"""Golden cases: a pipeline, a graph before and a graph after, in one text file.

::

    # RUN: insert-qdq
    # encode x: scale=0.5 zero_point=0
    <ir_version: 10, opset_import: ["" : 21]>
    main (float[N,2] x) => (float[N,2] y)
    {
        [act] y = Relu(x)
    }
    # -----
    ... the expected graph; without it, the graph stays as it is

More lines may stand above the graph: ``# TARGET: portable`` (default ``cpu``); ``# PROCESSOR: avx2``
(default: one where nothing saturates, wherever the case runs); ``# PRECISION: {"layers": {"head": "float"}}``
for what is assigned by name; ``# SHOW: types facts`` for what the
expected graph hides otherwise; and what is expected besides: ``# REMARK: node: reason`` for each node
left alone, or ``# ERROR: text``, part of the error's message. Without ``SHOW: types`` the types of inner
values are inferred before the pipeline runs. The form of graphs is described in ``docs/graph-text.md``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path

from onnx_ir.passes.common import ShapeInferencePass

from onnxq.errors import OnnxqError, RecipeError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse, render
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.precision import Precision
from onnxq.target import find_target

NO_PROCESSOR = "unknown"
_RULER = "# -----"
_DIRECTIVE = re.compile(r"# (RUN|TARGET|PROCESSOR|PRECISION|SHOW|REMARK|ERROR): (.*)")


@dataclass(frozen=True)
class GoldenCase:
    """One case.

    Args:
        pipeline: The pipeline as text.
        before: Comments and the graph before, as they stand in the file.
        after: The graph after, canonical text; None if it stays as it is.
        target: The target's name.
        processor: The processor's name.
        precision: What is assigned by name, as JSON.
        show: Which of ``types`` and ``facts`` the graph after shows.
        remarks: The expected remarks, ``node: reason``.
        error: A part of the expected error's message.

    """

    pipeline: str
    before: str
    after: str | None = None
    target: str = "cpu"
    processor: str = NO_PROCESSOR
    precision: str = "{}"
    show: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        """Print as a file's text."""
        head = [f"# RUN: {self.pipeline}"]
        head += [f"# TARGET: {self.target}"] if self.target != "cpu" else []
        head += [f"# PROCESSOR: {self.processor}"] if self.processor != NO_PROCESSOR else []
        head += [f"# PRECISION: {self.precision}"] if self.precision != "{}" else []
        head += [f"# SHOW: {' '.join(sorted(self.show))}"] if self.show else []
        head += [f"# REMARK: {remark}" for remark in self.remarks]
        head += [f"# ERROR: {self.error}"] if self.error is not None else []
        tail = [] if self.after is None else [_RULER, self.after]
        return "\n".join([*head, self.before, *tail]) + "\n"


def read_case(text: str) -> GoldenCase:
    """Return the case in a file's text.

    Raises:
        RecipeError: There is no ``# RUN:`` line.
        ModelError: The expected graph does not parse.

    """
    top, _, after = text.partition(f"\n{_RULER}\n")
    found = [_DIRECTIVE.fullmatch(line.strip()) for line in top.splitlines()]
    said: dict[str, list[str]] = {}
    for match in filter(None, found):
        said.setdefault(match[1], []).append(match[2].strip())
    if "RUN" not in said:
        raise RecipeError("a golden case needs a line: # RUN: pipeline")
    rest = [line for line, match in zip(top.splitlines(), found, strict=True) if match is None]
    show = frozenset(re.findall(r"\w+", " ".join(said.get("SHOW", []))))
    return GoldenCase(
        pipeline=said["RUN"][0],
        before="\n".join(rest).strip("\n"),
        after=_canonical(parse(after), show) if after.strip() else None,
        target=said.get("TARGET", ["cpu"])[0],
        processor=said.get("PROCESSOR", [NO_PROCESSOR])[0],
        precision=said.get("PRECISION", ["{}"])[0],
        show=show,
        remarks=tuple(said.get("REMARK", [])),
        error=said["ERROR"][0] if "ERROR" in said else None,
    )


def run_case(case: GoldenCase) -> GoldenCase:
    """Run the case's pipeline and return the case as it should stand in the file."""
    module = parse(case.before)
    if "types" not in case.show:
        ShapeInferencePass()(module.model)
    before = _canonical(module, case.show)
    try:
        target = find_target(case.target, case.processor)
        precision = Precision(**json.loads(case.precision))
        passes = parse_pipeline(case.pipeline)
        manager = PassManager(passes, target, [VerifyEach()], precision=precision)
        records = manager.run(module)
    except OnnxqError as error:
        return replace(case, after=None, remarks=(), error=_known_part(case.error, error))
    after = _canonical(module, case.show)
    remarks = tuple(f"{r.node}: {r.reason}" for record in records for r in record.remarks)
    return replace(case, after=None if after == before else after, remarks=remarks, error=None)


def check_golden(path: Path) -> None:
    """Run the case in a file.

    Raises:
        AssertionError: Something came out otherwise than the file says; the message is the diff.

    """
    expected = read_case(path.read_text(encoding="utf-8"))
    result = run_case(expected)
    diff = "\n".join(_diff(str(expected), str(result)))
    assert not diff, f"{path.name} came out otherwise:\n{diff}"


def update_golden(path: Path) -> bool:
    """Rewrite what the case in a file expects, and tell whether the file changed."""
    old = path.read_text(encoding="utf-8")
    new = str(run_case(read_case(old)))
    if new != old:
        path.write_text(new, encoding="utf-8")
    return new != old


def _canonical(module: GraphModule, show: frozenset[str]) -> str:
    """Print what the case wants to see of a module."""
    return render(module, types="types" in show, facts="facts" in show).rstrip("\n")


def _known_part(expected: str | None, error: OnnxqError) -> str:
    """Return the expected part if the message has it, else the message's first line."""
    found = f"{error.where}: {error.message}" if error.where else error.message
    return expected if expected is not None and expected in found else found.splitlines()[0]


def _diff(expected: str, result: str) -> Iterable[str]:
    return unified_diff(expected.splitlines(), result.splitlines(), "expected", "result", lineterm="")
