"""Where the nodes of a graph are drawn: igraph's layered layout."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from onnxq.errors import TargetError

SWEEPS = 20
"""How often igraph goes over the layers to reduce crossings; more takes longer and hardly looks better."""

Point = tuple[float, float]


def layered(count: int, edges: Sequence[tuple[int, int]]) -> list[Point]:
    """Return a place for each of ``count`` nodes: x to the right, y one more for each layer.

    Args:
        count: How many nodes there are.
        edges: From node to node, by number; nodes that read lie below those they read.

    Raises:
        TargetError: igraph is not installed.

    Source:
        Sugiyama, Tagawa and Toda, 1981; computed by igraph.

    """
    if not count:
        return []
    igraph = extra("igraph")
    graph = igraph.Graph(count, sorted(set(edges)), directed=True)
    return _apart([(float(x), float(y)) for x, y in graph.layout_sugiyama(maxiter=SWEEPS).coords[:count]])


def _apart(places: Sequence[Point]) -> list[Point]:
    """Move nodes of a layer to the right until each is 1 away from the next; igraph leaves less at times."""
    found, last = list(places), dict[float, float]()
    for number in sorted(range(len(places)), key=lambda one: places[one][::-1]):
        x, y = places[number]
        x = last[y] = max(x, last.get(y, x - 1) + 1)
        found[number] = (round(x, 3), round(y, 3))
    return found


def extra(name: str) -> Any:
    """Return a library of the ``report`` extra.

    Raises:
        TargetError: It is not installed.

    """
    try:
        return import_module(name)
    except ImportError as error:
        raise TargetError(
            f"a page needs {name}, which is not installed",
            hint='pip install "onnxq[report]"; without it, text and --json still work',
        ) from error
