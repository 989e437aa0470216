"""Compile models with two versions of onnxq and compare what they write: the proof of a refactoring.

``--before`` and ``--after`` are the commands of two installations. Each model is compiled with each recipe by
both, on the same data, without timing and with nothing remembered; then the two results are compared with
``onnxq diff`` and, where they differ, by how far each lies from the source. Without ``--case``, this
repository's own models are compiled, on random data. Exits with 1 if something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measuring import REPOSITORY, parser, show
from rich.console import Console

from onnxq.ir.store import save_model
from onnxq.ir.text import parse

RECIPES = ("cpu", "cpu-size", "cpu-dynamic", "cpu-split", "portable", "all-tensors", "weight-only")
OPTIONS = ("--no-tune", "--no-bench", "--threads", "1", "--json")
"""What makes the outcome a matter of model and data alone."""
MOST = 60
"""Characters of an error that are shown."""


@dataclass(frozen=True)
class Case:
    """A model and what ``--data`` takes for it."""

    name: str
    model: Path
    data: str


@dataclass(frozen=True)
class Outcome:
    """What one version made of a case.

    Args:
        file: The compiled model; None where there is none.
        told: That it is one, or else the exit code and what the error says.

    """

    file: Path | None
    told: str


def main() -> int:
    args = _arguments()
    with TemporaryDirectory() as folder:
        cases = args.case or list(_own_models(Path(folder)))
        rows = [_row(case, recipe, args, Path(folder)) for case in cases for recipe in args.recipe or RECIPES]
    counts = {how: sum(row["differs"] == how for row in rows) for how in {row["differs"] for row in rows}}
    notes = [", ".join(f"{how}: {count}" for how, count in sorted(counts.items()))]
    shown = rows if args.all else [row for row in rows if row["differs"] != "nothing"]
    show("What two versions make of the same models and data", shown, notes, as_json=args.json)
    return int(any(row["differs"] != "nothing" for row in rows))


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--before", required=True, metavar="ONNXQ", help="the command of one version")
    options.add_argument("--after", required=True, metavar="ONNXQ", help="the command of the other")
    options.add_argument(
        "--case", action="append", type=_case, metavar="NAME:MODEL:DATA", help="a model; may be repeated"
    )
    options.add_argument("--recipe", action="append", help="one recipe; may be repeated")
    options.add_argument("--no-choose", action="store_true", help="take the recipes as they stand")
    options.add_argument("--bench", action="store_true", help="time both results and the source in one run")
    options.add_argument("--all", action="store_true", help="list what does not differ, too")
    return options.parse_args()


def _case(text: str) -> Case:
    name, model, data = text.split(":")
    return Case(name, Path(model), data)


def _own_models(folder: Path) -> Iterator[Case]:
    """Yield the repository's models, those kept as text written as files."""
    for path in sorted((REPOSITORY / "models").glob("*.onnx*")):
        model = path
        if path.suffix == ".onnxtxt":
            model = folder / "sources" / f"{path.stem}.onnx"
            model.parent.mkdir(exist_ok=True)
            save_model(parse(path.read_text(encoding="utf-8")), model)
        yield Case(path.stem, model, "random")


def _row(case: Case, recipe: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    Console(stderr=True).print(f"[dim]{case.name} {recipe}")
    options = ["--recipe", recipe, *OPTIONS, *(["--no-choose"] if args.no_choose else [])]
    before, after = (
        _compiled(command, case, options, folder / f"{case.name}.{recipe}.{side}")
        for side, command in (("before", args.before), ("after", args.after))
    )
    differs = _difference(args.after, before, after)
    told = [one.told if differs == "nothing" else _error(args.after, case, one) for one in (before, after)]
    row = {"model": case.name, "recipe": recipe, "differs": differs, "before": told[0], "after": told[1]}
    return {**row, **_speeds(args.after, case, before, after)} if args.bench else row


def _compiled(command: str, case: Case, options: Sequence[str], folder: Path) -> Outcome:
    folder.mkdir()
    output = folder / "compiled.onnx"
    done = _run(command, "compile", str(case.model), "-o", str(output), "--data", case.data, *options)
    if output.exists():
        return Outcome(output, "compiled")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    return Outcome(None, f"exit {done.returncode}: {' '.join(errors)[:MOST]}")


def _error(command: str, case: Case, outcome: Outcome) -> str:
    """Return the smallest SQNR of an output, in dB."""
    if outcome.file is None:
        return outcome.told
    done = _run(command, "validate", str(case.model), str(outcome.file), "--data", case.data, "--json")
    if done.returncode:
        return f"exit {done.returncode}"
    outputs = json.loads(done.stdout)["outputs"]
    found = [output["sqnr_db"] for output in outputs if output["sqnr_db"] is not None]
    return f"{min(found):.2f} dB" if found else "no floats"


def _speeds(command: str, case: Case, before: Outcome, after: Outcome) -> dict[str, str]:
    """Return how many times faster than the source each is, with the tenth and ninetieth percentile."""
    if before.file is None or after.file is None:
        return {}
    models = [str(one) for one in (case.model, before.file, after.file)]
    done = _run(command, "bench", *models, "--data", case.data, "--threads", "1", "--no-memory", "--json")
    speeds = [model["paired_speedup"] for model in json.loads(done.stdout)["models"][1:]]
    told = [f"{one['median']:.2f}x ({one['p10']:.2f}-{one['p90']:.2f})" for one in speeds]
    return dict(zip(("speed before", "speed after"), told, strict=True))


def _difference(command: str, before: Outcome, after: Outcome) -> str:
    """Return ``nothing``, or how many parts ``onnxq diff`` finds to be other ones."""
    if before.file is None or after.file is None:
        return "nothing" if before == after else "the outcome"
    done = _run(command, "diff", str(before.file), str(after.file), "--json")
    if done.returncode == 0:
        return "nothing"
    counts = json.loads(done.stdout)["counts"]
    return ", ".join(f"{count} {how}" for how, count in counts.items() if count and how != "same")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ONNXQ_CACHE": "off"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
