"""What a model costs besides time: bytes on disk, memory, and opening it in a fresh process.

Run as a module, this file is that fresh process: it opens one model, runs it, and prints
what it took as one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from onnxq.errors import ModelError, TargetError
from onnxq.runtime.batch import Array, Feeds
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.gpu import memory_in_use
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session, read_proto

if TYPE_CHECKING:
    import onnx

STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Footprint:
    """What one process needs for one model.

    Args:
        create_ms: Milliseconds to open the session, the file being in the page cache.
        peak_bytes: The largest resident memory of the whole process.
        session_bytes: How much of it came with opening and running the model; the rest is
            Python, NumPy and ONNX Runtime.
        device_bytes: On a GPU, how much more of the device's memory is in use than before; what other
            processes take meanwhile counts too.

    """

    create_ms: float
    peak_bytes: int
    session_bytes: int
    device_bytes: int | None = None


def size_on_disk(model: Path) -> int:
    """Return the bytes of the model's file and of every external data file it names.

    Raises:
        ModelError: A data file is missing or lies outside the model's folder.

    """
    proto = read_proto(model, str(model))
    files = {_data_file(model, tensor) for tensor in _tensors(proto.graph) if tensor.external_data}
    return model.stat().st_size + sum(file.stat().st_size for file in files)


def footprint(model: Path, feeds: Feeds, run: Run = Run()) -> Footprint:
    """Open and run ``model`` in a process of its own and return what that took.

    Args:
        model: Its file.
        feeds: One batch.
        run: Where and how to run it; a CUDA graph is not recorded.

    Raises:
        TargetError: The process failed; its last line is the message.

    """
    with TemporaryDirectory(prefix="onnxq-") as folder:
        file = Path(folder) / "feeds.npz"
        np.savez(file, **{name: _storable(array) for name, array in feeds.items()})  # type: ignore[arg-type]
        asked = json.dumps(asdict(run.without_graph))
        done = subprocess.run(
            [sys.executable, "-P", "-m", __spec__.name, str(model), str(file), asked],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise TargetError(f"measuring its memory failed: {lines[-1]}", where=str(model))
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def peak_memory() -> int:
    """Return this process's largest resident memory so far, in bytes.

    Linux hands the peak of ``getrusage`` on from parent to child, so its own file is read.
    """
    if STATUS.is_file():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _data_file(model: Path, tensor: onnx.TensorProto) -> Path:
    folder = model.parent.resolve()
    location = str(next(entry.value for entry in tensor.external_data if entry.key == "location"))
    file = Path(folder / location).resolve()
    if not file.is_relative_to(folder):
        raise ModelError(
            f"external data {location!r} points outside the model's folder", where=f"{model}: {tensor.name!r}"
        )
    if not file.is_file():
        raise ModelError(f"external data {location!r} is missing", where=f"{model}: {tensor.name!r}")
    return file


def _storable(array: Array) -> Array:
    """Return text as NumPy's own text type, which needs no pickle."""
    return array.astype(str) if array.dtype.kind == "O" else array


def _main(model: str, feeds: str, asked: str) -> None:
    """Print the footprint; ``asked`` holds the ``Run`` as JSON."""
    with np.load(feeds) as stored:
        arrays = dict(stored)
    import_onnxruntime()
    run = Run(**json.loads(asked))
    before, on_device = peak_memory(), memory_in_use() if run.provider != "cpu" else None
    session = open_session(Path(model), run)
    for _ in range(2):
        session.run(arrays)
    peak, now = peak_memory(), None if on_device is None else memory_in_use()
    device = None if now is None or on_device is None else now - on_device
    taken = Footprint(session.create_ms, peak, peak - before, device)
    sys.stdout.write(json.dumps(asdict(taken)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
