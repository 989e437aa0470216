"""Compile every third-party model among the assets and compare it with the original on real data.

For the classifiers and the text encoder the task's own metric is computed for both; the other models have
no labels, so their outputs are compared. Exits with 1 if a drop is larger than allowed, or a model fails.
"""

from __future__ import annotations

import sys
import tempfile
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from measuring import parser, real_tasks, show
from numpy.typing import NDArray
from rich.console import Console

from onnxq.calibration.data import DataOptions, input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compilation import CompileResult
from onnxq.compile import compile_model
from onnxq.errors import InputError, OnnxqError
from onnxq.ir.store import load_model
from onnxq.recipe import load_recipe

Feeds = dict[str, NDArray[Any]]
DATA_SETS = "MNIST and CIFAR-10, ImageNet photographs, the STS benchmark, and the models named in each row"


@dataclass(frozen=True)
class Case:
    """One model with real feeds, and how much of its metric, in points, it may lose."""

    name: str
    model: Path
    calibration: Sequence[Feeds]
    held_out: Sequence[Feeds]
    task: Any = None
    allowed_drop: float | None = None


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", help="one model's name")
    args = options.parse_args()
    tasks = real_tasks(args.assets)
    rows = []
    for name, build in _builders(args.assets, args.minilm).items():
        if args.only in (None, name):
            Console(stderr=True).print(f"[dim]{name}")
            rows.append(_row(name, build, tasks))
    title = "Third-party models: original against compiled, on real data (metric in percent, drop in points)"
    show(title, rows, [f"Data: {DATA_SETS}."], as_json=args.json)
    return int(any(row["verdict"].startswith(("failed", "missed")) for row in rows))


def _row(name: str, build: Callable[[ModuleType], Case], tasks: ModuleType | None) -> dict[str, Any]:
    try:
        if tasks is None:
            raise FileNotFoundError("evals/realtasks.py")
        case = build(tasks)
    except (FileNotFoundError, SystemExit) as error:
        return {"model": name, "verdict": f"skipped: {error} is missing"}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "compiled.onnx")
        try:
            result = _compile(case, output)
        except InputError as error:
            return {"model": name, "verdict": f"refused: {error.message.splitlines()[0]}"}
        except OnnxqError as error:
            return {"model": name, "verdict": f"failed: {error}"}
        return _measured(case, result, tasks)


def _compile(case: Case, output: Path) -> CompileResult:
    specs = input_specs(load_model(case.model).model)
    make = {
        part: (lambda feeds=feeds: feeds)
        for part, feeds in (("cal", case.calibration), ("held", case.held_out))
    }
    calibration = open_feeds("calibration feeds", make["cal"], specs, DataOptions())
    held_out = open_feeds("held-out feeds", make["held"], specs, DataOptions(limit=64))
    recipe = load_recipe("cpu")
    samples = sum(len(next(iter(feeds.values()))) for feeds in case.calibration)
    recipe = recipe.model_copy(
        update={"calibration": recipe.calibration.model_copy(update={"samples": samples})}
    )
    return compile_model(
        case.model,
        output,
        recipe=recipe,
        data=calibration,
        options=CompileOptions(threads=1, tune=False, validation_data=held_out),
    )


def _measured(case: Case, result: CompileResult, tasks: ModuleType) -> dict[str, Any]:
    accuracy, latency = result.accuracy, result.latency
    assert accuracy is not None
    assert latency is not None
    first = accuracy.outputs[0]
    row: dict[str, Any] = {
        "model": case.name,
        "fp32": None,
        "int8": None,
        "drop": None,
        "allowed": case.allowed_drop,
        "cosine": first.cosine,
        "SQNR dB": first.sqnr_db,
        "speed": f"{latency.models[1].speedup:.2f}x",
        "kB": f"{latency.models[0].size_bytes // 1000} -> {latency.models[1].size_bytes // 1000}",
        "verdict": "ok",
    }
    if case.task is not None:
        before, after = (
            100 * tasks.evaluate(case.task, path)["metric"] for path in (case.model, result.output)
        )
        row |= {"fp32": round(before, 2), "int8": round(after, 2), "drop": round(before - after, 2)}
        if case.allowed_drop is not None and before - after > case.allowed_drop:
            row["verdict"] = "missed"
    return row


def _builders(assets: Path, minilm: Path | None) -> dict[str, Callable[[ModuleType], Case]]:
    models, images = assets / "models", assets / "data" / "images"

    def labelled(name: str, allowed: float) -> Callable[[ModuleType], Case]:
        def build(tasks: ModuleType) -> Case:
            task = tasks.load(name)
            model = minilm if name == "stsb" else task.model
            if model is None:
                raise FileNotFoundError("all-MiniLM-L6-v2 as ONNX (--minilm)")
            return Case(name, model, task.calibration, task.batches, task, allowed)

        return build

    def unlabelled(file: str, feeds: Callable[[], list[Feeds]]) -> Callable[[ModuleType], Case]:
        def build(_: ModuleType) -> Case:
            made = feeds()
            half = len(made) // 2
            return Case(Path(file).stem, models / file, made[:half], made[half:])

        return build

    def winml(tasks: ModuleType) -> Case:
        task = replace(tasks.load("cifar10_resnet20"), model=models / "winml_ImageClassifier_cifar10.onnx")
        calibration, batches = (_renamed(part, "modelInput") for part in (task.calibration, task.batches))
        return Case("winml_cifar10", task.model, calibration, batches, replace(task, batches=batches))

    return {
        "mnist_vit": labelled("mnist_vit", 0.3),
        "mnist_cntk": labelled("mnist_cntk", 0.3),
        "cifar10_resnet20": labelled("cifar10_resnet20", 0.7),
        "squeezenet": labelled("imagenet", 1.0),
        "MiniLM (STS-b dev)": labelled("stsb", 0.5),
        "winml_cifar10": winml,
        "ppocrv2_det": unlabelled("ppocrv2_det.onnx", lambda: text_pages(assets)),
        "ultraface_rfb_320": unlabelled(
            "ultraface_rfb_320.onnx",
            lambda: _photographs(images, "input", (320, 240), lambda x: (x - 127) / 128),
        ),
        "fns_candy": unlabelled(
            "fns_candy.onnx", lambda: _photographs(images, "inputImage", 720, lambda x: x)[:4]
        ),
        "silero_vad_16k_op15": unlabelled("silero_vad_16k_op15.onnx", lambda: _speech(assets, vad=True)),
        "silero_model_micro": unlabelled("silero_model_micro.onnx", lambda: _speech(assets, vad=False)),
        "magika_fast_v2_1": unlabelled("magika_fast_v2_1.onnx", lambda: _files(assets)),
    }


def _renamed(feeds: Sequence[Feeds], name: str) -> list[Feeds]:
    return [{name: next(iter(one.values()))} for one in feeds]


def _photographs(
    images: Path, name: str, size: int | tuple[int, int], prepare: Callable[[Any], Any]
) -> list[Feeds]:
    from PIL import Image

    shape = (size, size) if isinstance(size, int) else size
    files = sorted((images / "imagenet_sample").glob("*.jpg"))[:32]
    if not files:
        raise FileNotFoundError("data/images/imagenet_sample")
    pixels = [np.asarray(Image.open(file).convert("RGB").resize(shape), np.float32) for file in files]
    return [{name: np.ascontiguousarray(prepare(x).transpose(2, 0, 1)[None], np.float32)} for x in pixels]


def text_pages(assets: Path) -> list[Feeds]:
    """Return photographs with real sentences drawn on them, which is what a text detector looks for."""
    from PIL import Image, ImageDraw, ImageFont

    sentences = (
        (assets / "data" / "text" / "wikitext2" / "wiki.valid.tokens")
        .read_text(encoding="utf-8")
        .split(" . ")
    )
    pages = []
    for number, file in enumerate(
        sorted((assets / "data" / "images" / "imagenet_sample").glob("*.jpg"))[:32]
    ):
        page = Image.open(file).convert("RGB").resize((320, 320))
        for line in range(5):
            text = sentences[5 * number + line].strip().encode("ascii", "ignore").decode()[:30]
            font = ImageFont.load_default(size=14 + 3 * line)
            ImageDraw.Draw(page).text((10, 12 + 60 * line), text, "white" if line % 2 else "black", font=font)
        pixels = _imagenet(np.asarray(page, np.float32)).transpose(2, 0, 1)[None]
        pages.append({"x": np.ascontiguousarray(pixels, np.float32)})
    return pages


def _imagenet(x: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    return (x / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def _speech(assets: Path, *, vad: bool) -> list[Feeds]:
    with wave.open(str(assets / "data" / "audio" / "silero_test.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    if not vad:
        return [{"input": samples[i : i + 32000][None]} for i in range(0, len(samples) - 32000, 32000)]
    state = np.zeros((2, 1, 128), np.float32)
    return [
        {"input": samples[i : i + 576][None], "state": state, "sr": np.array(16000, np.int64)}
        for i in range(0, len(samples) - 576, 16000)
    ]


def _files(assets: Path) -> list[Feeds]:
    """Return the first bytes of real files, padded with the token 256 as the model wants them."""
    files = sorted(path for path in (assets / "data").rglob("*") if path.is_file())[:24]
    if not files:
        raise FileNotFoundError("data")
    rows = []
    for file in files:
        content = np.frombuffer(file.read_bytes()[:1024], np.uint8).astype(np.int32)
        rows.append({"bytes": np.pad(content, (0, 1024 - len(content)), constant_values=256)[None]})
    return rows


if __name__ == "__main__":
    sys.exit(main())
