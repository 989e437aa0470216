"""Running a pipeline: measuring what passes need, watching them, and keeping records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from onnxq.errors import CalibrationError, OnnxqError, PassError
from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.base import Kernels, Measure, Pass, PassContext, PassRecord, Runtime
from onnxq.passmanager.instruments import Instrument
from onnxq.passmanager.memo import Memo
from onnxq.passmanager.precision import Precision
from onnxq.progress import Progress, quiet
from onnxq.quant.facts import Need, meets
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.keeping import Keeper
from onnxq.target import Target

Asked = Callable[[GraphModule], Iterable[Need]]
"""What a pass names of a module."""


@dataclass
class PassManager:
    """Runs passes in order over one module.

    Args:
        passes: The pipeline.
        target: Where the model shall run.
        instruments: What watches; called in this order.
        measure: Where facts come from; without it, passes that need any fail.
        seed: The seed of every pass's random numbers, together with its place.
        kernels: What the runtime at hand has, for passes that raise the operator set.
        memo: What passes computed in earlier builds.
        precision: What the recipe assigns to layers and values by name.
        foreseen: Passes of builds to come; what they will want of the same graph is measured with the rest.
        runtime: Runs graphs on the calibration data, for passes that learn.
        progress: Told how far a pass is that takes long.

    """

    passes: Sequence[Pass]
    target: Target
    instruments: Sequence[Instrument] = ()
    measure: Measure | None = None
    seed: int = 0
    kernels: Kernels | None = None
    memo: Memo = field(default_factory=Memo)
    precision: Precision = field(default_factory=Precision)
    foreseen: Sequence[Pass] = ()
    runtime: Runtime | None = None
    progress: Progress = quiet

    def run(self, module: GraphModule, start: int = 0) -> list[PassRecord]:
        """Run the passes on ``module``, in place, and return what each did.

        Args:
            module: The graph; it is changed.
            start: How many passes ran on it already.

        Raises:
            PassError: A pass failed or broke a promise; ``where`` names the pass and its place.
            CalibrationError: A pass needs facts and there is no data.
            OnnxqError: Anything that a pass or the measurement says about the caller's side.

        """
        planned = [
            (index, pass_)
            for index, pass_ in enumerate(self.passes)
            if index >= start and all(instrument.allows(pass_, index) for instrument in self.instruments)
        ]
        with threadpool_limits(1, "blas"):
            records = list(self._run_all(module, planned))
        for instrument in self.instruments:
            instrument.ended()
        _require_realised(module, [pass_ for _, pass_ in planned])
        return records

    def _run_all(self, module: GraphModule, planned: Sequence[tuple[int, Pass]]) -> Iterator[PassRecord]:
        """Run one pass after the other; products of matrices use one thread.

        So their last bits do not depend on the processor's cores, and they leave ONNX Runtime its own.
        """
        keeper = Keeper(module)
        for position, (index, pass_) in enumerate(planned):
            self._measure_for(module, planned[position:])
            with self._guarded(module, pass_, index):
                for instrument in self.instruments:
                    instrument.before(module, pass_, index)
                record = self._run_one(module, pass_, index, keeper)
                for instrument in self.instruments:
                    instrument.after(module, pass_, index, record)
            yield record

    @property
    def makes_integers(self) -> bool:
        """Whether what layers read is quantized to 8 bits, by a pass or because it is assigned so."""
        return self.precision.makes_integers or any(one.makes_integers for one in self.passes)

    def _run_one(self, module: GraphModule, pass_: Pass, index: int, keeper: Keeper) -> PassRecord:
        editor = Editor(module, keeper=keeper)
        context = PassContext(
            editor,
            self.target,
            np.random.default_rng([self.seed, index]),
            self.measure,
            integers=self.makes_integers,
            kernels=self.kernels,
            memo=self.memo,
            precision=self.precision,
            runtime=self.runtime,
            progress=self.progress,
        )
        start = time.perf_counter()
        pass_.run(module, context)
        seconds = time.perf_counter() - start
        if editor.edits:
            editor.settle()
        return PassRecord(str(pass_), seconds, tuple(editor.edits), tuple(editor.remarks))

    def _measure_for(self, module: GraphModule, planned: Sequence[tuple[int, Pass]]) -> None:
        """Measure what the first of these passes lacks, and in the same run what the others will."""
        index, pass_ = planned[0]
        wanted = self._unmet(module, pass_.needs, pass_, index)
        if not wanted:
            return
        if self.measure is None:
            raise CalibrationError(
                "the pass needs measured ranges, and there is no data",
                where=place_of(pass_, index),
                hint="give calibration data, or choose a pipeline that needs none",
            )
        free = module.undecided() if self.foreseen else module
        wanted += [need for at, one in planned for need in self._unmet(module, one.foresees, one, at)]
        for one in self.foreseen:  # at its turn, all or nothing may be decided
            for then in (module, free):
                wanted += self._unmet(then, one.foresees, one, index)
        module.learn(self.measure(module, list(dict.fromkeys(wanted))))

    def _unmet(self, module: GraphModule, asked: Asked, pass_: Pass, index: int) -> list[Need]:
        with self._guarded(module, pass_, index):
            needs = list(asked(module))
            known = module.facts() if needs else {}
            return [need for need in needs if not meets(known, need)]

    @contextmanager
    def _guarded(self, module: GraphModule, pass_: Pass, index: int) -> Iterator[None]:
        """Say of each failure which pass it was, and let the instruments see it."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OnnxqError) and not isinstance(error, PassError):
                raise
            located = _located(error, place_of(pass_, index))
            for instrument in self.instruments:
                instrument.failed(module, pass_, index, located)
            raise located from error


def place_of(pass_: Pass, index: int) -> str:
    """Return how errors name a pass, counting from 1: ``pass 3 (insert-qdq)``."""
    return f"pass {index + 1} ({pass_.name})"


def _located(error: Exception, place: str) -> PassError:
    if not isinstance(error, PassError):
        return PassError(f"{type(error).__name__}: {error}", where=place)
    where = f"{place}: {error.where}" if error.where else place
    return type(error)(error.message, where=where, hint=error.hint, reproducer=error.reproducer)


def _require_realised(module: GraphModule, passes: Sequence[Pass]) -> None:
    """Require that nothing is left decided where a pass realises decisions; a pipeline may only decide.

    Raises:
        PassError: Something was decided behind the last such pass.

    """
    left = module.decisions()
    realising = [pass_.name for pass_ in passes if pass_.realises]
    if left and realising:
        raise PassError(
            "its encoding was decided, and no pass behind realises it",
            where=f"value {name_of(left[0].value)!r}",
            hint=f"put {realising[-1]} behind the passes that encode",
        )
