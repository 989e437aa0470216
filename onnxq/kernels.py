"""Which kernels an execution provider has, as registered in a published build of ONNX Runtime.

For providers that are not at hand: the list of the CUDA provider was read from its wheel, without a GPU, by
``tools/list_cuda_kernels.py``. A kernel in the list runs the node; whether fast is another question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain

import onnx_ir as ir

from onnxq.ir.module import GraphModule
from onnxq.ir.schema import Signature, signature_of

DtypeOf = Callable[[ir.Value], ir.DataType | None]


@dataclass(frozen=True)
class Kernel:
    """One kernel, or several that differ in types alone.

    Args:
        since: The first version of the operator that it runs.
        until: The last one; None if ``since`` was the newest when the kernel was written.
        types: What it takes for each type parameter, or for an input by its name.

    """

    since: int
    until: int | None
    types: Mapping[str, frozenset[str]]

    def runs_version(self, since: int) -> bool:
        """Tell whether it runs the operator as of version ``since``, by ONNX Runtime's rule.

        An open end does not reach a version that came later: the kernel may not know what changed.
        """
        return self.since == since or (self.until is not None and self.since < since <= self.until)

    def takes(self, types: Mapping[str, str]) -> bool:
        """Tell whether it takes these types; what is not known is not held against it."""
        return all(types.get(name) in (None, *allowed) for name, allowed in self.types.items())


@dataclass(frozen=True)
class KernelList:
    """The kernels of one provider.

    Args:
        provider: By ONNX Runtime's name.
        source: The build that was read, and how.
        kernels: By domain and operator.

    """

    provider: str
    source: str
    kernels: Mapping[tuple[str, str], tuple[Kernel, ...]]

    def lacks(self, node: ir.Node, opset: int, dtype_of: DtypeOf = lambda value: value.dtype) -> str | None:
        """Return why no kernel runs ``node``; None if one does.

        Args:
            node: A node of any domain.
            opset: The version of the standard operators.
            dtype_of: The type of each value, where it is not to be the value's own.

        """
        kernels = self.kernels.get((node.domain, node.op_type), ())
        signature = signature_of(node, opset)
        if not kernels:
            return "no kernel for this operator"
        if signature is None:
            return None
        fitting = [kernel for kernel in kernels if kernel.runs_version(signature.since)]
        if not fitting:
            return f"no kernel for version {signature.since} of this operator"
        types = _types(node, signature, dtype_of)
        if any(kernel.takes(types) for kernel in fitting):
            return None
        return f"no kernel for {', '.join(sorted(set(types.values())))}"

    def operators_by_type(self, names: Sequence[str]) -> dict[str, int]:
        """Return for each type how many operators have a kernel that takes it."""
        taken = [
            frozenset(chain.from_iterable(allowed for kernel in several for allowed in kernel.types.values()))
            for several in self.kernels.values()
        ]
        return {name: sum(name in types for types in taken) for name in names}

    def missing(self, module: GraphModule) -> Iterator[tuple[ir.Node, str]]:
        """Yield each node of the main graph that no kernel runs, with the reason."""
        for node in module.graph:
            reason = self.lacks(node, module.opset)
            if reason is not None:
                yield node, reason


@cache
def load_kernels(name: str) -> KernelList:
    """Return the list that ships as ``NAME_kernels.json``."""
    text = files("onnxq.assets").joinpath(f"{name}_kernels.json").read_text(encoding="utf-8")
    data = json.loads(text)
    kernels: dict[tuple[str, str], list[Kernel]] = {}
    for domain, op_type, since, until, types in data["kernels"]:
        allowed = {parameter: frozenset(names.split()) for parameter, names in types.items()}
        kernels.setdefault((domain, op_type), []).append(Kernel(since, until, allowed))
    frozen = {key: tuple(several) for key, several in kernels.items()}
    return KernelList(data["provider"], data["source"], frozen)


def _types(node: ir.Node, signature: Signature, dtype_of: DtypeOf) -> dict[str, str]:
    """Return the types of the node's values, by type parameter and by formal name."""
    types: dict[str, str] = {}
    for values, formals in ((node.outputs, signature.outputs), (node.inputs, signature.inputs)):
        for value, formal in zip(values, formals, strict=False):
            dtype = None if value is None else dtype_of(value)
            if dtype is not None:
                types[formal.parameter] = types[formal.name] = dtype.name.lower()
    return types
