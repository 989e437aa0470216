"""The manifest: how a model was compiled, and all that repeats it, but for the model and the data.

Ranges and means are in it, so that most recipes need no data again. Sampled rows and Gram matrices are not: a
recipe with a pass that reads some repeats on the same data.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveInt, ValidationError

from onnxq.errors import InputError, ModelError
from onnxq.passmanager.left_in_float import LeftInFloat
from onnxq.passmanager.precision import Assigned
from onnxq.passmanager.summary import PassSummary
from onnxq.processor import find_processor
from onnxq.reading import parse_json
from onnxq.recipe import Recipe
from onnxq.target import TARGETS
from onnxq.written import Accuracy, Kernels, Latency, Reached, Table, Tried, Tuned

SCHEMA_VERSION = 1
_NAME_ONE = "name the .manifest.json beside a compiled model"
_AGAIN = "compile the model again; another version of onnxq may know more keys"
_MOVE_AWAY = "compile the model again, or move the file away"
PACKAGES = ("onnxq", "onnx", "onnx-ir", "onnxscript", "numpy", "ml-dtypes")


def _plain_name(name: str) -> str:
    """Refuse a name that would lead into another folder."""
    if not name or name != Path(name).name or "\0" in name:
        raise ValueError("no name of a file")
    return name


def _with_onnxq(versions: dict[str, str]) -> dict[str, str]:
    """Refuse versions of who knows what."""
    if "onnxq" not in versions:
        raise ValueError("the version of onnxq is missing")
    return versions


class ModelFile(BaseModel):
    """One model file: its name, the SHA-256 of its content, and its size with external data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_plain_name)]
    digest: str
    size_bytes: PositiveInt


class DataUsed(BaseModel):
    """What data the ranges were measured on.

    ``measured`` counts the values that this compilation measured, in its trials too, and ``recalled`` those
    that earlier ones had.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    samples: int
    measured: int = 0
    recalled: int = 0


class ProcessorAssumed(BaseModel):
    """The processor that the model was compiled for, and what its products of 8-bit integers do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    saturates: bool
    summary: str

    @classmethod
    def called(cls, name: str) -> ProcessorAssumed:
        """Return what is assumed of the processor of this name; see ``onnxq.processor``."""
        found = find_processor(name)
        return cls(name=found.name, saturates=found.saturates, summary=found.summary)


class Manifest(BaseModel):
    """Recipe, digests, versions, records and reports of one compilation.

    ``session_options`` are the session configuration entries that the model's fast kernels ask for;
    ``cpu_flags`` the features of the processor that compiled it, and ``processor`` what it was compiled for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    recipe: Recipe
    source: ModelFile
    output: ModelFile
    opsets: dict[str, int]
    ir_version: int
    session_options: dict[str, str] = {}
    data: DataUsed | None
    table: Table | None
    versions: Annotated[dict[str, str], AfterValidator(_with_onnxq)]
    cpu_flags: tuple[str, ...]
    processor: ProcessorAssumed | None = None
    passes: tuple[PassSummary, ...]
    choices: tuple[Tried, ...] | None = None
    precision: tuple[Assigned, ...] = ()
    floats: tuple[LeftInFloat, ...] = ()
    tuning: tuple[Tuned, ...] | None = None
    frontier: tuple[Reached, ...] | None = None
    accuracy: Accuracy | None
    latency: Latency | None
    kernels: Kernels | None
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Return the manifest as indented JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=1) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        InputError: The file cannot be read, holds something else, is damaged, or is of another version.
        CalibrationError: The table in it is damaged.

    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise InputError("it is no manifest", where=str(path), hint=_NAME_ONE) from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise InputError("it is no manifest", where=str(path), hint=_NAME_ONE)
    if content["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"its schema version is {content['schema_version']!r}, and this onnxq reads {SCHEMA_VERSION}",
            where=str(path),
            hint="read it with the onnxq that wrote it, or compile the model again",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError(f"the manifest is damaged: {_fault(error)}", where=str(path), hint=_AGAIN) from error


def _fault(error: ValidationError) -> str:
    """Return the first fault that was found, as one clause."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"there is no key {key!r}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}"
    return f"{key}: {first['msg']}"


def manifest_path(model: Path) -> Path:
    """Return where the manifest of a compiled model lies."""
    return _beside(model, ".manifest.json")


def session_options_beside(model: Path) -> dict[str, str]:
    """Return the session configuration entries that a manifest beside ``model`` names; none without one.

    Raises:
        ModelError: The manifest cannot be read, or names others than onnxq's targets ask for.

    """
    path = manifest_path(model)
    if not path.is_file():
        return {}
    try:
        asked = dict(parse_json(path.read_text(encoding="utf-8")).get("session_options", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            "this is no manifest, and it may name what the model beside it wants to be run with",
            where=str(path),
            hint=_MOVE_AWAY,
        ) from error
    known = [entry for target in TARGETS.values() for entry in target.session_entries]
    for key, value in asked.items():
        if (key, value) not in known:  # a list: a damaged manifest may hold what has no hash
            raise ModelError(
                f"it asks for the session entry {key}={value}, which no target of onnxq does",
                where=str(path),
                hint=_MOVE_AWAY,
            )
    return asked


def report_path(model: Path) -> Path:
    """Return where the report of a compiled model lies."""
    return _beside(model, ".report.md")


def failed_path(model: Path) -> Path:
    """Return the folder for what a failed compilation leaves to look at."""
    return _beside(model, ".failed")


def _beside(model: Path, suffix: str) -> Path:
    """Only ``.onnx`` gives way: ``net.int8`` and ``net.fp16`` are two models."""
    return model.with_name(model.name.removesuffix(".onnx") + suffix)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide what is built."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
