"""Facts that earlier runs measured, in a file of the user's cache: content addresses, and no names."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from onnxq.calibration.table import facts_in, facts_out
from onnxq.quant.facts import Facts
from onnxq.runtime.environment import cpu_name, runtime_versions

SCHEMA = 3
"""The version of what an entry holds; raised with every change of what is measured."""
LARGEST = 1 << 30
"""Bytes; when the file holds more, the entries that were not read for longest go."""
OFF = "off"
_CREATE = "CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, used INTEGER, content BLOB)"


def cache_folder() -> Path | None:
    """Return where onnxq remembers what can be measured again; None if nowhere.

    ``ONNXQ_CACHE`` names a folder, or is ``off``; else it is ``onnxq`` in the user's folder for caches.
    """
    given, caches = os.environ.get("ONNXQ_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        return None if given == OFF else Path(given or Path(caches or Path.home() / ".cache", "onnxq"))
    except RuntimeError:  # there is no home
        return None


@dataclass(frozen=True)
class FactsCache:
    """The facts of one set of data on one processor and version of ONNX Runtime.

    What cannot be read or written is measured again: no fault of the file is the caller's.

    Args:
        path: The file.
        place: What facts depend on besides the value: data, how it is cut, threads, versions, processor.

    """

    path: Path
    place: str

    @classmethod
    def on(cls, data: str, batch_size: int, threads: int | None) -> FactsCache | None:
        """Return the cache for data with this digest; None where nothing is remembered."""
        folder = cache_folder()
        versions = f"{version('onnxq')} {SCHEMA} onnxruntime {runtime_versions()['onnxruntime']}"
        place = f"{data} in batches of {batch_size} | {threads} threads | {versions} | {cpu_name()}"
        return None if folder is None else cls(folder / "facts.sqlite", place)

    def recall(self, prints: Iterable[str]) -> dict[str, Facts]:
        """Return what is known of values, by their fingerprints."""
        found: dict[str, Facts] = {}
        with suppress(sqlite3.Error, zlib.error, OSError, ValueError, KeyError), self._opened() as facts:
            for print_ in sorted(prints):
                key = self._key(print_)
                row = facts.execute("SELECT content FROM facts WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[print_] = _unpacked(row[0])
                    facts.execute("UPDATE facts SET used = unixepoch('now') WHERE key = ?", (key,))
        return found

    def keep(self, known: Mapping[str, Facts]) -> None:
        """Remember facts by fingerprint."""
        rows = [(self._key(print_), _packed(facts)) for print_, facts in known.items()]
        with suppress(sqlite3.Error, OSError), self._opened() as facts:
            facts.executemany("REPLACE INTO facts VALUES (?, unixepoch('now'), ?)", rows)
            _prune(facts)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the file, and make it if it is not there; one that is damaged is begun anew."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)  # sampled rows can tell of the data
        with closing(sqlite3.connect(self.path, timeout=1)) as connection:
            try:
                connection.execute(_CREATE)
                with connection:
                    yield connection
            except sqlite3.DatabaseError as error:
                if not isinstance(error, sqlite3.OperationalError):  # that is one in use, or a full disk
                    self.path.unlink(missing_ok=True)
                raise

    def _key(self, print_: str) -> str:
        return hashlib.sha256(f"{self.place} | {print_}".encode()).hexdigest()


def _prune(facts: sqlite3.Connection) -> None:
    (size,) = facts.execute("SELECT coalesce(sum(length(content)), 0) FROM facts").fetchone()
    for key, length in facts.execute("SELECT key, length(content) FROM facts ORDER BY used").fetchall():
        if size <= LARGEST:
            return
        facts.execute("DELETE FROM facts WHERE key = ?", (key,))
        size -= length


def _packed(facts: Facts) -> bytes:
    """Return the facts packed without looking for repetitions: floats have none."""
    coder = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(json.dumps(facts_out(facts), allow_nan=False).encode()) + coder.flush()


def _unpacked(content: bytes) -> Facts:
    return facts_in(json.loads(zlib.decompress(content)))
