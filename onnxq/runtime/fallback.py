"""No silent fallback: a model that runs on another provider than asked for is refused."""

from __future__ import annotations

from collections.abc import Collection

from onnxq.errors import TargetError
from onnxq.runtime.kernels import KernelReport
from onnxq.runtime.run import PROVIDERS

ALSO = {"tensorrt": PROVIDERS["cuda"]}
"""Where nodes may run, besides on the provider that was asked for, without having fallen back."""


def refuse_fallback(name: str, report: KernelReport, allowed: Collection[str] = ()) -> None:
    """Raise if nodes with real work ran elsewhere than where they were asked to run.

    Args:
        name: What the caller calls the model.
        report: What ran where.
        allowed: Nodes that may run elsewhere: their names, or operators.

    Raises:
        TargetError: It names some of the others.

    """
    away = [
        node
        for node in report.misplaced(PROVIDERS[report.asked])
        if node.provider != ALSO.get(report.asked)
        and node.name not in allowed
        and node.op_type not in allowed
    ]
    if away:
        ops = sorted({node.op_type for node in away})
        copies = f", with {len(report.copies)} copies between them" if report.copies else ""
        raise TargetError(
            f"asked for {report.asked!r}, but {len(away)} of {len(report.nodes)} nodes ran on "
            f"{', '.join(sorted({node.provider for node in away}))}: {', '.join(ops[:5])}{copies}",
            where=f"model {name!r}",
            hint="compile it for this provider, or run it on the one it was compiled for; "
            "--allow-fallback NODE or OPERATOR lets it pass",
        )
