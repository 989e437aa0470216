"""Readers behind ``--data``: what calibration, validation and timing feed a model with."""

from onnxq.calibration.data.base import Batch, InputSpec, input_specs
from onnxq.calibration.data.dataset import Dataset
from onnxq.calibration.data.open import open_data, open_feeds
from onnxq.calibration.data.options import DataOptions
from onnxq.runtime.batch import Array, Feeds

__all__ = [
    "Array",
    "Batch",
    "DataOptions",
    "Dataset",
    "Feeds",
    "InputSpec",
    "input_specs",
    "open_data",
    "open_feeds",
]
