"""Running a session again and again on the same feeds, with inputs and outputs where the provider is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from onnxq.errors import DataError
from onnxq.runtime.batch import Array, Feeds
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.session import Session

Once = Callable[[], None]


def prepared(session: Session) -> Callable[[Feeds], Once]:
    """Return what makes, of feeds, a function that runs the session once on them and waits for its end."""
    return Replay(session, "cuda") if session.asked.cuda_graph else partial(repeatable, session)


def repeatable(session: Session, feeds: Feeds) -> Once:
    """Return a function that runs the session once on ``feeds`` and comes back when the run is over.

    On a GPU inputs are copied to the device beforehand, and outputs stay there: what is timed is the
    model and not the copies.

    Raises:
        DataError: The feeds do not fit the inputs.

    """
    if session.asked.provider != "cpu":
        return bound_to(session, feeds, "cuda")
    chosen, inference = session.select(feeds), session.inference
    return lambda: inference.run(None, chosen)


def bound_to(session: Session, feeds: Feeds, device: str) -> Once:
    """Return such a function with inputs and outputs on ``device``, ``cuda`` or ``cpu``.

    Args:
        session: Its provider has to be the device's.
        feeds: The inputs.
        device: ONNX Runtime's name of the device.

    """
    binding = _bound(session, _on_device(session.select(feeds), device), device)
    return partial(_run, session, binding)


class Replay:
    """A session whose runs read and write the same places, as a recorded CUDA graph does.

    Args:
        session: Its provider has to be the device's.
        device: ONNX Runtime's name of the device.

    """

    def __init__(self, session: Session, device: str) -> None:
        """Bind nothing yet: the first feeds say how large everything is."""
        self.session, self.device = session, device
        self._inputs: dict[str, Any] = {}
        self._binding: Any = None

    def __call__(self, feeds: Feeds) -> Once:
        """Copy ``feeds`` to where the session reads them; return a function that runs it once and waits.

        Raises:
            DataError: They do not fit the inputs, or have other shapes than the first.

        """
        chosen = self.session.select(feeds)
        if self._binding is None:
            self._bind(chosen)
        elif any(np.shape(array) != tuple(self._inputs[name].shape()) for name, array in chosen.items()):
            raise DataError(
                "a CUDA graph is recorded for one shape, and these feeds have another than the first",
                where=self.session.source,
                hint="let all batches be of one shape (--pad-to, --limit), or leave out --cuda-graph",
            )
        for name, array in chosen.items():
            self._inputs[name].update_inplace(np.asarray(array, order="C"))
        return partial(_run, self.session, self._binding)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Do what ``Session.run`` does."""
        self(feeds)()
        values = self._binding.copy_outputs_to_cpu()
        return dict(zip(self.session.output_names, values, strict=True))

    def _bind(self, feeds: Feeds) -> None:
        """Run once, and keep what that run put its outputs into."""
        copies = {name: np.array(array) for name, array in feeds.items()}
        self._inputs = _on_device(copies, self.device)
        self._binding = _bound(self.session, self._inputs, self.device)
        _run(self.session, self._binding)
        values = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        for name, value in zip(self.session.output_names, values, strict=True):
            self._binding.bind_ortvalue_output(name, value)


def _on_device(feeds: Feeds, device: str) -> dict[str, Any]:
    make = import_onnxruntime().OrtValue.ortvalue_from_numpy
    return {name: make(array, device, 0) for name, array in feeds.items()}


def _bound(session: Session, inputs: dict[str, Any], device: str) -> Any:
    binding = session.inference.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name in session.output_names:
        binding.bind_output(name, device)
    return binding


def _run(session: Session, binding: Any) -> None:
    session.inference.run_with_iobinding(binding)
    binding.synchronize_outputs()
