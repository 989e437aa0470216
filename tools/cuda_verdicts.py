"""What check_cuda.py wants of the artifacts, and whether it was reached; unmeasured is not judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cuda_cases import (
    BERT,
    DECODER,
    FP16,
    GRAPH_BATCHES,
    IN_PLACE,
    MINILM,
    UNPACKED,
    VIT,
    WEIGHTS_4,
    WEIGHTS_8,
    WEIGHTS_FP8,
    title,
)
from cuda_prepared import Record
from cuda_timing import PLAIN

LEAST_COSINE = {FP16: 0.9999, WEIGHTS_8: 0.999}
"""What sentence embeddings must keep."""
LEAST_IN_PLACE = 2.0
"""What a cache that stays in place has to gain."""
LEAST_PACKED = {BERT: 1.25, VIT: 1.15}
"""What packed attention has to gain in small batches."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Verdicts:
    """Judges the artifacts of one model.

    Args:
        model: Its name.
        records: What is known of each without a GPU.
        rows: What was timed.

    """

    model: str
    records: Sequence[Record]
    rows: Sequence[Record]

    def all(self) -> list[Row]:
        """Return a row for each thing that is wanted and was measured."""
        return [*self._prepared(), *self._failures(), *self._speeds(), *self._beside_torch()]

    def _prepared(self) -> Iterator[Row]:
        for record in self.records:
            name = record["artifact"]
            if record.get("for_cuda"):
                told = lacking_text(record["lacking"])
                yield self._row(f"{name}: nodes without a kernel", "0", told, not record["lacking"])
            if self.model == MINILM and name in LEAST_COSINE:
                found, least = record["cosine"], LEAST_COSINE[name]
                yield self._row(f"{name}: smallest cosine", f">= {least}", f"{found:.6f}", found >= least)

    def _failures(self) -> Iterator[Row]:
        meant = {record["artifact"] for record in self.records if record.get("for_cuda")}
        for row in self.rows:
            if "failed" in row and row["artifact"] in meant:
                what = ": ".join(filter(None, (row["run"], row["artifact"], row["form"])))
                yield self._row(what, "runs", row["failed"], False)

    def _speeds(self) -> Iterator[Row]:
        times = {
            (row["run"], row["artifact"]): row for row in self.rows if row["form"] == PLAIN and "ms" in row
        }
        for run in dict.fromkeys(run for run, _ in times):
            least = 1.5 if run.startswith("batch 32") else 1.0
            yield from self._at_least(run, FP16, "fp32", times, least)
            for name in (WEIGHTS_8, WEIGHTS_4, WEIGHTS_FP8) if self.model == DECODER else ():
                least = 1.5 if name == WEIGHTS_4 and run.startswith("batch 1,") else 1.0
                yield from self._at_least(run, name, FP16, times, least)
            if self.model == DECODER and run in self._small_batches:
                yield from self._at_least(run, IN_PLACE, FP16, times, LEAST_IN_PLACE)
            if self.model in LEAST_PACKED and run in self._small_batches:
                yield from self._at_least(run, FP16, UNPACKED, times, LEAST_PACKED[self.model])

    def _beside_torch(self) -> Iterator[Row]:
        """Compare the fastest form of float16 with PyTorch's fastest."""
        for run in self._small_batches:
            rows = [row for row in self.rows if row["run"] == run and "ms" in row]
            own = [row["ms"] for row in rows if row["artifact"] == FP16]
            other = [row["ms"] for row in rows if row["artifact"].startswith("torch")]
            if own and other:
                faster = round(min(other) / min(own), 2)
                yield self._row(f"{run}: {FP16} over torch", ">= 1.0", f"{faster:.2f}", faster >= 1)

    @property
    def _small_batches(self) -> list[str]:
        return [title(self.model, size) for size in GRAPH_BATCHES]

    def _at_least(
        self, run: str, name: str, base: str, times: Mapping[tuple[str, str], Record], least: float
    ) -> Iterator[Row]:
        own, other = times.get((run, name)), times.get((run, base))
        if own and other:
            found = round(own["over fp32"] / other["over fp32"], 2)
            yield self._row(f"{run}: {name} over {base}", f">= {least}", f"{found:.2f}", found >= least)

    def _row(self, what: str, wanted: str, found: str, reached: bool) -> Row:
        told = {"what": what, "wanted": wanted, "found": found}
        return {"model": self.model, **told, "verdict": "ok" if reached else "missed"}


def lacking_text(lacking: Mapping[str, int]) -> str:
    """Return how many nodes lack what, or 0."""
    return ", ".join(f"{count} x {what}" for what, count in lacking.items()) or "0"
