"""Hold every number in README and docs to the measurement that it comes from.

A claim in docs/claims.toml names a line of a page and the cells of a printed table. The text has to repeat
them, rounded to the digits that it shows, and every line with a measured number has to belong to a claim.
With --run each measurement of this kind of processor is made again, and the text may not be better than it.
Exits with 1 where something does not hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from claims import Claim, Finding, Output, check, load_claims, unclaimed
from measure import Measurement, add_placeholders, load_measurements, run
from measuring import REPOSITORY

from onnxq.processor import at_hand

MEASURED = REPOSITORY / "docs" / "measurements"
SLACK_OF_TIMES, SLACK = 0.1, 0.005
"""How far a number may move from run to run: times on a shared machine, and all else, as rounding
differs with the processor's kernels."""
TIMES = frozenset({"speed", "ms", "compile s", "seconds"})


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    options.add_argument("--run", action="store_true", help="make the measurements again")
    options.add_argument("--only", help="one measurement's file, with its folder")
    add_placeholders(options)
    args = options.parse_args()
    claims, outputs, examples = load_claims(REPOSITORY / "docs" / "claims.toml")
    claims = [claim for claim in claims if args.only in (None, claim.file)]
    faults = [*_against_committed(claims)]
    if args.only is None:
        shown = [line for output in outputs for line in output.block(_page(output.page)) if line]
        faults += [*_against_printed(outputs), *_without_claim(claims, [*examples, *shown])]
    if args.run:
        faults += _against_new(claims, args)
    for fault in faults:
        print(fault)
    print(
        f"{len(claims)} lines with {sum(len(claim.cells) for claim in claims)} numbers, {len(faults)} faults"
    )
    return int(bool(faults))


def _against_committed(claims: Sequence[Claim]) -> Iterator[str]:
    for claim in claims:
        try:
            for finding in check(claim, _page(claim.page), (MEASURED / claim.file).read_text("utf-8")):
                if not finding.repeats:
                    yield _told(finding)
        except (LookupError, FileNotFoundError) as error:
            yield str(error)


def _against_printed(outputs: Sequence[Output]) -> Iterator[str]:
    for output in outputs:
        printed = (MEASURED / output.file).read_text(encoding="utf-8")
        for line in output.departures(_page(output.page), printed):
            yield f"{output.page}: {output.file} has no line {line!r}"


def _without_claim(claims: Sequence[Claim], examples: Sequence[str]) -> Iterator[str]:
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        page = path.relative_to(REPOSITORY).as_posix()
        for line in unclaimed(page, path.read_text(encoding="utf-8"), claims, examples):
            yield f"{page}: no claim for: {line}"


def _against_new(claims: Sequence[Claim], args: argparse.Namespace) -> Iterator[str]:
    here = at_hand().name
    measurements = {entry.file: entry for entry in load_measurements()}
    for file in sorted({claim.file for claim in claims}):
        folder, _, name = file.rpartition("/")
        if folder != here:
            print(f"{file}: measured on {folder}, this is {here}")
            continue
        yield from _again(measurements[name], [claim for claim in claims if claim.file == file], args)


def _again(measurement: Measurement, claims: Sequence[Claim], args: argparse.Namespace) -> Iterator[str]:
    text = run(measurement, args)
    for claim in claims:
        for finding in check(claim, _page(claim.page), text):
            if finding.flatters(SLACK_OF_TIMES if finding.cell.column in TIMES else SLACK):
                yield f"made again: {_told(finding)}"


def _told(finding: Finding) -> str:
    cell = f"{finding.claim.file}, {finding.cell.row!r}, {finding.cell.column!r}"
    return f"{finding.claim.page}: {finding.claim.text!r} says {finding.said}, {cell} has {finding.measured}"


def _page(page: str) -> str:
    return Path(REPOSITORY, page).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
