"""What the installed ONNX Runtime and this processor can run in integers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxq.errors import ModelError
from onnxq.kernels import Kernel, KernelList, load_kernels
from onnxq.processor import cpu_flags, here, processor_of
from onnxq.runtime.batch import Array
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.profile import Kind, kind_of
from onnxq.runtime.run import PROVIDERS, Run
from onnxq.runtime.session import open_session

if TYPE_CHECKING:
    import onnx

_INTEGER_KINDS = frozenset({Kind.INTEGER, Kind.WEIGHT_ONLY, Kind.QUANTIZE, Kind.DEQUANTIZE})
_LIST = """
import json
from onnxruntime.capi import onnxruntime_pybind11_state as state
print(json.dumps([
    [k.op_name, k.domain, k.provider, k.version_range, {n: list(t) for n, t in k.type_constraints.items()}]
    for k in state.get_all_opkernel_def()
]))
"""
_ROWS, _COLUMNS = 8, 32
_BITS = (2, 3, 4, 5, 6, 7, 8)


@dataclass(frozen=True)
class RegisteredKernel:
    """One kernel that the build holds.

    Args:
        op_type: Its operator; ``domain`` is empty for the standard ones.
        domain: The operator's domain.
        provider: The execution provider, by ONNX Runtime's name.
        since: The first version of the operator that it runs.
        until: The last one; None if it runs all that follow.
        types: The types it takes for each type parameter of the operator.

    """

    op_type: str
    domain: str
    provider: str
    since: int
    until: int | None
    types: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Available:
    """What can be run here.

    Args:
        opset: The highest opset of the standard operators that a session accepts.
        ir_version: The highest IR version.
        kernels: The quantized operators' kernels, and those of the standard ``Attention``.
        source: Where they were read.
        bits: The weight widths that each block-wise operator ran with.
        cpu_flags: The processor's features that matter.
        processor: The kind of processor that is compiled for; see ``onnxq.processor``.
        products: What it does with integer products.

    """

    opset: int
    ir_version: int
    kernels: tuple[RegisteredKernel, ...]
    source: str
    bits: Mapping[str, tuple[int, ...]]
    cpu_flags: tuple[str, ...]
    processor: str
    products: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def available() -> Available:
    """Ask the installed build for its kernels, and try what it does not tell.

    Raises:
        TargetError: ONNX Runtime is not installed.

    """
    import_onnxruntime()
    processor, lists = here(), _kernel_lists()
    return Available(
        opset=_highest(lambda number: _identity(opset=number)),
        ir_version=_highest(lambda number: _identity(ir_version=number)),
        kernels=tuple(chain.from_iterable(map(_registered, lists))),
        source=lists[0].source,
        bits={"MatMulNBits": _working(_product), "GatherBlockQuantized": _working(_table)},
        cpu_flags=cpu_flags(),
        processor=processor.name,
        products=processor.summary,
    )


def saturates(flags: Sequence[str]) -> bool:
    """Tell whether sums of uint8 x int8 products can saturate on a processor with these features."""
    return processor_of(tuple(flags)).saturates


def cpu_kernels() -> KernelList:
    """Return the kernels of the CPU provider of the installed build.

    Raises:
        TargetError: ONNX Runtime is not installed.

    """
    return next(one for one in _kernel_lists() if one.provider == PROVIDERS["cpu"])


@cache
def _kernel_lists() -> tuple[KernelList, ...]:
    """Return the kernels of each provider, the CPU's among them: as the build lists them, or as we do.

    Raises:
        TargetError: ONNX Runtime is not installed.

    """
    source = f"onnxruntime {import_onnxruntime().__version__}, as it lists them itself"
    found: dict[str, dict[tuple[str, str], list[Kernel]]] = {}
    for op_type, domain, provider, (since, until), types in _definitions():
        taken = {name: frozenset(_short(allowed)) for name, allowed in types.items()}
        kernels = found.setdefault(provider, {}).setdefault((domain, op_type), [])
        kernels.append(Kernel(since, _finite(until), taken))
    if not found:
        return load_kernels("cuda"), load_kernels("cpu")
    return tuple(
        KernelList(provider, source, {key: tuple(several) for key, several in kernels.items()})
        for provider, kernels in found.items()
    )


def _registered(listed: KernelList) -> Iterator[RegisteredKernel]:
    for (domain, op_type), kernels in listed.kernels.items():
        attention = op_type == "Attention" and not domain
        if attention or kind_of(op_type) in _INTEGER_KINDS:
            for kernel in kernels:
                types = {name: tuple(sorted(allowed)) for name, allowed in kernel.types.items()}
                yield RegisteredKernel(op_type, domain, listed.provider, kernel.since, kernel.until, types)


def _definitions() -> list[Any]:
    """Return all registered kernels; none where listing them ends the process that asks.

    onnxruntime-gpu 1.31.1 crashes on it where TensorRT's libraries are missing.
    """
    command = [sys.executable, "-P", "-c", _LIST]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return [] if done.returncode else list(json.loads(done.stdout))


def _finite(until: int) -> int | None:
    return None if until >= np.iinfo(np.int32).max else until


def _short(types: Sequence[str]) -> tuple[str, ...]:
    return tuple(re.sub(r"^tensor\((\w+)\)$", r"\1", name) for name in types)


def _highest(model_of: Callable[[int], onnx.ModelProto]) -> int:
    """Return the highest number whose model loads, from one that every supported build takes."""
    number = 8
    while _loads(model_of(number + 1)):
        number += 1
    return number


def _identity(opset: int = 13, ir_version: int = 8) -> onnx.ModelProto:
    return _model("main (float[1] x) => (float[1] y) { y = Identity(x) }", opset, ir_version, {})


def _loads(model: onnx.ModelProto) -> bool:
    try:
        open_session(model, Run(threads=1))
    except ModelError:
        return False
    return True


def _working(model_of: Callable[[int], tuple[onnx.ModelProto, dict[str, Array]]]) -> tuple[int, ...]:
    """Return the widths with which the model loads and runs."""
    return tuple(bits for bits in _BITS if _runs(*model_of(bits)))


def _runs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> bool:
    try:
        open_session(model, Run(threads=1)).run(feeds)
    except ModelError:
        return False
    return True


def _product(bits: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a product with weights of so many bits, in one block for each column."""
    body = (
        f"main (float[1,{_COLUMNS}] x) => (float[1,{_ROWS}] y) {{ y = com.microsoft.MatMulNBits "
        f"<K = {_COLUMNS}, N = {_ROWS}, bits = {bits}, block_size = {_COLUMNS}> (x, w, scale) }}"
    )
    width = _COLUMNS * bits // 8
    weights: dict[str, Array] = {
        "w": np.zeros((_ROWS, 1, width), np.uint8),
        "scale": np.ones(_ROWS, np.float32),
    }
    return _model(body, 21, 10, weights), {"x": np.ones((1, _COLUMNS), np.float32)}


def _table(bits: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a look-up in a table of so many bits, in one block for each row."""
    body = (
        f"main (int64[1] i) => (float[1,{_COLUMNS}] y) {{ y = com.microsoft.GatherBlockQuantized "
        f"<bits = {bits}, block_size = {_COLUMNS}, gather_axis = 0, quantize_axis = 1> (w, i, scale) }}"
    )
    width = _COLUMNS * bits // 8
    weights: dict[str, Array] = {
        "w": np.zeros((_ROWS, width), np.uint8),
        "scale": np.ones((_ROWS, 1), np.float32),
    }
    return _model(body, 21, 10, weights), {"i": np.zeros(1, np.int64)}


def _model(body: str, opset: int, ir_version: int, weights: Mapping[str, Array]) -> onnx.ModelProto:
    from onnx import numpy_helper, parser

    model: onnx.ModelProto = parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n{body}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model
