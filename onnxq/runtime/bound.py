"""Running a session again and again on the same feeds, with inputs and outputs where the provider is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxq.runtime.batch import Feeds
from onnxq.runtime.environment import import_onnxruntime
from onnxq.runtime.session import Session


def repeatable(session: Session, feeds: Feeds) -> Callable[[], None]:
    """Return a function that runs the session once on ``feeds`` and comes back when the run is over.

    On ``cuda`` inputs are copied to the device beforehand, and outputs stay there: what is timed is the
    model and not the copies.

    Raises:
        DataError: The feeds do not fit the inputs.

    """
    if session.provider == "cuda":
        return bound_to(session, feeds, "cuda")
    chosen, inference = session.select(feeds), session.inference
    return lambda: inference.run(None, chosen)


def bound_to(session: Session, feeds: Feeds, device: str, *, fixed: bool = False) -> Callable[[], None]:
    """Return such a function with inputs and outputs on ``device``, ``cuda`` or ``cpu``.

    Args:
        session: Its provider has to be the device's.
        feeds: The inputs.
        device: ONNX Runtime's name of the device.
        fixed: Write the outputs to the same places in every run, as CUDA graphs need it.

    """
    inference, binding = session.inference, session.inference.io_binding()
    for name, array in session.select(feeds).items():
        binding.bind_ortvalue_input(name, import_onnxruntime().OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in session.output_names:
        binding.bind_output(name, device)
    if fixed:
        _fix_outputs(inference, binding, session.output_names)

    def run() -> None:
        inference.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def _fix_outputs(inference: Any, binding: Any, names: tuple[str, ...]) -> None:
    """Run once, and keep what that run put its outputs into."""
    inference.run_with_iobinding(binding)
    values = binding.get_outputs()
    binding.clear_binding_outputs()
    for name, value in zip(names, values, strict=True):
        binding.bind_ortvalue_output(name, value)
