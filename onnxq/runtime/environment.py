"""Where a number was measured: versions of the runtime and name of the processor."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from onnxq.errors import TargetError
from onnxq.processor import cpu_flags

__all__ = ["cpu_flags", "cpu_name", "import_onnxruntime", "runtime_versions"]


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
