"""Artifacts for CUDA, prepared without a GPU: graphs as text, weights as seeds, and what the CPU tells.

A kernel's speed does not depend on the numbers, so a folder of some megabytes serves to time models of
gigabytes. What does depend on them, the distance to fp32, is measured here with the models' own weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from cuda_cases import FP32, Artifact, Case, Feeds, runs

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.rounding import spell_out_rounding
from onnxq.ir.store import load_model
from onnxq.ir.text import parse, render
from onnxq.kernels import load_kernels
from onnxq.passmanager.pipeline import format_pipeline, parse_pipeline
from onnxq.recipe import Recipe, load_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session

LIST = "prepared.jsonl"
ELIDES_ABOVE = 256
"""Larger weights become seeded random numbers of the same dtype, shape and range when they are read."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A folder of prepared artifacts, and a list of what is known of each, line by line."""

    folder: Path

    def records(self) -> list[Record]:
        """Return what is known of each artifact, in the order of preparation."""
        return read_lines(self.folder / LIST)

    def write(self, record: Record, model: Path) -> None:
        """Add one artifact."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = render(load_model(model), elide_above=ELIDES_ABOVE)
        (self.folder / record["file"]).write_text(text, encoding="utf-8")
        append_line(self.folder / LIST, record)

    def save(self, record: Record, model: Path) -> None:
        """Write one artifact as a model with its seeded weights."""
        ir.save(parse((self.folder / record["file"]).read_text(encoding="utf-8")).model, model)


def read_lines(path: Path) -> list[Record]:
    """Return the objects of a file with one of JSON in each line; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append_line(path: Path, record: Record) -> None:
    """Add one object to such a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def prepare(case: Case, to: Prepared, *, quick: bool) -> Iterator[Record]:
    """Compile, compare and write the artifacts of one model that are not there yet, one by one."""
    there = {one["artifact"] for one in to.records() if one["model"] == case.name}
    missing = [name for name in (FP32, *case.artifacts) if name not in there]
    if not missing:
        return
    with TemporaryDirectory() as folder:
        source = Path(folder) / "source.onnx"
        case.write(source)
        feeds = case.sentences() if case.sentences else [next(iter(runs(case.name, quick=quick).values()))()]
        wanted = _results(open_session(source, Run(threads=2)), case, feeds)
        for name in missing:
            known = {"model": case.name, "artifact": name, "quick": quick, "file": _file(case.name, name)}
            record, model = known | {"MB": _megabytes(source), "session_options": {}}, source
            if name != FP32:
                model = Path(folder) / "artifact.onnx"
                record |= _compiled(source, model, case.artifacts[name], feeds)
                record["cosine"] = _smallest_cosine(model, case, feeds, wanted)
            to.write(record, model)
            yield record


def _file(*names: str) -> str:
    return f"{'.'.join(name.replace(' ', '-') for name in names)}.onnxtxt"


def _megabytes(model: Path) -> float:
    return round(model.stat().st_size / 1e6, 1)


def _compiled(source: Path, output: Path, artifact: Artifact, feeds: Sequence[Feeds]) -> Record:
    """Compile ``source`` to ``output``; return what can be told of it without running it."""
    recipe = _recipe(artifact)
    data = open_feeds("feeds", lambda: feeds, input_specs(load_model(source).model))
    result = compile_model(
        source,
        output,
        recipe=recipe,
        data=data if recipe.needs_data else None,
        options=CompileOptions(validate=False, bench=False, choose=False, tune=False),
    )
    module = load_model(output)
    lacking = Counter(f"{node.op_type}: {why}" for node, why in load_kernels("cuda").missing(module))
    return {
        "MB": _megabytes(output),
        "of fp32": round(output.stat().st_size / source.stat().st_size, 2),
        "nodes": len(module.graph),
        "lacking": dict(lacking),
        "for_cuda": artifact.for_cuda,
        "in_place": _caches(module) if artifact.in_place else {},
        "session_options": dict(result.manifest.session_options),
    }


def _caches(module: GraphModule) -> dict[str, str]:
    """Return what is written over what, by the names of outputs and inputs."""
    kept = (node for node in module.graph if node.op_type == "GroupQueryAttention")
    pairs = (pair for node in kept for pair in zip(node.outputs[1:], node.inputs[3:5], strict=True))
    return {name_of(present): name_of(past) for present, past in pairs}


def _recipe(artifact: Artifact) -> Recipe:
    recipe = load_recipe(artifact.recipe).with_options(artifact.options)
    passes = [one for one in parse_pipeline(recipe.pipeline) if one.name not in artifact.without]
    return recipe.model_copy(update={"pipeline": format_pipeline(passes)})


def _smallest_cosine(model: Path, case: Case, feeds: Sequence[Feeds], wanted: Sequence[Any]) -> float:
    """Return the smallest cosine of the results to fp32's, with the rounding of float16 spelled out."""
    session = open_session(ir.to_proto(spell_out_rounding(load_model(model).model)), Run(threads=2))
    pairs = zip(_results(session, case, feeds), wanted, strict=True)
    return round(min(float(_cosines(one, other).min()) for one, other in pairs), 6)


def _results(session: Session, case: Case, feeds: Sequence[Feeds]) -> list[Any]:
    """Return the first output as rows: sentences pooled by their mask, others as they are."""
    return [_rows(next(iter(session.run(one).values())), one, case) for one in feeds]


def _rows(values: Any, feeds: Mapping[str, Any], case: Case) -> Any:
    wide = values.astype(np.float64)
    if case.sentences is None:
        return wide.reshape(len(wide), -1)
    mask = feeds["attention_mask"][..., None]
    return (wide * mask).sum(axis=1) / mask.sum(axis=1)


def _cosines(found: Any, wanted: Any) -> Any:
    products = (found * wanted).sum(axis=1)
    return products / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
