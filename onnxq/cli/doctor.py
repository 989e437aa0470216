"""onnxq doctor: what is installed, what is missing, and what to install for it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

from onnxq.cli.console import show, show_json
from onnxq.cli.options import Json
from onnxq.errors import TargetError

if TYPE_CHECKING:
    from onnxq.runtime.available import Available

CORE = ("onnxq", "onnx", "onnx-ir", "onnxscript", "numpy", "ml-dtypes")
TYPES = ("float", "float16", "bfloat16", "int8", "uint8")
FOR_DEVELOPERS = frozenset({"test", "dev"})


def run(*, as_json: Json = False) -> None:
    """Show what is installed, what is missing, and what runs here.

    The exit code is 2 if there is no ONNX Runtime.
    """
    from onnxq.processor import at_hand, cpu_flags, here
    from onnxq.runtime.environment import import_onnxruntime

    runtime = _runtime()
    found = None if runtime is None else _available()
    report: dict[str, Any] = {
        "versions": {name: _version(name) for name in CORE},
        "runtime": runtime,
        "cpu_flags": list(cpu_flags()),
        "processor": {"at_hand": at_hand().name, "compiled_for": here().name},
        "denormal_cost": None if runtime is None else _denormal_cost(),
        "gpu": _gpu(),
        "available": None if found is None else found.to_dict(),
        "extras": {name: [one for one in needs if _version(one) is None] for name, needs in extras().items()},
    }
    if as_json:
        show_json("doctor", report)
    else:
        _present(report, found)
    import_onnxruntime()


def extras() -> dict[str, list[str]]:
    """Return the distributions that each extra of onnxq asks for, as its metadata says."""
    found = defaultdict(list)
    for requirement in requires("onnxq") or ():
        match = re.match(r"([\w.-]+).*extra == [\"']([\w-]+)", requirement)
        if match and match[2] not in FOR_DEVELOPERS:
            found[match[2]].append(match[1])
    return dict(found)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _runtime() -> dict[str, str] | None:
    from onnxq.runtime.environment import runtime_versions

    try:
        return runtime_versions()
    except TargetError:
        return None


def _available() -> Available:
    from onnxq.runtime.available import available

    return available()


def _denormal_cost() -> float:
    from onnxq.runtime.denormals import denormal_cost

    return round(denormal_cost(), 2)


def _gpu() -> dict[str, Any]:
    from onnxq.kernels import load_kernels
    from onnxq.runtime.gpu import gpu

    listed = load_kernels("cuda")
    return {**gpu().to_dict(), "kernels": listed.operators_by_type(TYPES), "kernels_source": listed.source}


def _present(report: dict[str, Any], found: Available | None) -> None:
    from onnxq.report.tables import Table
    from onnxq.report.tables_of_model import available_tables
    from onnxq.report.text import draw

    versions = {**report["versions"], **(report["runtime"] or {"onnxruntime": None})}
    rows = [(name, found or "not installed") for name, found in versions.items() if name != "build"]
    rows.append(("CPU features", ", ".join(report["cpu_flags"]) or "unknown"))
    rows.append(("processor", _processor_text(report["processor"])))
    rows.append(("masked scores", _denormals_text(report["denormal_cost"])))
    show(draw(Table("Installed", ("what", "version"), tuple(rows), text_columns=2)))
    show(*_gpu_lines(report["gpu"]))
    if found:
        show(*map(draw, available_tables(found)))
    missing = tuple(
        (name, "complete" if not lacking else f'pip install "onnxq[{name}]"', ", ".join(lacking))
        for name, lacking in report["extras"].items()
    )
    show(draw(Table("Extras", ("extra", "state", "missing"), missing, text_columns=3)))


def _processor_text(found: dict[str, str]) -> str:
    own, wanted = found["at_hand"], found["compiled_for"]
    return own if own == wanted else f"{own}; ONNXQ_PROCESSOR says to compile for {wanted}"


def _denormals_text(cost: float | None) -> str:
    """Say what exponentials that end as denormal numbers cost here."""
    from onnxq.runtime.denormals import PAYS

    if cost is None:
        return "unknown"
    return f"{cost:.1f}x the time of others (denormals)" if cost >= PAYS else "as fast as others"


def _gpu_lines(found: dict[str, Any]) -> Iterator[str]:
    """Say whether TensorRT is here, what GPUs there are, and what they lack."""
    from onnxq.runtime.gpu import TENSORRT_REMEDY

    remedy = "" if found["tensorrt"] else f": {TENSORRT_REMEDY} brings them"
    yield f"TensorRT's libraries: {'found' if found['tensorrt'] else 'missing'}{remedy}"
    if not found["devices"]:
        yield "No NVIDIA GPU: there is none, or no driver for it."
        return
    for one in found["devices"]:
        memory = "no memory of its own" if one["memory_mib"] is None else f"{one['memory_mib']} MiB"
        facts = f"driver {one['driver']}, compute capability {one['compute_capability']}, {memory}"
        yield f"GPU: {one['name']}, {facts}"
    for name, remedy in found["missing"].items():
        yield f"missing: {name}; {remedy} brings it"
    if not found["missing"]:
        yield "CUDA and cuDNN libraries: all found"
    counts = ", ".join(f"{name} {count}" for name, count in found["kernels"].items())
    yield f"operators with a CUDA kernel, by type: {counts} ({found['kernels_source'].partition(',')[0]})"
