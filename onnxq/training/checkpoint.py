"""Training that was stopped goes on where it was: all of its state in one file, replaced as a whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from onnxq.errors import InputError
from onnxq.files import write_errors
from onnxq.training.fitting import Check, Fitting
from onnxq.training.learned import Array

NAME = "training.npz"


def save(fitting: Fitting, folder: Path, run: str) -> None:
    """Write the state of training.

    Args:
        fitting: What is saved.
        folder: Where to; it is made.
        run: What tells this training from any other: only the same goes on from it.

    Raises:
        InputError: It cannot be written.

    """
    told = {"run": run, "step": fitting.step, "checks": [asdict(check) for check in fitting.checks]}
    path, new = folder / NAME, folder / f".{NAME}.new"
    with write_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            np.savez(file, allow_pickle=False, told=np.array(json.dumps(told)), **_keyed(fitting))
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)


def resume(fitting: Fitting, folder: Path, run: str) -> bool:
    """Let training go on where it was saved; return whether there was anything.

    Raises:
        InputError: What was saved is that of other training, or damaged.

    """
    path = folder / NAME
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as saved:
            told = json.loads(str(saved["told"]))
            if told["run"] != run:
                raise InputError(
                    "this is a checkpoint of other training",
                    where=str(path),
                    hint="give the same model, data and options, or another --checkpoint folder",
                )
            for name, array in _keyed(fitting).items():
                array[...] = saved[name]
    except (BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError("it is damaged", where=str(path), hint="remove it, and train again") from error
    fitting.step = int(told["step"])
    fitting.checks = [Check(**check) for check in told["checks"]]
    for one in fitting.learned:
        one.refresh()
    return True


def _keyed(fitting: Fitting) -> dict[str, Array]:
    """Return the arrays by names that any archive takes."""
    return {f"array {number}": array for number, array in enumerate(fitting.state().values())}
