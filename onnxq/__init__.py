"""onnxq compiles an exported ONNX model into a smaller, faster one, validated and timed in ONNX Runtime.

The names below are the library's front door; each is imported when it is first used, so that importing
onnxq is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnxq.shown import Shown

if TYPE_CHECKING:
    from onnxq.calibration.data import DataOptions, Dataset, open_data, open_feeds
    from onnxq.calibration.table import CalibrationTable
    from onnxq.comparison import CompileOptions
    from onnxq.compilation import CompileResult
    from onnxq.compile import calibrate_model, compile_model
    from onnxq.diff.models import diff_models
    from onnxq.errors import OnnxqError
    from onnxq.finetuning import FinetuneOptions, finetune_model
    from onnxq.ir.module import GraphModule
    from onnxq.ir.store import load_model, save_model
    from onnxq.passmanager.manager import PassManager
    from onnxq.passmanager.pipeline import load_pass, parse_pipeline
    from onnxq.recipe import Recipe, load_recipe
    from onnxq.runtime.bench import Timing, bench
    from onnxq.runtime.run import Run
    from onnxq.runtime.validate import validate
    from onnxq.search.sensitivity import measure_sensitivity
    from onnxq.story import read_story
    from onnxq.training.fitting import Plan

_HOME = {
    "CalibrationTable": "onnxq.calibration.table",
    "CompileOptions": "onnxq.comparison",
    "CompileResult": "onnxq.compilation",
    "DataOptions": "onnxq.calibration.data",
    "Dataset": "onnxq.calibration.data",
    "FinetuneOptions": "onnxq.finetuning",
    "GraphModule": "onnxq.ir.module",
    "OnnxqError": "onnxq.errors",
    "PassManager": "onnxq.passmanager.manager",
    "Plan": "onnxq.training.fitting",
    "Recipe": "onnxq.recipe",
    "Run": "onnxq.runtime.run",
    "Timing": "onnxq.runtime.bench",
    "bench": "onnxq.runtime.bench",
    "calibrate_model": "onnxq.compile",
    "compile_model": "onnxq.compile",
    "diff_models": "onnxq.diff.models",
    "finetune_model": "onnxq.finetuning",
    "load_model": "onnxq.ir.store",
    "load_pass": "onnxq.passmanager.pipeline",
    "load_recipe": "onnxq.recipe",
    "measure_sensitivity": "onnxq.search.sensitivity",
    "open_data": "onnxq.calibration.data",
    "open_feeds": "onnxq.calibration.data",
    "parse_pipeline": "onnxq.passmanager.pipeline",
    "read_story": "onnxq.story",
    "save_model": "onnxq.ir.store",
    "validate": "onnxq.runtime.validate",
}

__all__ = [
    "CalibrationTable",
    "CompileOptions",
    "CompileResult",
    "DataOptions",
    "Dataset",
    "FinetuneOptions",
    "GraphModule",
    "OnnxqError",
    "PassManager",
    "Plan",
    "Recipe",
    "Run",
    "Timing",
    "bench",
    "calibrate_model",
    "compile_model",
    "diff_models",
    "finetune_model",
    "load_model",
    "load_pass",
    "load_recipe",
    "measure_sensitivity",
    "open_data",
    "open_feeds",
    "parse_pipeline",
    "read_story",
    "save_model",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'onnxq' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _html(result: object) -> str:
    from onnxq.report.notebook import html_of

    return html_of(result)


Shown.draw = _html
