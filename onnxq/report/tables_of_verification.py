"""The table of what was found of a compiled model on this machine."""

from __future__ import annotations

from onnxq.report.tables import Table
from onnxq.verification import Verification

_VERDICTS = {True: "ok", False: "NO", None: "-"}


def verification_table(found: Verification) -> Table:
    """Return a row for each check: what the manifest says, what was found here, and whether that will do."""
    rows = tuple((one.name, one.told, one.found, _VERDICTS[one.holds]) for one in found.checks)
    return Table("Here", ("what", "manifest", "here", ""), rows, text_columns=4)
