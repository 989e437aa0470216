"""Make published measurements, and keep what their commands print under this kind of processor.

Each entry of docs/claims.toml's ``measurement`` table is a file's name, the command, and the data. The file
goes to docs/measurements/PROCESSOR, so that no other processor's numbers are replaced.
"""

from __future__ import annotations

import argparse
import hashlib
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from measuring import REPOSITORY, environment_lines

from onnxq.processor import at_hand

PLACEHOLDERS = {
    "assets": "the assets folder, with models/, data/ and evals/",
    "minilm": "all-MiniLM-L6-v2 as ONNX, as onnxq export writes it",
    "made": "the folder that evals/real_models.py wrote models to",
}
LENGTH = 12
"""Digits of a digest that tell files apart."""


@dataclass(frozen=True)
class Measurement:
    """A file in ``docs/measurements/PROCESSOR`` and the command that prints it.

    Args:
        file: The file's name.
        command: With ``{minilm}`` and other keys of ``PLACEHOLDERS`` where files of the user's go.
        data: What is measured on, in words.

    """

    file: str
    command: str
    data: str


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    options.add_argument("file", nargs="+", choices=[entry.file for entry in load_measurements()])
    add_placeholders(options)
    args = options.parse_args()
    for measurement in load_measurements():
        if measurement.file in args.file:
            text = run(measurement, args)
            target = REPOSITORY / "docs" / "measurements" / at_hand().name / measurement.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            print(text)
    return 0


def load_measurements() -> list[Measurement]:
    """Return what docs/claims.toml lists."""
    content = tomllib.loads((REPOSITORY / "docs" / "claims.toml").read_text(encoding="utf-8"))
    return [
        Measurement(file, entry["command"], entry["data"]) for file, entry in content["measurement"].items()
    ]


def add_placeholders(options: argparse.ArgumentParser) -> None:
    """Add an option for each of the user's files."""
    for name, meaning in PLACEHOLDERS.items():
        default = REPOSITORY.parent / "shared" if name == "assets" else None
        options.add_argument(f"--{name}", type=Path, default=default, help=meaning)


def run(measurement: Measurement, args: argparse.Namespace) -> str:
    """Return the command line, what the command printed, and what it was measured on.

    Raises:
        SystemExit: A file that the command needs was not given, or it printed no table.

    """
    files = _files(measurement, args)
    command = [part.format(**files) for part in shlex.split(measurement.command)]
    print(f"$ {_shown(measurement, files)}", file=sys.stderr)
    done = subprocess.run([sys.executable, *command[1:]], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if not done.stdout.strip():
        raise SystemExit(f"{measurement.file}: the command printed nothing (exit code {done.returncode})")
    given = [f"{name}: sha256 {_digest(path)}" for name, path in files.items() if path.is_file()]
    told = environment_lines()
    where = [] if told[0] in done.stdout else told
    lines = [f"data: {measurement.data}", *given, *where]
    return f"$ {_shown(measurement, files)}\n\n{done.stdout.rstrip()}\n\n" + "\n".join(lines) + "\n"


def _files(measurement: Measurement, args: argparse.Namespace) -> dict[str, Path]:
    wanted = [name for name in PLACEHOLDERS if f"{{{name}}}" in measurement.command]
    missing = [f"--{name}" for name in wanted if getattr(args, name) is None]
    if missing:
        raise SystemExit(f"{measurement.file} needs {', '.join(missing)}")
    return {name: getattr(args, name).resolve() for name in wanted}


def _shown(measurement: Measurement, files: Mapping[str, Path]) -> str:
    """Return the command with no more of a path than the names of a file and its folder."""
    shown = {name: Path(*path.parts[-2:]) if path.is_file() else path.name for name, path in files.items()}
    return measurement.command.format(**shown)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]


if __name__ == "__main__":
    sys.exit(main())
