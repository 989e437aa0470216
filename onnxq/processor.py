"""Processors: what their instructions mean for products of 8-bit integers.

ONNX Runtime multiplies uint8 activations by int8 weights. Without instructions that add four such products
in 32 bits, its kernels add two of them in 16 bits with saturation, and 255 * 127 * 2 does not fit: weights
there must stay within ``EXACT_LIMIT``, or each two neighbours within the bound of ``onnxq.quant.pairs``.
``tools/check_saturation.py`` measures which kernels are concerned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnxq.errors import TargetError, did_you_mean

PRETENDED = "ONNXQ_PROCESSOR"
"""The environment variable that names another processor than the one at hand, to compile for that."""

EXACT_LIMIT = 63
"""Two products of uint8 with integers up to this, 2 * 255 * 63, stay within signed 16 bits."""

_X86 = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16")
_X86_512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16")
_ARM = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
CPU_FLAGS = frozenset(_X86 + _X86_512 + _ARM)
"""The processor features that decide which integer and float kernels ONNX Runtime takes."""


@dataclass(frozen=True)
class Processor:
    """One kind of processor.

    Args:
        name: What recipes, manifests and ``ONNXQ_PROCESSOR`` call it.
        summary: What it does with products of 8-bit integers.
        saturates: Whether sums of uint8 x int8 products can saturate.
        features: Any of these makes it this kind: the names of Linux, and NumPy's in lower case.

    """

    name: str
    summary: str
    saturates: bool = False
    features: frozenset[str] = field(default=frozenset(), repr=False)


_EXACT = "exact: dot products add up in 32 bits, so 7-bit weights would only cost accuracy"
_SATURATES = "uint8 x int8 can saturate at 16 bits: weights that meet uint8 get 7 to 8 bits"

PROCESSORS = {
    one.name: one
    for one in (
        Processor("amx", _EXACT, features=frozenset({"amx_int8"})),
        Processor(
            "avx512_vnni",
            _EXACT,
            features=frozenset({"avx512_vnni", "avx512_clx", "avx512_icl", "avx512_spr"}),
        ),
        Processor("avx_vnni", _EXACT, features=frozenset({"avx_vnni"})),
        Processor("avx512", _SATURATES, saturates=True, features=frozenset({"avx512f", "x86_v4"})),
        Processor("avx2", _SATURATES, saturates=True, features=frozenset({"avx2", "x86_v3"})),
        Processor("sse41", _SATURATES, saturates=True, features=frozenset({"x86_v2"})),
        Processor("arm_dot", _EXACT, features=frozenset({"asimddp", "i8mm", "sve2"})),
        Processor(
            "arm",
            "exact, but without dot product instructions: int8 gains less",
            features=frozenset({"asimd", "neon"}),
        ),
        Processor(
            "any",
            "exact on every processor: where uint8 x int8 saturates on some, weights have steps of 1 to 2 "
            "times those of 8 bits",
            saturates=True,
        ),
        Processor("unknown", "unknown: the processor's features could not be read"),
    )
}
"""Every kind, the most able first.

Source:
    Intel's and Arm's instruction references: VPMADDUBSW adds two products of uint8 and int8 in saturating 16
    bits; VPDPBUSD, TDPBUSD, SDOT and UDOT add four in 32. MLAS, ONNX Runtime's library of kernels, takes
    VPMADDUBSW wherever VPDPBUSD is missing; its kernel for SSE4.1 is for Windows alone, where features come
    from NumPy.
"""


def here() -> Processor:
    """Return the processor to compile for: the one at hand, or the one that ``ONNXQ_PROCESSOR`` names.

    Raises:
        TargetError: The variable names none.

    """
    name = os.environ.get(PRETENDED)
    return at_hand() if not name else find_processor(name, where=PRETENDED)


def at_hand() -> Processor:
    """Return the processor that this process runs on."""
    return processor_of(cpu_flags())


def processor_of(flags: Sequence[str]) -> Processor:
    """Return the most able processor with any of these features."""
    known = set(flags)
    return next((one for one in PROCESSORS.values() if one.features & known), PROCESSORS["unknown"])


def find_processor(name: str, *, where: str | None = None) -> Processor:
    """Return the processor called ``name``.

    Raises:
        TargetError: There is none; ``where`` is what named it.

    """
    if name not in PROCESSORS:
        raise TargetError(f"unknown processor {name!r}", where=where, hint=did_you_mean(name, PROCESSORS))
    return PROCESSORS[name]


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
