"""Compile all-MiniLM-L6-v2 with onnxq and with onnxruntime's quantizers, and compare the results in one run.

Rows: the original, onnxq with and without data, quantize_dynamic per channel, quantize_static with its
defaults and for MatMul alone. All calibrate on the same 128 sentences. Cosine: pooled embeddings of 64
other sentences against fp32's. Speed: one thread, batch 1, 128 tokens, interleaved. Exits with 1 if onnxq
is below 2.0x or below cosine 0.993.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import peers
from cpu_cases import sentences
from measuring import cosines, embeddings, parser, real_tasks, show
from numpy.typing import NDArray
from rich.console import Console

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.store import load_model, model_size
from onnxq.recipe import load_recipe
from onnxq.runtime.bench import bench
from onnxq.runtime.run import Run

Feeds = dict[str, NDArray[Any]]
LEAST_SPEED, LEAST_COSINE = 2.0, 0.993


def main() -> int:
    args = parser(__doc__).parse_args()
    tasks = real_tasks(args.assets)
    if tasks is None or args.minilm is None:
        print(
            "needs the STS benchmark among the assets and all-MiniLM-L6-v2 as ONNX: --minilm FILE",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(args.minilm, Path(folder), tasks)
    title = "all-MiniLM-L6-v2: one thread, batch 1, 128 tokens; pooled cosine to fp32 on 64 sentences"
    show(
        title,
        rows,
        [f"Wanted of onnxq: at least {LEAST_SPEED}x at cosine {LEAST_COSINE}."],
        as_json=args.json,
    )
    ours = rows[1]
    return int(ours["speed"] < LEAST_SPEED or ours["cosine mean"] < LEAST_COSINE)


def _rows(model: Path, folder: Path, tasks: ModuleType) -> list[dict[str, Any]]:
    texts = sentences(tasks.SHARED / "data" / "text" / "stsb" / "sts-train.csv", 128)
    calibration = [tasks.minilm_feeds(texts[i : i + 8]) for i in range(0, len(texts), 8)]
    held_out = [tasks.minilm_feeds([text]) for text in sentences(_dev(tasks), 64)]
    seconds = {"fp32": 0.0}
    models = {"fp32": model}
    for name, build in _compilers(calibration).items():
        Console(stderr=True).print(f"[dim]{name}")
        models[name] = folder / f"{name.replace(' ', '-')}.onnx"
        start = time.perf_counter()
        build(model, models[name])
        seconds[name] = time.perf_counter() - start
    latency = bench(
        models, [tasks.minilm_feeds([_long(tasks, i)], pad_to=128) for i in range(8)], Run(threads=1)
    )
    wanted = embeddings(model, held_out)
    return [
        {
            "model": timed.name,
            "ms": timed.latency_ms.median,
            "speed": round(timed.paired_speedup.median, 2),
            "p10..p90": f"{timed.paired_speedup.p10:.2f}..{timed.paired_speedup.p90:.2f}",
            **cosines(wanted, embeddings(timed.path, held_out)),
            "MB": round(model_size(timed.path) / 1e6, 1),
            "compile s": round(seconds[timed.name], 1),
        }
        for timed in latency.models
    ]


def _compilers(calibration: Sequence[Feeds]) -> dict[str, Callable[[Path, Path], None]]:
    def ours(recipe: str, with_data: bool) -> Callable[[Path, Path], None]:
        def build(source: Path, output: Path) -> None:
            specs = input_specs(load_model(source).model)
            data = open_feeds("STS benchmark, train", lambda: calibration, specs) if with_data else None
            quiet = CompileOptions(validate=False, bench=False)
            compile_model(source, output, recipe=load_recipe(recipe), data=data, options=quiet)

        return build

    def static(**options: Any) -> Callable[[Path, Path], None]:
        def build(source: Path, output: Path) -> None:
            from onnxruntime.quantization import quantize_static

            quantize_static(
                source, output, peers.calibration_reader(calibration), per_channel=True, **options
            )

        return build

    return {
        "onnxq cpu": ours("cpu", with_data=True),
        "onnxq cpu-dynamic": ours("cpu-dynamic", with_data=False),
        "quantize_dynamic": peers.quantize_dynamic,
        "quantize_static": static(),
        "quantize_static MatMul": static(op_types_to_quantize=["MatMul"]),
    }


def _dev(tasks: ModuleType) -> Path:
    return Path(tasks.SHARED) / "data" / "text" / "stsb" / "sts-dev.csv"


def _long(tasks: ModuleType, number: int) -> str:
    text = (tasks.SHARED / "data" / "text" / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    return str(text[3000 * number + 3000 : 3000 * number + 4200])


if __name__ == "__main__":
    sys.exit(main())
