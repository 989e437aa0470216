"""Names that somebody else gave, as text: on the terminal, in Markdown, in HTML and in charts.

Names of files, nodes and values may hold anything: line ends, colours of the terminal, marks that turn the
direction of writing, Markdown, HTML. Everything that is shown goes through one of these functions.
"""

from __future__ import annotations

import html
import json
import re

_MARKDOWN = re.compile(r"([\\`*\[\]<>|~&]|(?<![^\W_])_|_(?![^\W_]))")
"""What Markdown reads as more than itself; an underscore within a word is only itself."""


def printable(text: str) -> str:
    r"""Return ``text`` on one line, with what is not seen, or does more than being seen, as ``\u202e``."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def lines(text: str) -> str:
    """Return ``text`` with its own line ends, each line as ``printable`` has it."""
    return "\n".join(map(printable, text.split("\n")))


def markdown(text: str) -> str:
    """Return ``text`` for a paragraph or a table of Markdown, where it shows as it is."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def markdown_block(text: str) -> str:
    """Return ``text`` as a block of code, in a fence longer than any within it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{lines(text)}\n{fence}"


def escape(text: str) -> str:
    """Return ``text`` for HTML, within elements and quoted attributes; plotly's labels are HTML, too."""
    return html.escape(printable(text))


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
