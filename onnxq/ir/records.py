"""What is recorded of a pass: its changes, and what it left alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """One change: what was done, to what, and why."""

    action: str
    subject: str
    why: str


@dataclass(frozen=True)
class Remark:
    """A node that a pass left alone, and the reason."""

    node: str
    op_type: str
    reason: str
