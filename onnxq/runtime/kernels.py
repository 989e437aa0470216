"""Which kernels really ran: the optimised graph and the profile of a few runs, read together."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from onnxq.heap import trim
from onnxq.ir.protos import walk
from onnxq.runtime.batch import Feeds
from onnxq.runtime.profile import KernelNode, Kind, executed_nodes, kind_of, timed_events
from onnxq.runtime.provenance import LayerKernel, LayerState, Models, Provenance, trace
from onnxq.runtime.run import PROVIDERS, Provider, Run
from onnxq.runtime.session import Optimization, Session, open_session, read_proto
from onnxq.runtime.wiring import Wiring, without_weights
from onnxq.shown import Shown

if TYPE_CHECKING:
    import onnx

__all__ = [
    "KernelNode",
    "KernelReport",
    "Kind",
    "LayerKernel",
    "LayerState",
    "OpSummary",
    "Provenance",
    "kernel_report",
    "kind_of",
]


ENOUGH_SECONDS = 1.0
"""After so long, the times of a profile are means of enough runs."""


@dataclass(frozen=True)
class OpSummary:
    """All nodes of one operator on one provider: how many, and their part of the time."""

    op_type: str
    domain: str
    provider: str
    kind: Kind
    count: int
    microseconds: float
    share: float


@dataclass(frozen=True)
class KernelReport(Shown):
    """What ran, in the order in which it ran first.

    Args:
        asked: The provider that was asked for.
        runs: The runs that the times are means of; the first run is not among them.
        nodes: Every node that ran. If, Loop and Scan are not listed; what they ran is.
        provenance: The same by layers of the source.

    """

    asked: Provider
    runs: int
    nodes: tuple[KernelNode, ...]
    provenance: Provenance = field(default_factory=Provenance)

    @property
    def providers(self) -> dict[str, float]:
        """Each provider that ran a node, with its share of the time, the largest first."""
        shares: dict[str, float] = defaultdict(float)
        for node in self.nodes:
            shares[node.provider] += node.share
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    @property
    def kinds(self) -> dict[Kind, int]:
        """How many nodes of each kind ran; 0 is listed too."""
        counts = Counter(node.kind for node in self.nodes)
        return {kind: counts[kind] for kind in Kind}

    @property
    def summary(self) -> tuple[OpSummary, ...]:
        """The nodes by operator and provider, the largest share of time first."""
        groups: dict[tuple[str, str, str], list[KernelNode]] = defaultdict(list)
        for node in self.nodes:
            groups[node.op_type, node.domain, node.provider].append(node)
        rows = [_summarise(nodes) for nodes in groups.values()]
        return tuple(sorted(rows, key=lambda row: (-row.share, row.op_type)))

    @property
    def copies(self) -> tuple[KernelNode, ...]:
        """The nodes that only move a value between two devices."""
        return tuple(node for node in self.nodes if node.copies)

    def misplaced(self, provider: str) -> tuple[KernelNode, ...]:
        """Return the nodes with real work that ran elsewhere than on ``provider``.

        ONNX Runtime puts arithmetic on shapes on the CPU on purpose; nodes of kind ``other`` that compute
        whole numbers alone do not count.
        """
        away = (node for node in self.nodes if node.provider != provider)
        return tuple(node for node in away if node.kind is not Kind.OTHER or not node.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the derived tables too."""
        return {
            "asked": self.asked,
            "runs": self.runs,
            "providers": self.providers,
            "copies": [node.name for node in self.copies],
            "kinds": {kind.value: count for kind, count in self.kinds.items()},
            "summary": [asdict(row) for row in self.summary],
            "nodes": [asdict(node) for node in self.nodes],
            **self.provenance.to_dict(),
        }


def kernel_report(
    model: Path | bytes | onnx.ModelProto,
    feeds: Feeds,
    run: Run = Run(),
    *,
    source: Path | bytes | onnx.ModelProto | None = None,
    optimization: Optimization = "all",
    runs: int = 5,
) -> KernelReport:
    """Run ``model`` on ``feeds`` under ONNX Runtime's profiler and tell which kernels ran.

    The profiler costs time itself and counts whole microseconds: take shares from it, and
    latencies from ``bench``. On ``cuda`` a time is that of launching the kernel. TensorRT compiles parts of
    the graph, which ONNX Runtime runs as one node each and does not write down: its layers are not traced.

    Args:
        model: What to run.
        feeds: One batch.
        run: Where and how to run it; a CUDA graph is not recorded, as it hides the nodes.
        source: What ``model`` was compiled from; its layers are reported, or else the model's.
        optimization: How far ONNX Runtime rewrites the graph.
        runs: How many runs the times are means of; fewer where they take more than a second together.

    Raises:
        TargetError: The provider is missing.
        ModelError: The model does not load or run.
        DataError: The feeds do not fit the model.

    """
    where = str(model) if isinstance(model, Path) else "the model"
    (named, graph), is_written = _named(model, where), run.provider != "tensorrt"
    with TemporaryDirectory(prefix="onnxq-") as scratch:
        file = Path(scratch, "optimised.onnx")
        session = open_session(
            named,
            run.without_graph,
            profile=Path(scratch, "profile"),
            optimized_model_path=file if is_written else None,
            optimization=optimization,
            external_data_folder=model.parent if isinstance(model, Path) else None,
        )
        events, runs = _events(session, feeds, runs)
        del session, named  # weights, each a copy of its own
        optimised = without_weights(read_proto(file, where).graph) if is_written else graph
    trim()
    nodes = executed_nodes(events, list(walk(optimised)), runs)
    if not is_written:
        return KernelReport(run.provider, runs, nodes)
    models = _stages(source, graph, optimised, optimization)
    return KernelReport(run.provider, runs, nodes, trace(models, nodes, PROVIDERS[run.provider]))


def _stages(
    source: Path | bytes | onnx.ModelProto | None,
    model: onnx.GraphProto,
    optimised: onnx.GraphProto,
    optimization: Optimization,
) -> Models:
    wiring = Wiring.of(model)
    return Models(
        source=wiring if source is None else Wiring.of(_named(source, "the source")[1]),
        model=wiring,
        optimised=Wiring.of(optimised),
        optimizes=optimization in ("extended", "all"),
    )


def _events(session: Session, feeds: Feeds, most: int) -> tuple[list[dict[str, Any]], int]:
    """Run once to warm up, then ``most`` times or for a second; return what was seen, and in how many."""
    session.run(feeds)
    start, runs = time.perf_counter(), 0
    while runs == 0 or (runs < most and time.perf_counter() < start + ENOUGH_SECONDS):
        session.run(feeds)
        runs += 1
    text = Path(session.inference.end_profiling()).read_text(encoding="utf-8")
    return timed_events(json.loads(text)), runs


def _named(
    model: Path | bytes | onnx.ModelProto, source: str
) -> tuple[Path | bytes | onnx.ModelProto, onnx.GraphProto]:
    """Return the model with a name of its own for each node, for the profile to tell it by, and its graph.

    A model whose nodes have them is returned as it is, and the graph without its weights.
    """
    import onnx

    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        proto = read_proto(model, source)
    renamed = _name_nodes(proto.graph)
    return proto if renamed else model, without_weights(proto.graph)


def _name_nodes(graph: onnx.GraphProto) -> bool:
    """Give every node a name of its own; tell whether one had none."""
    taken: set[str] = set()
    renamed = False
    for node in walk(graph):
        base = node.name or next(filter(None, node.output), node.op_type)
        free = (base if number == 0 else f"{base}_{number}" for number in count())
        name = next(name for name in free if name not in taken)
        renamed |= name != node.name
        node.name = name
        taken.add(name)
    return renamed


def _summarise(nodes: Sequence[KernelNode]) -> OpSummary:
    first = nodes[0]
    return OpSummary(
        op_type=first.op_type,
        domain=first.domain,
        provider=first.provider,
        kind=first.kind,
        count=len(nodes),
        microseconds=sum(node.microseconds for node in nodes),
        share=sum(node.share for node in nodes),
    )
