"""The parts of a picture of one model or two, as pages read them."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxq.diff.result import TensorError

BOTH, BEFORE, AFTER = 0, 1, 2


@dataclass(frozen=True)
class NodeFacts:
    """What one model says of a node; a value is its name, its type and ``constant`` if it is one."""

    name: str
    domain: str
    inputs: list[tuple[str, str, str]]
    outputs: list[tuple[str, str, str]]
    attributes: dict[str, str]


@dataclass
class DrawnNode:
    """One node, or one of each model that are drawn as one.

    Args:
        name: Its name in the model where it stands first.
        op: Its operator.
        slot: Where it is drawn: nodes of the same slot stand at the same place.
        side: ``BOTH``, ``BEFORE`` or ``AFTER``.
        change: The change that it belongs to; None for one model.
        dtype: See ``_dtype``.
        facts: What both models say of it.
        bytes: Of the constants that it reads, in both models.
        scope: The part of the model that it belongs to, such as ``encoder/layer.0/attention``.
        kind: The kind of its change.
        us: Microseconds in both models, if they were measured.
        error: Signal to noise of its change's value in dB, if it was measured.
        last: Whether it gives its change's value, and so stands for the change's time and error.

    """

    name: str
    op: str
    slot: int
    side: int
    change: int | None
    dtype: str
    facts: list[NodeFacts | None]
    bytes: list[int]
    scope: str = ""
    kind: str = "same"
    us: tuple[float | None, float | None] = (None, None)
    error: float | None = None
    last: bool = True


@dataclass(frozen=True)
class DrawnChange:
    """What became of some nodes, and how far the value that they compute lies from what it was."""

    kind: str
    pattern: str
    how: str
    values: tuple[str | None, str | None]
    error: TensorError | None


@dataclass(frozen=True)
class StoredWeight:
    """How a weight lies in the file; scale and zero point as in ``Grid``."""

    dtype: str
    shape: list[int]
    bytes: int
    granularity: str | None = None
    scale: tuple[float, float] | None = None
    zero_point: tuple[int, int] | None = None


@dataclass(frozen=True)
class DrawnWeight:
    """A weight of one model, or of both.

    Args:
        nodes: The numbers of the nodes that read it.
        names: Its names.
        grids: How it is stored.
        edges: Of a histogram's bars.
        heights: How many values each counts; None where real values are not known.
        cosine: Of the weights of both models; None for one model.

    """

    nodes: list[int]
    names: list[str]
    grids: list[StoredWeight]
    edges: list[float]
    heights: list[list[int] | None]
    cosine: float | None = None


@dataclass(frozen=True)
class Picture:
    """One model or both as one graph.

    Args:
        models: Their names.
        nodes: Each has its place in this list as number.
        edges: Who is read by whom: two numbers, and of which model that is so.
        changes: By the numbers that nodes have.
        weights: Those of layers.

    """

    models: tuple[str, ...]
    nodes: list[DrawnNode]
    edges: list[tuple[int, int, int]]
    weights: list[DrawnWeight]
    changes: list[DrawnChange] = field(default_factory=list)
