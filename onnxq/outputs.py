"""What a compilation writes, and that nothing is lost by it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxq.errors import InputError
from onnxq.files import require_utf8
from onnxq.ir.module import GraphModule
from onnxq.ir.store import model_files, output_files
from onnxq.manifest import manifest_path, report_path
from onnxq.overwriting import MANIFEST, MODEL, REPORT, Kind, is_same, refuse_overwriting
from onnxq.reading import parse_json

_HINT = "give another output, or replace it with --force (in Python CompileOptions(force=True))"


@dataclass(frozen=True)
class Outputs:
    """A compiled model with its manifest and its report.

    Args:
        model: Where the model goes.
        inputs: Files and folders that are being read; see ``refuse_overwriting``.
        force: Replace other files that onnxq did not write.

    """

    model: Path
    inputs: tuple[Path, ...]
    force: bool = False

    def files(self, module: GraphModule) -> tuple[Path, ...]:
        """Return the files to write with ``module`` as the model: report, manifest, perhaps data, and model.

        Raises:
            InputError: One cannot be written or opened, or would replace an input, a file that onnxq did not
                write, or another model's manifest.

        """
        require_utf8(self.model)
        manifest, report = manifest_path(self.model), report_path(self.model)
        *data, model = output_files(module, self.model)
        for path, kind in ((model, MODEL), (manifest, MANIFEST), (report, REPORT)):
            self._refuse(path, kind)
        for path in data:
            self._refuse(path, Kind("data file", lambda path: _belongs_to(path, model)))
        if not self.force:
            _refuse_the_manifest_of_another(manifest, model)
        return report, manifest, *data, model

    def _refuse(self, path: Path, kind: Kind) -> None:
        refuse_overwriting(path, kind, inputs=self.inputs, force=self.force, hint=_HINT)


def _belongs_to(data: Path, model: Path) -> bool:
    """Tell whether ``data`` holds weights of a model that onnxq wrote."""
    return model.is_file() and MODEL.wrote(model) and any(is_same(data, file) for file in model_files(model))


def _refuse_the_manifest_of_another(manifest: Path, model: Path) -> None:
    """Raise where ``net`` would take the manifest of ``net.onnx``."""
    if not manifest.is_file():
        return
    try:
        name = parse_json(manifest.read_text(encoding="utf-8"))["output"]["name"]
        other = manifest.with_name(name)
    except (ValueError, KeyError, TypeError, AttributeError):
        return
    if name != model.name and other.is_file():
        raise InputError(f"it is the manifest of {name!r}", where=str(manifest), hint=_HINT)
