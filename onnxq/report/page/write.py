"""Putting a page together: our own script and style, plotly's script, and the data."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxq.diff.drawn import Picture
from onnxq.files import write_whole
from onnxq.report.page.layout import extra
from onnxq.report.page.levels import levels_of
from onnxq.report.tables import Table
from onnxq.report.words import escape, printable
from onnxq.runtime.compare import plain

SCHEMA = 1
SCRIPTS = ("colours.js", "graph.js", "panel.js", "tables.js", "page.js")


def write_page(
    path: Path,
    title: str,
    *,
    kind: str,
    facts: Sequence[tuple[str, str]] = (),
    picture: Picture | None = None,
    tables: Sequence[Table] = (),
    charts: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write one HTML file that needs nothing else, whole or not at all.

    Args:
        path: Where to.
        title: What stands at its top.
        kind: ``diff``, ``inspect`` or ``report``.
        facts: A few things to see at once: a word and a value each.
        picture: Nodes and edges.
        tables: What the page lists.
        charts: Each with a ``title``, plotly's ``data`` and ``layout``, and perhaps a ``note``.

    Raises:
        TargetError: The extra is not installed.
        InputError: The file cannot be written.

    """
    content = {
        "schema": SCHEMA,
        "kind": kind,
        "title": printable(title),
        "facts": _shown(facts),
        "picture": None if picture is None else _shown(_laid_out(picture)),
        "tables": [_shown(_table(table)) for table in tables if table.rows],
        "charts": charts,
    }
    write_whole(path, _page(title, content))


def _page(title: str, content: Mapping[str, Any]) -> str:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "TITLE": escape(title),
        "STYLE": _own("page.css"),
        "SCRIPT": "\n".join(map(_own, SCRIPTS)),
        "PLOTLY": _plotly(),
        "DATA": text,
    }
    page = _own("page.html")
    for key, part in parts.items():
        page = page.replace(f"{{{{{key}}}}}", part, 1)
    return page


def _shown(content: Any) -> Any:
    """Return ``content`` with all its texts as they are shown; charts have escaped theirs already."""
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, Mapping):
        return {key: _shown(part) for key, part in content.items()}
    return [_shown(part) for part in content] if isinstance(content, list | tuple) else content


def _laid_out(picture: Picture) -> dict[str, Any]:
    levels = levels_of(picture.nodes, [(source, target) for source, target, _ in picture.edges])
    return dict(plain({**asdict(picture), "levels": [asdict(level) for level in levels]}))


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "columns": table.columns, "text": table.text_columns, "rows": table.rows}


def _own(name: str) -> str:
    return files("onnxq.report.page").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return plotly's script, packed; it is unpacked when the first chart is drawn."""
    extra("plotly")
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode("ascii")
