"""Which kernels really ran: the optimised graph and the profile of a few runs, read together."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from onnxq.runtime.batch import Feeds
from onnxq.runtime.session import Provider, open_session, read_proto

if TYPE_CHECKING:
    import onnx


class Kind(StrEnum):
    """What a kernel computes in."""

    INTEGER = "integer"
    """Integer products: the reason to quantize."""
    WEIGHT_ONLY = "weight-only"
    """Integer weights and float inputs."""
    FLOAT = "float"
    """A matrix product or convolution that stayed in float."""
    QUANTIZE = "quantize"
    """QuantizeLinear, or DynamicQuantizeLinear: fast, but not free."""
    DEQUANTIZE = "dequantize"
    """A DequantizeLinear that nothing absorbed."""
    OTHER = "other"
    """All else."""


_KINDS: dict[Kind, str] = {
    Kind.INTEGER: "ConvInteger DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulInteger MatMulInteger16 "
    "MatMulIntegerToFloat QAttention QEmbedLayerNormalization QGemm",
    Kind.WEIGHT_ONLY: "GatherBlockQuantized MatMulBnb4 MatMulFpQ4 MatMulNBits QMoE",
    Kind.FLOAT: "Attention Conv ConvTranspose FusedConv FusedGemm FusedMatMul FusedMatMulActivation GRU Gemm "
    "GroupQueryAttention LSTM MatMul MoE MultiHeadAttention NhwcFusedConv RNN",
    Kind.QUANTIZE: "DynamicQuantizeLinear QuantizeLinear",
    Kind.DEQUANTIZE: "DequantizeLinear",
}
_KIND_OF = {op: kind for kind, ops in _KINDS.items() for op in ops.split()}
_CONTAINERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})  # their time is that of the nodes inside


def kind_of(op_type: str) -> Kind:
    """Return what a kernel of this operator computes in; every ``QLinear*`` is integer."""
    return Kind.INTEGER if op_type.startswith("QLinear") else _KIND_OF.get(op_type, Kind.OTHER)


@dataclass(frozen=True)
class KernelNode:
    """One node of the optimised graph that ran.

    Args:
        name: Its name, or, if it has none, its operator and ONNX Runtime's number for it.
        op_type: The operator; ``domain`` is empty for the standard ones.
        domain: The operator's domain.
        provider: The execution provider that ran it, by ONNX Runtime's name.
        kind: What it computes in.
        calls: How often it ran in one run of the model: more than 1 only in a loop.
        microseconds: Its mean time in one run of the model.
        share: Its part of the time of all nodes, 0 to 1.
        outputs: The values it gives, as named in the optimised graph; empty for a nameless
            node, which the profile does not let us find again.

    """

    name: str
    op_type: str
    domain: str
    provider: str
    kind: Kind
    calls: float
    microseconds: float
    share: float
    outputs: tuple[str, ...] = ()


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
class KernelReport:
    """What ran, in the order in which it ran first.

    Args:
        asked: The provider that was asked for.
        runs: The runs that the times are means of; the first run is not among them.
        nodes: Every node that ran. If, Loop and Scan are not listed; what they ran is.

    """

    asked: Provider
    runs: int
    nodes: tuple[KernelNode, ...]

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

    def misplaced(self, provider: str) -> tuple[KernelNode, ...]:
        """Return the nodes with real work that ran elsewhere than on ``provider``.

        ONNX Runtime puts arithmetic on shapes on the CPU on purpose, so nodes of kind
        ``other`` count only if together they take more than a tenth of the time.
        """
        away = [node for node in self.nodes if node.provider != provider]
        if sum(node.share for node in away) > 0.1:
            return tuple(away)
        return tuple(node for node in away if node.kind is not Kind.OTHER)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the derived tables too."""
        return {
            "asked": self.asked,
            "runs": self.runs,
            "providers": self.providers,
            "kinds": {kind.value: count for kind, count in self.kinds.items()},
            "summary": [asdict(row) for row in self.summary],
            "nodes": [asdict(node) for node in self.nodes],
        }


def kernel_report(
    model: Path | bytes | onnx.ModelProto,
    feeds: Feeds,
    provider: Provider = "cpu",
    threads: int | None = None,
    *,
    runs: int = 5,
) -> KernelReport:
    """Run ``model`` on ``feeds`` under ONNX Runtime's profiler and tell which kernels ran.

    The profiler costs time itself and counts whole microseconds: take shares from it, and
    latencies from ``bench``. On ``cuda`` a time is that of launching the kernel. The profile
    and the optimised graph go to a temporary folder.

    Raises:
        TargetError: The provider is missing.
        ModelError: The model does not load or run.
        DataError: The feeds do not fit the model.

    """
    with TemporaryDirectory(prefix="onnxq-") as name:
        folder = Path(name)
        session = open_session(
            model,
            provider,
            threads,
            profile=folder / "profile",
            optimized_model_path=folder / "optimised.onnx",
        )
        for _ in range(runs + 1):
            session.run(feeds)
        events = json.loads(Path(session.inference.end_profiling()).read_text(encoding="utf-8"))
        graph = read_proto(folder / "optimised.onnx", session.source).graph
        return KernelReport(provider, runs, _executed(_timed(events), list(_walk(graph)), runs))


def _timed(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the kernel events of every run but the first, which pays for first touches."""
    first = min((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"])
    start = first["ts"] + first["dur"]
    return [
        event
        for event in events
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= start
    ]


def _executed(
    events: Iterable[dict[str, Any]], graph: Sequence[onnx.NodeProto], runs: int
) -> tuple[KernelNode, ...]:
    domains = {node.op_type: node.domain for node in graph}
    outputs = {node.name: tuple(node.output) for node in graph if node.name}
    times: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for event in events:
        args = event["args"]
        name = event["name"].removesuffix("_kernel_time")
        if args["op_name"] not in _CONTAINERS:
            times[name, args["op_name"], args["provider"], args["node_index"]].append(event["dur"])
    total = sum(map(sum, times.values())) or 1
    return tuple(
        KernelNode(
            name=name,
            op_type=op_type,
            domain=domains.get(op_type, ""),
            provider=provider,
            kind=kind_of(op_type),
            calls=len(spent) / runs,
            microseconds=sum(spent) / runs,
            share=sum(spent) / total,
            outputs=outputs.get(name, ()),
        )
        for (name, op_type, provider, _), spent in times.items()
    )


def _walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _walk(inner)


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
