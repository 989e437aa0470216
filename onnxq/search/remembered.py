"""What tuning remembers of earlier runs, so that the same forms are not timed again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from onnxq.comparison import Prefer
from onnxq.engine.cache import cache_folder
from onnxq.errors import InputError
from onnxq.files import write_whole
from onnxq.reading import parse_json
from onnxq.recipe import Recipe
from onnxq.runtime.batch import Feeds
from onnxq.runtime.environment import cpu_name, runtime_versions
from onnxq.runtime.gpu import gpu
from onnxq.runtime.run import Run


@dataclass(frozen=True)
class Memory:
    """Verdicts of earlier runs, by ONNX Runtime, what runs it, threads, taste, shapes, passes and form."""

    path: Path | None
    place: str

    @classmethod
    def of(cls, recipe: Recipe, feeds: Sequence[Feeds], run: Run, prefer: Prefer = "balanced") -> Memory:
        """Look where the verdicts on forms of ``recipe`` are, whose passes all have a part in the time."""
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, array.shape))}" for name, array in sorted(feeds[0].items())
        )
        device = (
            cpu_name() if run.provider == "cpu" else ", ".join(f"{g.name} {g.driver}" for g in gpu().devices)
        )
        machine = f"onnxruntime {runtime_versions()['onnxruntime']} | {device} | threads {run.threads}"
        place = f"{machine} | prefer {prefer} | {shapes} | {recipe.pipeline}"
        return cls(cache_file(), f"{place} | {recipe.precision}" if recipe.assigns else place)

    def recall(self, forms: Sequence[str]) -> dict[str, bool] | None:
        """Return whether each form, by its name, is left out; None if that is not known of all."""
        known = self._read()
        return {name: known[name] for name in forms} if known.keys() >= set(forms) else None

    def keep(self, left_out: Mapping[str, bool]) -> None:
        """Remember; where the cache cannot be written, the next run measures again."""
        if self.path is None:
            return
        new = {self.place: {**self._read(), **left_out}}
        with suppress(OSError, InputError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({**self._read_all(), **new}, indent=1, sort_keys=True) + "\n")

    def _read(self) -> dict[str, bool]:
        return self._read_all().get(self.place, {})

    def _read_all(self) -> dict[str, dict[str, bool]]:
        """Return what is remembered; a file that is damaged, or a part that is, says nothing."""
        try:
            content = parse_json(self.path.read_text(encoding="utf-8")) if self.path is not None else {}
        except (OSError, ValueError):
            return {}
        places = content.items() if isinstance(content, dict) else ()
        return {place: known for place, known in places if _is_known(known)}


def _is_known(known: object) -> bool:
    return isinstance(known, dict) and all(isinstance(dropped, bool) for dropped in known.values())


def cache_file() -> Path | None:
    """Return where verdicts are remembered; None where nothing is."""
    folder = cache_folder()
    return None if folder is None else folder / "tuning.json"
