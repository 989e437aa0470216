"""The kernels of the CUDA and CPU providers, read from the wheel onnxruntime-gpu, on a machine without a GPU.

The wheel's Python module lists all kernels that its providers register, but loads them only with CUDA's
libraries in place. Libraries of the same names stand in for them here, in which every function returns 0:
registering kernels calls nothing of them that matters. Needs a C compiler, readelf and nm.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

from onnxq.runtime.run import PROVIDERS as PROVIDER_NAMES

OUTPUT = Path(__file__).resolve().parent.parent / "onnxq" / "assets"
PROVIDERS = ("cuda", "cpu")
DOMAINS = ("", "com.microsoft")
OLDEST = 13
"""Recipes raise a model to this operator set at least; kernels that end before it are left out."""
NEWEST = 2**31 - 1
SPECIAL = {
    "cudaGetDeviceCount": "int cudaGetDeviceCount(int *count) { *count = 1; return 0; }",
    "__cudaRegisterFatBinary": "void *__cudaRegisterFatBinary(void *p) { static long h[64]; return h; }",
}
"""What the libraries are asked for while they load."""
QUERY = """
import json, onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state
kernels = [
    [k.provider, k.domain, k.op_name, *k.version_range, {n: list(t) for n, t in k.type_constraints.items()}]
    for k in state.get_all_opkernel_def()
]
print(json.dumps([onnxruntime.__version__, kernels]))
"""
Kernel = tuple[str, str, int, int | None, dict[str, frozenset[str]]]


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("wheel", type=Path, help="onnxruntime_gpu-*.whl for this Python")
    options.add_argument("-o", "--output", type=Path, default=OUTPUT, help="folder for the lists")
    args = options.parse_args()
    with TemporaryDirectory() as folder:
        unpacked, stubs = Path(folder, "wheel"), Path(folder, "stubs")
        ZipFile(args.wheel).extractall(unpacked)
        build_stubs(sorted(unpacked.glob("onnxruntime/capi/libonnxruntime_providers_[ct]*.so")), stubs)
        version, found = query(unpacked, stubs)
    source = (
        f"onnxruntime-gpu {version}, {args.wheel.name}: registered kernels, by tools/list_cuda_kernels.py"
    )
    for name in PROVIDERS:
        write(args.output / f"{name}_kernels.json", source, PROVIDER_NAMES[name], found)
    return 0


def write(path: Path, source: str, provider: str, found: Sequence[Any]) -> None:
    """Write the kernels of one provider."""
    own = list(plain([rest for owner, *rest in found if owner == provider]))
    kernels = sorted(merged(own), key=_order)
    path.write_text(text_of(source, provider, kernels), encoding="utf-8")
    operators = {one[:2] for one in kernels}
    print(f"{path}: {len(operators)} operators in {len(kernels)} lines, from {len(own)} kernels")


def _order(kernel: Kernel) -> tuple[Any, ...]:
    types = sorted((name, sorted(allowed)) for name, allowed in kernel[4].items())
    return kernel[:3], kernel[3] or NEWEST, types


def build_stubs(libraries: Sequence[Path], folder: Path) -> None:
    """Compile a library for each one of NVIDIA's that ``libraries`` want, with the functions they miss."""
    folder.mkdir()
    wanted: dict[str, set[str]] = defaultdict(set)
    for library in libraries:
        for name in re.findall(r"NEEDED.*\[(lib(?:cu|nv)\S+)\]", _output("readelf", "-d", library)):
            wanted[name] |= set()
        for symbol, owner in re.findall(r" U ([a-z_]\w*)(?:@(lib\S+))?$", _output("nm", "-D", library), re.M):
            if not symbol.startswith("Provider_"):
                wanted[owner or "libcudart.so.13"].add(symbol)
    for name, symbols in wanted.items():
        _compile(folder / name, symbols)


def _compile(library: Path, symbols: set[str]) -> None:
    source, versions = library.with_suffix(".c"), library.with_suffix(".map")
    lines = [SPECIAL.get(symbol, f"long {symbol}(void) {{ return 0; }}") for symbol in sorted(symbols)]
    source.write_text("\n".join(lines) + "\n")
    versions.write_text(f"{library.name} {{ global: *; }};\n")
    options = ["-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    options.append(f"-Wl,--version-script={versions}")
    subprocess.run(["cc", *options, "-o", library, source], check=True)


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def query(unpacked: Path, stubs: Path) -> tuple[str, list[Any]]:
    """Return the version and the registered kernels of all providers."""
    places = {"LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(unpacked)}
    run = [sys.executable, "-c", QUERY]
    done = subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **places})
    version, kernels = json.loads(done.stdout)
    return version, kernels


def plain(found: Sequence[Any]) -> Iterator[Kernel]:
    """Yield the kernels that matter, with types as in ``float16`` and an open end as None."""
    for domain, op_type, since, until, types in found:
        if domain in DOMAINS and (domain or until >= OLDEST):
            short = {
                key: frozenset(re.sub(r"^tensor\((\w+)\)$", r"\1", one) for one in all_of)
                for key, all_of in types.items()
            }
            yield domain, op_type, since, None if until >= NEWEST else until, short


def merged(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Join kernels that differ in what they take for one type parameter only."""
    kept: list[Kernel] = []
    for kernel in kernels:
        while (match := _match(kernel, kept)) is not None:
            other, types = match
            kept.remove(other)
            kernel = (*kernel[:4], types)
        kept.append(kernel)
    return kept


def _match(kernel: Kernel, others: Sequence[Kernel]) -> tuple[Kernel, dict[str, frozenset[str]]] | None:
    for other in others:
        types = _joined(kernel[4], other[4]) if kernel[:4] == other[:4] else None
        if types is not None:
            return other, types
    return None


def _joined(
    one: dict[str, frozenset[str]], other: dict[str, frozenset[str]]
) -> dict[str, frozenset[str]] | None:
    if one.keys() != other.keys():
        return None
    differing = [key for key in one if one[key] != other[key]]
    return {key: one[key] | other[key] for key in one} if len(differing) <= 1 else None


def text_of(source: str, provider: str, kernels: Sequence[Kernel]) -> str:
    """Return JSON with a line for each kernel."""
    lines = [
        json.dumps(
            [domain, op_type, since, until, {key: " ".join(sorted(types[key])) for key in sorted(types)}]
        )
        for domain, op_type, since, until, types in kernels
    ]
    body = ",\n".join(lines)
    return f'{{"provider": "{provider}",\n"source": {json.dumps(source)},\n"kernels": [\n{body}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
