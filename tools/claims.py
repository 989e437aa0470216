"""Claims: what README and docs say in numbers, and the measured cells that each of them repeats."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.]*\d)")
"""A number as people write it; not a part of a name such as ``int8`` or ``resnet20``."""
WITH_UNIT = re.compile(r"(?<![\w.])\d+(?:\.\d+)?\s?(?:x|%|dB|kB|MB|GB|ms|points)(?![\w])")
"""A number that was measured, as its unit tells."""
IN_A_TABLE = re.compile(r"^\|.*\|[ *]*\d+\.\d+")
"""A row of a table with a number that is no count."""
FENCE = "```"
LOWER_IS_BETTER = frozenset({"ms", "MB", "kB", "drop", "compile s", "max diff", "seconds", "peak MB"})


@dataclass(frozen=True)
class Cell:
    """One number of a measurement.

    Args:
        table: What stands above the table; empty for the first with such a row and column.
        row: What stands in the row's first cell.
        column: The header above the number.

    """

    table: str
    row: str
    column: str


@dataclass(frozen=True)
class Claim:
    """One line of a page, and where its numbers were measured.

    Args:
        page: The page's path in the repository.
        text: What the line begins with; no other line of the page does.
        file: The measurement, in ``docs/measurements``.
        cells: Where each number behind ``text`` comes from, in their order.
        peer: Whether the line tells of another tool, which must not look worse than it is.

    """

    page: str
    text: str
    file: str
    cells: tuple[Cell, ...]
    peer: bool


@dataclass(frozen=True)
class Output:
    """A block of a page that shows what a command printed, line by line; ``...`` stands for lines left out.

    Args:
        page: The page's path in the repository.
        begins: Its first line.
        file: The measurement, in ``docs/measurements``.

    """

    page: str
    begins: str
    file: str

    def block(self, page: str) -> list[str]:
        """Return the lines of the block.

        Raises:
            LookupError: The page has no such block.

        """
        lines = [line.rstrip() for line in page.splitlines()]
        if self.begins not in lines:
            raise LookupError(f"{self.page}: no line {self.begins!r}")
        first = lines.index(self.begins)
        return lines[first : lines.index(FENCE, first)]

    def departures(self, page: str, measured: str) -> list[str]:
        """Return the lines of the block that the command did not print."""
        printed = {line.rstrip() for line in measured.splitlines()} | {"...", ""}
        return [line for line in self.block(page) if line not in printed]


@dataclass(frozen=True)
class Finding:
    """One number of a claim beside what was measured.

    Args:
        claim: The line.
        cell: Where the number comes from.
        said: The number as it is written.
        measured: The number that was measured; None where the table has no such cell.

    """

    claim: Claim
    cell: Cell
    said: Decimal
    measured: Decimal | None

    @property
    def repeats(self) -> bool:
        """Whether the text is what was measured, rounded to the digits that it shows."""
        return self.measured is not None and round_like(self.measured, self.said) == self.said

    def flatters(self, slack: float = 0.0) -> bool:
        """Tell whether the text is better than the measurement by more than a part ``slack`` of it.

        For a peer's line it tells whether the text is worse. A half of the last digit shown is rounding.
        """
        if self.measured is None:
            return True
        ahead = self.said - self.measured
        if (self.cell.column in LOWER_IS_BETTER) != self.claim.peer:
            ahead = -ahead
        rounding = Decimal(1).scaleb(int(self.said.as_tuple().exponent)) / 2
        return ahead > rounding + abs(self.measured) * Decimal(slack)


def load_claims(path: Path) -> tuple[list[Claim], list[Output], list[str]]:
    """Return claims and outputs, and the beginnings of lines whose numbers are examples and no claims."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    claims = [_claim(entry) for entry in content["claim"]]
    outputs = [Output(**entry) for entry in content["output"]]
    return claims, outputs, [str(line) for line in content["examples"]["lines"]]


def _claim(entry: dict[str, Any]) -> Claim:
    """Read one entry: ``cells``, each by table, row and column, or the product of the three."""
    tables = entry.get("tables", [""])
    named = entry.get("cells") or product(tables, entry["rows"], entry["columns"])
    cells = tuple(Cell(*names) for names in named)
    return Claim(entry["page"], entry["text"], entry["file"], cells, entry.get("peer", False))


def check(claim: Claim, page: str, measured: str) -> Iterator[Finding]:
    """Yield each number of a claim beside the measurement's.

    Args:
        claim: What is checked.
        page: The text of its page.
        measured: What the measuring command printed.

    Raises:
        LookupError: The page has no such line or more than one, or not as many numbers as cells.

    """
    lines = [line for line in page.splitlines() if line.strip().startswith(claim.text)]
    if len(lines) != 1:
        raise LookupError(f"{claim.page}: {len(lines)} lines begin with {claim.text!r}")
    numbers = NUMBER.findall(lines[0].strip().removeprefix(claim.text).replace("**", ""))
    if len(numbers) != len(claim.cells):
        raise LookupError(
            f"{claim.page}: {claim.text!r} has {len(numbers)} numbers, {len(claim.cells)} cells"
        )
    for number, cell in zip(numbers, claim.cells, strict=True):
        found = find_cell(measured, cell)
        value = NUMBER.search(found) if found is not None else None
        yield Finding(claim, cell, Decimal(number), Decimal(value[0]) if value else None)


def find_cell(text: str, cell: Cell) -> str | None:
    """Return what stands in a cell of a printed table; None if there is none.

    A table is a line of headers and the rows below it, up to an empty line. Columns are two blanks or more
    apart, and headers and cells end or begin at the same place.
    """
    for title, lines in _tables(text):
        headers = _columns(lines[0])
        if cell.table not in title or cell.column not in headers.values():
            continue
        for line in lines[1:]:
            found = _columns(line)
            if next(iter(found.values())) == cell.row:
                return _below(headers, found, cell.column)
    return None


def _tables(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each table with the line above it."""
    title, lines = "", list[str]()
    for line in [*text.splitlines(), ""]:
        if line.strip():
            lines.append(line)
            continue
        if lines and len(_columns(lines[0])) == 1 and len(lines) > 1:
            title, lines = lines[0], lines[1:]
        if len(lines) > 1:
            yield title, lines
        elif lines:
            title = lines[0]
        lines = []


def _columns(line: str) -> dict[tuple[int, int], str]:
    """Return what a line holds, by where it begins and ends."""
    return {match.span(): match[0] for match in re.finditer(r"\S+(?: \S+)*", line)}


def _below(headers: dict[tuple[int, int], str], found: dict[tuple[int, int], str], column: str) -> str | None:
    begin, end = next(place for place, header in headers.items() if header == column)
    return next((text for (first, last), text in found.items() if first == begin or last == end), None)


def round_like(value: Decimal, shown: Decimal) -> Decimal:
    """Return ``value`` with as many decimals as ``shown`` has."""
    return value.quantize(Decimal(1).scaleb(int(shown.as_tuple().exponent)))


def unclaimed(page: str, text: str, claims: Sequence[Claim], examples: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a page that have measured numbers and belong to no claim and no example."""
    known = (*(claim.text for claim in claims if claim.page == page), *examples)
    for line in text.splitlines():
        if (WITH_UNIT.search(line) or IN_A_TABLE.search(line)) and not line.strip().startswith(known):
            yield line.strip()
