"""Where a number was measured: versions of the runtime and flags of the processor."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from onnxq.errors import TargetError

_X86 = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16")
_X86_512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
CPU_FLAGS = frozenset(_X86 + _X86_512 + _ARM)
"""The processor features that decide which integer and float kernels ONNX Runtime takes."""


def import_onnxruntime() -> Any:
    """Return the module ``onnxruntime``.

    Raises:
        TargetError: It is not installed; the hint names the extras.

    """
    try:
        import onnxruntime
    except ImportError as error:
        raise TargetError(
            f"ONNX Runtime is not installed ({error})",
            hint='pip install "onnxq[cpu]", or "onnxq[cuda]" for an NVIDIA GPU',
        ) from error
    return onnxruntime


def runtime_versions() -> dict[str, str]:
    """Return ONNX Runtime's version, its build, its providers, and the platform.

    Raises:
        TargetError: ONNX Runtime is not installed.

    """
    ort = import_onnxruntime()
    return {
        "onnxruntime": str(ort.__version__),
        "build": str(ort.get_build_info()).removeprefix("ORT Build Info: "),
        "providers": ", ".join(ort.get_available_providers()),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the processor calls itself."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Return the processor's features that matter here, sorted, by the kernel's names.

    Where there is no ``cpuinfo`` (it is Linux's), the groups that NumPy found are given
    instead, under NumPy's names in lower case.
    """
    if not cpuinfo.is_file():
        return _numpy_flags()
    words: set[str] = set()
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words.update(value.split())
    return tuple(sorted(words & CPU_FLAGS))


def _numpy_flags() -> tuple[str, ...]:
    import numpy as np

    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return tuple(sorted(name.lower() for name in simd.get("baseline", []) + simd.get("found", [])))
