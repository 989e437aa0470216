"""Run README's example commands as they stand there, the Python script too, and print what they print.

ResNet-20 is compiled on training images of CIFAR-10, validated and timed on the test images.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from measuring import REPOSITORY, environment_lines, parser, real_tasks
from numpy.typing import NDArray

MODEL, TRAINING_IMAGES = "cifar10_resnet20", 512
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
COMMANDS = (
    "onnxq demo",
    "onnxq compile resnet20.onnx -o resnet20.int8.onnx --data train.npz",
    "onnxq validate resnet20.onnx resnet20.int8.onnx --data test.npz --metric top1 --max-drop 0.5",
    "onnxq bench resnet20.onnx resnet20.int8.onnx --data test.npz",
)
SCRIPT = re.compile(r"## From Python\n+```python\n(.*?)```", re.DOTALL)


def main() -> int:
    args = parser(__doc__).parse_args()
    tasks = real_tasks(args.assets)
    if tasks is None:
        print("needs the evaluation data among the assets", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        _prepare(Path(folder), tasks)
        codes = [_run(command.split(), f"$ {command}", Path(folder)) for command in COMMANDS]
        codes.append(_run([sys.executable, "-c", _script()], "README's Python script", Path(folder)))
    print(*environment_lines(), sep="\n")
    return int(any(codes))


def _prepare(folder: Path, tasks: ModuleType) -> None:
    """Put the model and its images into ``folder`` under the names that README gives them."""
    task: Any = tasks.load(MODEL)
    shutil.copy(task.model, folder / "resnet20.onnx")
    with np.load(tasks.SHARED / "data" / "images" / "cifar10_train_calib_1000.npz") as train:
        np.savez(folder / "train.npz", x=_as_input(train["x"][:TRAINING_IMAGES]))
    images = np.concatenate([feeds["input"] for feeds in task.batches])
    np.savez(folder / "test.npz", input=images, labels=task.labels)


def _as_input(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images of shape (N, 32, 32, 3) as the network takes them, (N, 3, 32, 32)."""
    scaled = (images.astype(np.float32) / 255 - MEAN) / DEVIATION
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _run(command: list[str], title: str, folder: Path) -> int:
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    print(f"{title}\n\n{done.stdout}")
    print(f"{done.stderr}", file=sys.stderr)
    if done.returncode:
        print(f"exit code {done.returncode}\n")
    return done.returncode


def _script() -> str:
    found = SCRIPT.search((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("README has no script under 'From Python'")
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
