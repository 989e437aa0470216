"""onnxq verify: whether a compiled model does here what its manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import DataSettings, Json, Threads
from onnxq.cli.report import ManifestFile

if TYPE_CHECKING:
    from onnxq.verification import Verification

Source = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="MODEL",
        help="The model that was compiled; else the file of its name beside the manifest.",
        show_default=False,
    ),
]


def run(
    manifest: ManifestFile,
    *,
    source: Source = None,
    reading: DataSettings,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Hold a compiled model against its manifest, on this machine.

    Are these the files, can products saturate here, does it run in integers, is it as exact and faster
    than its source? The exit code is 1 if something is not so.
    """
    from onnxq.manifest import read_manifest
    from onnxq.verification import require_verified, source_of, verify

    original = source_of(manifest, read_manifest(manifest), source)
    with progress() as on_progress:
        found = verify(manifest, original, reading.open(original), threads=threads, on_progress=on_progress)
    _present(found, as_json=as_json)
    require_verified(found)


def _present(found: Verification, *, as_json: bool) -> None:
    from onnxq.report.tables_of_verification import verification_table
    from onnxq.report.text import draw

    if as_json:
        show_json("verify", found.to_dict())
        return
    show(draw(verification_table(found)))
    for warning in found.warnings:
        remark(warning, "warning")
