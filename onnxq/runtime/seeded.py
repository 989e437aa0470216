"""Models opened so that two of them can be compared: random operators draw the same numbers.

ONNX Runtime draws from a generator for each such node, which begins anew with each session. Left alone, two
sessions of one and the same model give other outputs; with one seed everywhere, what differs is what
compiling changed. Models that select boxes return what they selected from; see ``selecting``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from onnxq.errors import ModelError
from onnxq.ir.protos import inner_graphs
from onnxq.runtime.run import QUIET, Run
from onnxq.runtime.selecting import compare_before
from onnxq.runtime.session import Session, open_session

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Standard operators that draw numbers, besides a Dropout in training mode."""

SEED = 1


def open_comparable(model: Path | onnx.ModelProto, run: Run = Run(), *, arena: bool = True) -> Session:
    """Open ``model`` as ``open_session`` does, with one seed for all of its random operators.

    Two sessions give the same numbers in the same run, counted from the first. Where boxes are selected, what
    they are selected from is returned besides.

    Raises:
        OnnxqError: As ``open_session``.

    """
    folder = model.parent if isinstance(model, Path) else None
    proto, run = _proto(model) if isinstance(model, Path) else model, run.with_defaults(QUIET)
    nodes, selected = list(random_nodes(proto)), compare_before(proto)
    if not nodes and not selected:
        return open_session(model, run, arena=arena)
    for node in nodes:
        _seed(node)
    session = open_session(proto, run, external_data_folder=folder, arena=arena)
    source = str(model) if isinstance(model, Path) else session.source
    return replace(session, source=source, drawing=_kinds(nodes), selected=selected)


def random_operators(model: Path) -> tuple[str, ...]:
    """Return the operators of ``model`` that draw numbers, sorted.

    Raises:
        ModelError: It cannot be read.

    """
    return _kinds(random_nodes(_proto(model)))


def _kinds(nodes: Iterable[onnx.NodeProto]) -> tuple[str, ...]:
    return tuple(sorted({node.op_type for node in nodes}))


def random_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that draw numbers: in the graph, in graphs inside nodes and in functions."""
    nodes = [node for part in (model.graph, *model.functions) for node in _all(part.node)]
    off = _off(model.graph.initializer, nodes)
    for node in nodes:
        trains = node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] not in off
        if node.domain in ("", "ai.onnx") and (node.op_type in RANDOM or trains):
            yield node


def _off(initializers: Iterable[onnx.TensorProto], nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names that say of a Dropout that it does not train: none, and constants that are false."""
    constants = {
        node.output[0]: attribute.t
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    named = {one.name: one for one in initializers} | constants
    flags = {name: one for name, one in named.items() if one.data_type == onnx.TensorProto.BOOL}
    return {""} | {name for name, one in flags.items() if not onnx.numpy_helper.to_array(one).any()}


def _all(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from _all(graph.node)


def _seed(node: onnx.NodeProto) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != "seed"]
    seed: int | float = SEED if node.op_type == "Dropout" else float(SEED)
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute("seed", seed)])


def _proto(model: Path) -> onnx.ModelProto:
    try:
        return onnx.load(model, load_external_data=False)
    except Exception as error:
        raise ModelError(f"it cannot be read: {error}", where=str(model)) from error
