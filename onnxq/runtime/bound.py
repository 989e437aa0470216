"""Running a session again and again on the same feeds, with inputs and outputs where the provider is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxq.errors import DataError
from onnxq.runtime.batch import Array, Feeds
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.session import Session

Once = Callable[[], None]
InPlace = Mapping[str, str]
"""Outputs that are written over inputs of the same shape, as a cache that is kept in place."""
NOWHERE: InPlace = MappingProxyType({})


def prepared(session: Session, in_place: InPlace = NOWHERE) -> Callable[[Feeds], Once]:
    """Return what makes, of feeds, a function that runs the session once on them and waits for its end."""
    if session.asked.cuda_graph:
        return Replay(session, "cuda", in_place)
    return partial(repeatable, session, in_place=in_place)


def repeatable(session: Session, feeds: Feeds, in_place: InPlace = NOWHERE) -> Once:
    """Return a function that runs the session once on ``feeds`` and comes back when the run is over.

    On a GPU inputs are copied to the device beforehand, and outputs stay there, those of ``in_place`` where
    inputs are: what is timed is the model and not the copies.

    Raises:
        DataError: The feeds do not fit the inputs.

    """
    device = "cpu" if session.asked.provider == "cpu" else "cuda"
    if device != "cpu" or in_place:
        return bound_to(session, feeds, device, in_place)
    chosen, inference = session.select(feeds), session.inference
    return lambda: inference.run(None, chosen)


def bound_to(session: Session, feeds: Feeds, device: str, in_place: InPlace = NOWHERE) -> Once:
    """Return such a function with inputs and outputs on ``device``, ``cuda`` or ``cpu``.

    Args:
        session: Its provider has to be the device's.
        feeds: The inputs.
        device: ONNX Runtime's name of the device.
        in_place: Outputs that are written over inputs: over copies on a device, on the CPU over the feeds.

    """
    binding = _bound(session, _on_device(session.select(feeds), device), device, in_place)
    return partial(_run, session, binding)


class Replay:
    """A session whose runs read and write the same places, as a recorded CUDA graph does.

    Args:
        session: Its provider has to be the device's.
        device: ONNX Runtime's name of the device.
        in_place: Outputs that are written over inputs.

    """

    def __init__(self, session: Session, device: str, in_place: InPlace = NOWHERE) -> None:
        """Bind nothing yet: the first feeds say how large everything is."""
        self.session, self.device, self.in_place = session, device, in_place
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
        self._binding = _bound(self.session, self._inputs, self.device, self.in_place)
        _run(self.session, self._binding)
        values = self._binding.get_outputs()
        self._binding.clear_binding_outputs()
        for name, value in zip(self.session.output_names, values, strict=True):
            self._binding.bind_ortvalue_output(name, value)


def _on_device(feeds: Feeds, device: str) -> dict[str, Any]:
    make = import_onnxruntime().OrtValue.ortvalue_from_numpy
    return {name: make(array, device, 0) for name, array in feeds.items()}


def _bound(session: Session, inputs: dict[str, Any], device: str, in_place: InPlace) -> Any:
    binding = session.inference.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for name in session.output_names:
        if name in in_place:
            binding.bind_ortvalue_output(name, inputs[in_place[name]])
        else:
            binding.bind_output(name, device)
    return binding


def _run(session: Session, binding: Any) -> None:
    session.inference.run_with_iobinding(binding)
    binding.synchronize_outputs()
