"""The quantizers that onnxq is compared with: onnxruntime's two, and optimum's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.store import load_model
from onnxq.recipe import load_recipe

Feeds = Mapping[str, NDArray[Any]]
PER_CHANNEL_OPSET = 13


def quantize_dynamic(source: Path, output: Path) -> None:
    """Quantize the weights per channel with onnxruntime, and the activations at run time."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, output, per_channel=True)


def quantize_static(source: Path, output: Path, feeds: Sequence[Feeds], method: str = "MinMax") -> None:
    """Quantize with onnxruntime: uint8 activations, int8 weights per channel, all operators."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    with TemporaryDirectory() as folder:
        raised = _raised(source, Path(folder, "raised.onnx"))
        quantize_static(
            raised,
            output,
            calibration_reader(feeds),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod[method],
        )


def _raised(source: Path, output: Path) -> Path:
    """Return the source in an opset that knows encodings per channel; else the result does not load."""
    if load_model(source).opset >= PER_CHANNEL_OPSET:
        return source
    pipeline = f"remove-initializer-inputs, convert-opset{{minimum={PER_CHANNEL_OPSET}}}"
    recipe = load_recipe("fp32").model_copy(update={"pipeline": pipeline})
    quiet = CompileOptions(validate=False, bench=False)
    return compile_model(source, output, recipe=recipe, options=quiet).output


def optimum(command: Path, source: Path, output: Path) -> None:
    """Quantize with ``optimum-cli``, which has an environment of its own: avx512_vnni, per channel."""
    with TemporaryDirectory() as folder:
        before, after = Path(folder, "before"), Path(folder, "after")
        before.mkdir()
        (before / "model.onnx").symlink_to(_raised(source, Path(folder, "raised.onnx")).resolve())
        options: list[str | Path] = ["--onnx_model", before, "--avx512_vnni", "--per_channel", "-o", after]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        subprocess.run(
            [command, "onnxruntime", "quantize", *options], check=True, capture_output=True, env=offline
        )
        output.write_bytes((after / "model_quantized.onnx").read_bytes())


def calibration_reader(feeds: Sequence[Feeds]) -> Any:
    """Return what onnxruntime's quantizers read calibration data from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands the same feeds to onnxruntime."""

        def __init__(self) -> None:
            self.feeds: Iterator[Feeds] = iter(feeds)

        def get_next(self) -> Feeds | None:
            return next(self.feeds, None)

    return Reader()
