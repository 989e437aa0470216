"""NVIDIA GPUs: which there are, and which of the libraries that ONNX Runtime's CUDA provider loads are found.

The driver is asked through its own tool, ``nvidia-smi``, and the dynamic loader for the libraries; neither
needs a package.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TOOL = "nvidia-smi"
ON_PATH = "on the loader's path"
_FIELDS = ("name", "driver_version", "compute_cap", "memory.total")
LIBRARIES = {
    "libcuda.so.1": "the driver of the GPU",
    "libcudart.so.13": 'pip install "onnxq[cuda]"',
    "libcublas.so.13": 'pip install "onnxq[cuda]"',
    "libcublasLt.so.13": 'pip install "onnxq[cuda]"',
    "libcurand.so.10": 'pip install "onnxq[cuda]"',
    "libcufft.so.12": 'pip install "onnxq[cuda]"',
    "libcudnn.so.9": 'pip install "onnxq[cuda]"',
}
"""What onnxruntime-gpu 1.31.1 loads, built for CUDA 13, and what brings it."""
TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
"""What its TensorRT provider loads besides; no extra of onnxq brings it."""
TENSORRT_REMEDY = 'pip install "tensorrt-cu13>=10,<11"'


@dataclass(frozen=True)
class Device:
    """One GPU, as its driver describes it: name, driver's version, compute capability, and MiB of memory.

    One that shares the memory of the processor has none of its own: None.
    """

    name: str
    driver: str
    compute_capability: str
    memory_mib: int | None


@dataclass(frozen=True)
class Gpu:
    """What there is to run on GPUs.

    Args:
        devices: The GPUs; empty where there is none, or no driver.
        libraries: By name, where each library was found; None if it was not.
        tensorrt: Whether TensorRT's libraries were found.

    """

    devices: tuple[Device, ...]
    libraries: dict[str, str | None]
    tensorrt: bool

    @property
    def missing(self) -> dict[str, str]:
        """The libraries that were not found, with what brings them."""
        return {name: LIBRARIES[name] for name, place in self.libraries.items() if place is None}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "missing": self.missing}


def gpu() -> Gpu:
    """Look for GPUs and for libraries."""
    return Gpu(tuple(_devices()), {name: _place(name) for name in LIBRARIES}, has_tensorrt())


def has_tensorrt() -> bool:
    """Tell whether TensorRT's libraries are found."""
    return all(_place(name) is not None for name in TENSORRT)


def load_tensorrt() -> None:
    """Load TensorRT's libraries from where its package put them, if they are there."""
    for name in TENSORRT:
        place = _place(name)
        if place is not None and place != ON_PATH:
            with suppress(OSError):  # the session will tell
                ctypes.CDLL(place, ctypes.RTLD_GLOBAL)


def has_device() -> bool:
    """Tell whether there is a GPU with a driver."""
    return bool(_ask("name"))


def memory_in_use() -> int | None:
    """Return the bytes in use on the first GPU, by whatever process; None where no driver tells."""
    rows = _ask("memory.used")
    mib = _number(rows[0][0]) if rows else None
    return None if mib is None else mib * 2**20


def _devices() -> Iterator[Device]:
    for name, driver, capability, memory in _ask(*_FIELDS):
        yield Device(name, driver, capability, _number(memory))


def _number(text: str) -> int | None:
    """Read an answer; the driver says ``[N/A]`` and the like where it has none."""
    return int(text) if text.isdecimal() else None


def _ask(*fields: str) -> list[list[str]]:
    """Return one row of answers for each GPU."""
    if shutil.which(TOOL) is None:
        return []
    command = [TOOL, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _place(library: str) -> str | None:
    """Return where a library is: with the loader, or where NVIDIA's packages for Python put it."""
    try:
        ctypes.CDLL(library)
    except OSError:
        packages = Path(sysconfig.get_path("purelib"))
        places = (f"nvidia/*/lib/{library}", f"tensorrt*_libs/{library}")
        return next((str(file) for place in places for file in sorted(packages.glob(place))), None)
    return ON_PATH
