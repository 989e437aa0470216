"""Finding the rule of an operator: in the table, or where another distribution offers one.

A distribution that offers rules says so in its pyproject.toml, an operator's domain and name on the left::

    [project.entry-points."onnxq.gradients"]
    "com.example.Swirl" = "my_package.gradients:swirl"

Then ``swirl(step, index)`` is the rule of the operator. Its module is imported when the rule is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

import onnx_ir as ir

from onnxq.autodiff import fake
from onnxq.autodiff.step import Rule
from onnxq.autodiff.table import RULES
from onnxq.errors import PassError
from onnxq.ir.module import is_standard

GROUP = "onnxq.gradients"


def rule_of(node: ir.Node) -> Rule | None:
    """Return the rule of a node's operator; None if there is none.

    Raises:
        PassError: Two distributions offer one, or it cannot be imported.

    """
    if is_standard(node) and node.op_type in RULES:
        return RULES[node.op_type]
    if node.domain == fake.DOMAIN:
        return fake.RULE
    return _offered(f"{node.domain or 'ai.onnx'}.{node.op_type}")


@cache
def _offered(operator: str) -> Rule | None:
    found = sorted(entry_points(group=GROUP, name=operator), key=_owner)
    if not found:
        return None
    if len(found) > 1:
        owners = " and ".join(map(_owner, found))
        raise PassError(f"gradient rule {operator!r} is offered twice, by {owners}", hint="uninstall one")
    try:
        rule: Rule = found[0].load()
    except Exception as error:
        reason = f"it cannot be imported: {type(error).__name__}: {error}"
        raise PassError(reason, where=f"gradient rule {operator!r} of {_owner(found[0])}") from error
    return rule


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name if point.dist else '?'} ({point.value})"
