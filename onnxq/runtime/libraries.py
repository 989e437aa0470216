"""Operators of users' own, in libraries that ONNX Runtime loads."""

from __future__ import annotations

import os
from typing import Any

from onnxq.errors import InputError

LIBRARIES = "ONNXQ_CUSTOM_OPS"
"""The environment variable that names them, as ``PATH`` names folders; begun processes have it, too."""


def register_libraries(options: Any) -> None:
    """Let sessions of these options know the operators of each library that is named.

    Raises:
        InputError: One cannot be loaded.

    """
    for library in filter(None, os.environ.get(LIBRARIES, "").split(os.pathsep)):
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise InputError(
                f"ONNX Runtime cannot load this library of operators: {' '.join(str(error).split())}",
                where=library,
                hint=f"--custom-ops or {LIBRARIES} names it; it has to fit ONNX Runtime and this machine",
            ) from error
