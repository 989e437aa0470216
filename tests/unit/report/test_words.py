"""Names are shown as text, wherever they are shown."""

import json
import re
from pathlib import Path

import pytest

from onnxq.cli.console import remark, show, show_error, show_json
from onnxq.errors import ModelError
from onnxq.report.html import table_html
from onnxq.report.markdown import table_text
from onnxq.report.tables import Table
from onnxq.report.text import draw
from onnxq.report.words import escape, lines, markdown, markdown_block, printable

NASTY = (
    "a\r\r# Injected\n\x1b[31mred\x1b[0m \N{RIGHT-TO-LEFT OVERRIDE}txt.exe <script>alert(1)</script> "
    "![t](http://127.0.0.1/t.png) [red]x[/] | `code` \udcff &amp;"
)
TABLE = Table("Of " + NASTY, ("name", "number"), ((NASTY, "1"),))


def test_what_is_not_seen_is_written_out() -> None:
    assert printable("encoder/layer.0 größe 模型") == "encoder/layer.0 größe 模型"
    shown = printable(NASTY)
    assert shown.isprintable()
    assert shown.startswith(r"a\r\r# Injected\n\u001b[31mred\u001b[0m \u202etxt.exe <script>")
    assert "\\udcff" in shown


def test_own_line_ends_stay() -> None:
    assert lines("a\nb\x1b") == "a\nb\\u001b"


def test_markdown_shows_a_name_as_it_is() -> None:
    assert markdown("layer_norm.weight_q") == "layer_norm.weight_q"
    assert markdown("_x_ a*b") == r"\_x\_ a\*b"
    assert markdown("![t](u) <b> | `c`") == r"!\[t\](u) \<b\> \| \`c\`"
    assert "\n" not in markdown(NASTY)
    assert not re.search(r"(?<!\\)[<>|`\[\]&]", markdown(NASTY))


def test_a_block_of_code_ends_where_it_shall() -> None:
    assert markdown_block("a\n````\nb") == "`````\na\n````\nb\n`````"


def test_html_shows_a_name_as_it_is() -> None:
    assert escape('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"
    assert "<script>" not in table_html(TABLE)
    assert "\x1b" not in table_html(TABLE)


def test_a_table_of_markdown_has_one_line_for_each_row() -> None:
    text = table_text(TABLE)
    assert len(text.split("\n")) == 5
    assert text.isascii()
    assert "\r" not in text
    assert "<script>" not in text
    assert "![" not in text


def test_the_terminal_gets_no_controls(capsys: pytest.CaptureFixture[str]) -> None:
    show(draw(TABLE), NASTY)
    show_error(ModelError(NASTY, where=NASTY, hint=NASTY))
    remark(NASTY)
    out, err = capsys.readouterr()
    assert out.replace("\n", "").isprintable()
    assert err.replace("\n", "").isprintable()
    assert len(err.splitlines()) == 3
    assert "[red]x[/]" in err


def test_json_is_ascii_and_knows_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    show_json("inspect", {"name": NASTY, "scale": float("inf")})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"schema": 1, "command": "inspect", "name": NASTY, "scale": None}


def test_a_page_and_its_title_show_names_as_text(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from onnxq.report.page.write import write_page

    write_page(tmp_path / "p.html", NASTY, kind="inspect", tables=[TABLE])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "\x1b" not in page
    (title,) = re.findall("<title>(.*)</title>", page)
    assert title == escape(NASTY)
