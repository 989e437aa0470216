"""Feeds from Python: ``package.module:function``, or any callable that yields them."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxq.calibration.data.base import ArrayRows, Chunk
from onnxq.errors import DataError, did_you_mean
from onnxq.runtime.batch import Array

SOURCE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


@dataclass(frozen=True)
class FunctionSource:
    """Call ``make`` anew for each reading; each item it yields is one feed, as the model takes it."""

    name: str
    make: Callable[[], Iterable[Any]]
    warning: str | None = None

    def count(self) -> None:
        """Return None: only running the function can tell."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield a chunk for each feeds dict, or pair of feeds dict and labels."""
        for index, item in enumerate(self._items()):
            where = f"{self.name}, item {index}"
            feeds, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
            if not isinstance(feeds, Mapping):
                raise DataError(
                    f"yielded {type(feeds).__name__}, not a dict of arrays",
                    where=where,
                    hint="yield {input name: array}, or a pair of that and the labels",
                )
            arrays = {str(name): ArrayRows(_array(value, where)) for name, value in feeds.items()}
            marks = None if labels is None else ArrayRows(_array(labels, where))
            yield Chunk(arrays, where, marks, whole=True)

    def _items(self) -> Iterator[Any]:
        """Iterate over the user's function; whatever it raises is the user's to mend."""
        try:
            yield from self.make()
        except Exception as error:
            raise DataError(
                f"raised {type(error).__name__}: {error}",
                where=self.name,
                hint="call the function in Python to see where",
            ) from error


def _array(value: Any, where: str) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"yielded what is no array ({error})", where=where, hint="yield numpy arrays"
        ) from error


def load_function(source: str) -> Callable[[], Iterable[Any]]:
    """Return the function that ``source`` names; the working folder is searched last.

    Raises:
        DataError: The module cannot be imported or has no such function.

    """
    module_name, name = source.split(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(
            f"cannot import {module_name} ({type(error).__name__}: {error})",
            where=source,
            hint="run onnxq where `import` finds the module, or set PYTHONPATH",
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise DataError(
            f"{module_name} has no function {name!r}", where=source, hint=did_you_mean(name, known)
        )
    return function  # type: ignore[no-any-return]
