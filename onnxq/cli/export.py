"""onnxq export: from a Hugging Face model to ONNX."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import Json

if TYPE_CHECKING:
    from onnxq.export import Exported

Source = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A model's folder, or its name on the Hub.", show_default=False),
]
Folder = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="DIR", help="A new folder for the result.", show_default=False),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task", help="Such as feature-extraction; default: what the model is for.", show_default=False
    ),
]
Opset = Annotated[
    int | None,
    typer.Option(
        "--opset", min=7, help="Version of the ONNX operators; default: optimum's.", show_default=False
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files in a folder that is not empty.")]


def run(
    model: Source,
    *,
    output: Folder,
    task: Task = None,
    opset: Opset = None,
    trust_remote_code: Trust = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Export a Hugging Face model to ONNX, through optimum.

    A local folder is exported without the network. The tokenizer's and preprocessor's
    files are kept beside the model.
    """
    from onnxq.export import export_model

    with progress() as on_progress:
        on_progress("exporting", 0, None)
        result = export_model(
            model, output, task=task, opset=opset, trust_remote_code=trust_remote_code, force=force
        )
    for text in result.remarks:
        remark(text, "warning")
    if as_json:
        show_json("export", {**asdict(result), "folder": str(result.folder)})
    else:
        _present(result)


def _present(result: Exported) -> None:
    show(f"exported for {result.task} to {result.folder}: {', '.join(result.models)}")
    if result.tolerance is not None:
        show(f"its outputs are PyTorch's to within {result.tolerance:g}")
    show(f"beside it: {', '.join(name for name in result.files if name not in result.models)}")
