"""Instruments: what watches a pipeline from outside, pass by pass."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from onnxq.errors import PassError, VerifyError
from onnxq.files import write_errors
from onnxq.ir.digest import changed_nodes, graph_state
from onnxq.ir.module import GraphModule
from onnxq.ir.text import render
from onnxq.ir.verify import check_nodes, check_operators, verify
from onnxq.overwriting import DUMP, refuse_overwriting
from onnxq.passmanager.base import Pass, PassRecord

DUMP_ELIDES_ABOVE = 64
"""Weights with more elements than this are shown by digest in what people read."""


class Instrument:
    """Watches a pipeline; each method does nothing until it is overridden."""

    def allows(self, pass_: Pass, index: int) -> bool:
        """Tell, before the pipeline starts, whether this pass shall run."""
        return True

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Look at the module just before a pass, its facts measured."""

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Look at the module just after a pass, and at what the pass says it did."""

    def failed(self, module: GraphModule, pass_: Pass, index: int, error: PassError) -> None:
        """Look at what a failed pass left, and add to the error."""

    def ended(self) -> None:
        """Let go of what was kept while passes ran, as all have."""


@dataclass
class VerifyEach(Instrument):
    """Checks the module before and after each pass, and that the Editor made every change."""

    _state: tuple[Hashable, ...] = field(default=(), init=False)

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Verify the graph that the pipeline begins with; later ones are those of the pass before."""
        if not self._state:
            verify(module)
            self._state = graph_state(module)

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Verify; onnx's checker looks at what has changed, if the pass says that something has."""
        old, self._state = self._state, graph_state(module)
        if record.edits:
            verify(module)
            changed = changed_nodes(module, old, self._state)
            if changed is None:
                check_operators(module)
            else:
                check_nodes(module, changed)
        elif old != self._state:
            raise VerifyError("the pass changed the graph behind the Editor's back")


@dataclass
class Count(Instrument):
    """Tells, before each pass, how many are done."""

    tell: Callable[[int], None]

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Tell."""
        self.tell(index)


@dataclass
class PrintAfter(Instrument):
    """Prints the module after one pass, or after each.

    Args:
        name: The pass's name; ``all`` for each.
        stream: Where to; standard error by default.

    """

    name: str = "all"
    stream: IO[str] | None = None

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Print, with large weights by digest."""
        if self.name in ("all", pass_.name):
            text = render(module, elide_above=DUMP_ELIDES_ABOVE)
            print(f"# after pass {index + 1}: {record.text}\n{text}", file=self.stream or sys.stderr)


@dataclass
class DumpTo(Instrument):
    """Writes the module after each pass to ``NNN-pass-name.onnxtxt``.

    Args:
        folder: Where to; it is created.

    """

    folder: Path

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Write, with large weights by digest.

        Raises:
            InputError: The folder cannot be made or written, or the file is there and no dump.

        """
        text = render(module, elide_above=DUMP_ELIDES_ABOVE)
        path = self.folder / f"{index + 1:03}-{pass_.name}.onnxtxt"
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            refuse_overwriting(path, DUMP)
            path.write_text(f"# after pass {index + 1}: {record.text}\n{text}", encoding="utf-8")


@dataclass
class BisectLimit(Instrument):
    """Lets only the first passes run.

    Args:
        limit: How many.
        skipped: The passes that did not run, as pipeline text.

    """

    limit: int
    skipped: list[str] = field(default_factory=list)

    def allows(self, pass_: Pass, index: int) -> bool:
        """Tell whether the pass is one of the first, and note it if not."""
        if index >= self.limit:
            self.skipped.append(str(pass_))
        return index < self.limit
