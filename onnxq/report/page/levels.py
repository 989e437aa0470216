"""A graph at several levels of detail: whole, and with the nodes of a layer drawn as one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from onnxq.diff.drawn import DrawnNode
from onnxq.report.page.layout import layered

ELSEWHERE = "outside of layers"
DEEPEST = 4
"""Levels above the whole graph; deeper scopes are seen in the whole graph only."""


@dataclass(frozen=True)
class Level:
    """Places of all that is drawn at one level.

    Args:
        x: To the right.
        y: Down.
        names: Of the groups that stand for several nodes; None where each node is drawn.
        member: The group of each node, by number; None likewise.

    """

    x: list[float]
    y: list[float]
    names: list[str] | None = None
    member: list[int] | None = None


def levels_of(nodes: Sequence[DrawnNode], edges: Sequence[tuple[int, int]]) -> list[Level]:
    """Return the levels, the coarsest first; the last one is the whole graph.

    Args:
        nodes: What is drawn.
        edges: From node to node, by number.

    """
    scopes = _without_common_root([scope_parts(node.scope) for node in nodes])
    found, groups = list[Level](), 2
    for depth in range(1, DEEPEST + 1):
        level = _level(scopes, edges, depth)
        if groups < len(level.x) < (len(nodes) * 3) // 4:
            found.append(level)
            groups = len(level.x)
    return [*found, _whole(nodes, edges)]


def _whole(nodes: Sequence[DrawnNode], edges: Sequence[tuple[int, int]]) -> Level:
    slots = {slot: number for number, slot in enumerate(dict.fromkeys(node.slot for node in nodes))}
    at = [slots[node.slot] for node in nodes]
    places = layered(len(slots), [(at[a], at[b]) for a, b in edges if at[a] != at[b]])
    return Level([places[slot][0] for slot in at], [places[slot][1] for slot in at])


def scope_parts(scope: str) -> tuple[str, ...]:
    """Return the parts of a scope; a number stays with the word before it: ``layer.0``."""
    return tuple(part for part in re.split(r"/|\.(?!\d+(?:[./]|$))", scope) if part)


def _without_common_root(scopes: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Leave out first parts that almost all scopes share, as ``model`` often is."""
    while scopes:
        filled = [scope for scope in scopes if scope]
        first = Counter(scope[0] for scope in filled).most_common(1)
        if not first or first[0][1] < 0.97 * len(filled) or max(map(len, filled)) < 2:
            break
        scopes = [scope[1:] if scope and scope[0] == first[0][0] else scope for scope in scopes]
    return scopes


def _level(scopes: Sequence[tuple[str, ...]], edges: Sequence[tuple[int, int]], depth: int) -> Level:
    keys = ["/".join(scope[:depth]) or ELSEWHERE for scope in scopes]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    member = [numbers[key] for key in keys]
    between = sorted({(member[a], member[b]) for a, b in edges if member[a] != member[b]})
    places = layered(len(numbers), between)
    return Level([x for x, _ in places], [y for _, y in places], list(numbers), member)
