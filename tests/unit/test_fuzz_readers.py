"""The fuzzer of readers: whole files are taken, mutated ones do no harm, and it goes on where it stopped."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "fuzz_readers.py"
WHOLE = """
import sys, tempfile
from pathlib import Path
from readers import READERS
for name, reader in READERS.items():
    with tempfile.TemporaryDirectory() as folder:
        reader.use(reader.seeds()[0], Path(folder))
"""


def run(*command: str) -> str:
    environment = {**os.environ, "PYTHONSAFEPATH": ""}  # tools import each other
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=REPOSITORY / "tools", env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_reader_takes_a_whole_file() -> None:
    run("-c", WHOLE)


def test_mutated_files_are_taken_or_refused_and_the_count_goes_on(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    assert "10 files, seed 0; failures: 0" in run(str(TOOL), "--count", "10", "--state", state)
    assert "25 files, seed 0; failures: 0" in run(str(TOOL), "--count", "25", "--state", state)
