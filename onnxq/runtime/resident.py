"""Running a session on feeds that change and arrays that stay: bound once, and written to in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxq.errors import ModelError
from onnxq.runtime.batch import Array, Feeds
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.session import Session, short_reason


class Resident:
    """A session some of whose inputs stay where they are.

    Args:
        session: What runs.
        kept: The inputs that stay, by name: contiguous arrays, which are read as they are at each run. On the
            CPU the session reads them where they lie; to a device they are copied before each run.

    """

    def __init__(self, session: Session, kept: Feeds) -> None:
        """Bind what stays."""
        self.session, self.kept = session, kept
        self._device = "cpu" if session.asked.provider == "cpu" else "cuda"
        make = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._values = {name: make(array, self._device, 0) for name, array in kept.items()}
        self._binding: Any = session.inference.io_binding()
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)

    def run(self, feeds: Feeds) -> Mapping[str, Array]:
        """Return the outputs by name.

        Raises:
            DataError: The feeds do not fit the inputs.
            ModelError: ONNX Runtime failed while running; its reason on one line.

        """
        chosen = self.session.select({**feeds, **self.kept})
        if self._device != "cpu":
            for name, value in self._values.items():
                value.update_inplace(self.kept[name])
        for name, array in chosen.items():
            if name not in self._values:
                self._binding.bind_cpu_input(name, np.ascontiguousarray(array))
        self._binding.clear_binding_outputs()  # else they keep the shapes of the run before
        for name in self.session.output_names:
            self._binding.bind_output(name, "cpu")
        try:
            self.session.inference.run_with_iobinding(self._binding)
        except Exception as error:
            reason = f"ONNX Runtime failed on these feeds: {short_reason(error)}"
            raise ModelError(reason, where=self.session.source) from error
        values = self._binding.copy_outputs_to_cpu()
        return dict(zip(self.session.output_names, values, strict=True))
