"""What ONNX Runtime's profile tells of each node that ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean
from typing import TYPE_CHECKING, Any

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
    Kind.WEIGHT_ONLY: "GatherBlockQuantized MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4 "
    "MatMulNBits QMoE",
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
        microseconds: Its mean time in one run of the model, its slowest call left out.
        share: Its part of the time of all nodes, 0 to 1.
        outputs: The values it gives, as named in the optimised graph; empty for a nameless
            node, which the profile does not let us find again.
        types: Their types, as in ``float16``; empty where the profile does not tell.

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
    types: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it computes whole numbers or truth values alone: shapes and positions, mostly."""
        return bool(self.types) and not any("float" in name or name == "double" for name in self.types)

    @property
    def copies(self) -> bool:
        """Whether it only moves a value between two devices."""
        return self.op_type in ("MemcpyFromHost", "MemcpyToHost")


def timed_events(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the kernel events of every run but the first, which pays for first touches."""
    first = min((event for event in events if event["name"] == "model_run"), key=lambda event: event["ts"])
    start = first["ts"] + first["dur"]
    return [
        event
        for event in events
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= start
    ]


def executed_nodes(
    events: Iterable[dict[str, Any]], graph: Sequence[onnx.NodeProto], runs: int
) -> tuple[KernelNode, ...]:
    """Return what ran, in order; ``graph`` is the optimised one, ``runs`` what the events cover."""
    domains = {node.op_type: node.domain for node in graph}
    named = {node.name: node for node in graph if node.name}
    times: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    types: dict[str, tuple[str, ...]] = {}
    for event in events:
        args = event["args"]
        name = event["name"].removesuffix("_kernel_time")
        if args["op_name"] not in _CONTAINERS:
            times[name, args["op_name"], args["provider"], args["node_index"]].append(event["dur"])
            types[args["node_index"]] = tuple(
                kind for one in args.get("output_type_shape", ()) for kind in one
            )
    usual = {key: _usual(spent) * len(spent) / runs for key, spent in times.items()}
    total = sum(usual.values()) or 1
    return tuple(
        KernelNode(
            name=name,
            op_type=op_type,
            domain=named[name].domain if name in named else domains.get(op_type, ""),
            provider=provider,
            kind=kind_of(op_type),
            calls=len(spent) / runs,
            microseconds=usual[key],
            share=usual[key] / total,
            outputs=tuple(named[name].output) if name in named else (),
            types=types[index],
        )
        for key, spent in times.items()
        for name, op_type, provider, index in (key,)
    )


def _usual(spent: Sequence[int]) -> float:
    """Return the mean of all calls but the slowest, which the machine may have interrupted."""
    return fmean(sorted(spent)[:-1] or spent)
