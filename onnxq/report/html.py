"""Tables as HTML, for notebooks and pages."""

from __future__ import annotations

from collections.abc import Iterable

from onnxq.report.tables import Table
from onnxq.report.words import escape


def tables_html(tables: Iterable[Table]) -> str:
    """Return the tables, each under its title; their looks are left to the page."""
    return "\n".join(table_html(table) for table in tables if table.rows)


def table_html(table: Table) -> str:
    """Return one table; numbers are aligned to the right."""
    head = "".join(_cell("th", text, place, table) for place, text in enumerate(table.columns))
    body = "\n".join(
        f"<tr>{''.join(_cell('td', text, place, table) for place, text in enumerate(row))}</tr>"
        for row in table.rows
    )
    return (
        f"<table><caption>{escape(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>"
    )


def _cell(tag: str, text: str, place: int, table: Table) -> str:
    side = "left" if place < table.text_columns else "right"
    return f'<{tag} style="text-align:{side}">{escape(text)}</{tag}>'
