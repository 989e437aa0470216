"""What passes did, in short: each kind of edit counted, and what was left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from onnxq.ir.records import Edit
from onnxq.passmanager.base import PassRecord


class Skipped(BaseModel):
    """A node that a pass left alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: str
    op_type: str
    reason: str


class Edits(BaseModel):
    """How often a pass made one kind of change, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: str
    why: str
    count: int


class PassSummary(BaseModel):
    """What one pass did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    seconds: float
    edits: tuple[Edits, ...]
    skipped: tuple[Skipped, ...]

    @property
    def name(self) -> str:
        """The pass's name, without its options."""
        return self.text.partition("{")[0]


def summarise(records: Sequence[PassRecord]) -> tuple[PassSummary, ...]:
    """Count each pass's edits by kind and reason, and keep what it skipped."""
    return tuple(
        PassSummary(
            text=record.text,
            seconds=round(record.seconds, 4),
            edits=_counted(record.edits),
            skipped=tuple(
                Skipped(node=remark.node, op_type=remark.op_type, reason=remark.reason)
                for remark in record.remarks
            ),
        )
        for record in records
    )


def _counted(edits: Sequence[Edit]) -> tuple[Edits, ...]:
    """Count the edits of the same kind and reason, in the order of their first."""
    counts = Counter((edit.action, edit.why) for edit in edits)
    return tuple(Edits(action=action, why=why, count=count) for (action, why), count in counts.items())
