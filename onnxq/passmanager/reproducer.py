"""The reproducer: the text file that a failed pass leaves behind, which is a golden case."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import onnx_ir as ir

from onnxq.errors import InputError, PassError
from onnxq.ir.knowledge import note_facts
from onnxq.ir.module import GraphModule
from onnxq.ir.text import render
from onnxq.overwriting import REPRODUCER, refuse_overwriting
from onnxq.passmanager.base import Pass, PassRecord
from onnxq.passmanager.instruments import Instrument
from onnxq.passmanager.precision import Precision
from onnxq.quant.facts import Facts
from onnxq.target import Target

ELIDES_ABOVE = 4096
"""Larger weights become seeded random numbers of the same dtype, shape and range when it is read."""


@dataclass
class Reproducer(Instrument):
    """On failure, writes the failing pass and the module just before it to a file.

    The file is runnable, and a golden case: it names the pass, and holds the encodings, the facts
    that the pass needs, and the graph. The error gets its path. It should be the first
    of the instruments, so that it has its copy before another one fails.

    Args:
        folder: Where to; it is created when needed.
        target: The pipeline's target.
        precision: What the recipe assigns by name.

    """

    folder: Path
    target: Target
    precision: Precision = field(default_factory=Precision)
    _copy: GraphModule | None = field(default=None, init=False)
    _source: ir.Model | None = field(default=None, init=False)
    _facts: dict[str, Facts] = field(default_factory=dict, init=False)

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Keep a copy; it shares the weights."""
        needed = {need.value for need in pass_.needs(module)}
        known = module.facts() if needed else {}
        self._facts = {name: facts for name, facts in known.items() if name in needed}
        if self._copy is None or self._source is not module.model:
            self._source, self._copy = module.model, module.clone()

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Let the copy go, unless the pass changed nothing, as most passes do."""
        if record.edits:
            self._source = self._copy = None

    def ended(self) -> None:
        """Let the copy go."""
        self._source = self._copy = None
        self._facts = {}

    def failed(self, module: GraphModule, pass_: Pass, index: int, error: PassError) -> None:
        """Write the file, if it can be written, and tell the error where it is."""
        target = [f"# TARGET: {self.target.name}", f"# PROCESSOR: {self.target.processor.name}"]
        named = asdict(self.precision.spelled_out(module))
        assigned = [f"# PRECISION: {json.dumps(named)}"] if any(named.values()) else []
        head = [f"# RUN: {pass_}", *target, *assigned, "# SHOW: types"]
        text = render(self._shown() or module, elide_above=ELIDES_ABOVE)
        head.append(f"# ERROR: {error.message.splitlines()[0]}")
        path = self.folder / f"{index + 1:03}-{pass_.name}.onnxtxt"
        with suppress(OSError, InputError):
            self.folder.mkdir(parents=True, exist_ok=True)
            refuse_overwriting(path, REPRODUCER)
            path.write_text("\n".join([*head, text]), encoding="utf-8")
            error.reproducer = path

    def _shown(self) -> GraphModule | None:
        """Return the copy with the facts that the pass needs, and no others."""
        for name, value in {} if self._copy is None else self._copy.by_name().items():
            facts = self._facts.get(name)
            note_facts(value, None if facts is None else facts.thinned(ELIDES_ABOVE))
        return self._copy
