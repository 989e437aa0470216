"""From exceptions to one line on standard error and an exit code."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner, Result

from onnxq.cli.frame import framed
from onnxq.errors import DataError, OnnxqError, PassError, ToleranceError


def outcome(error: BaseException | None) -> Result:
    """Run a command that raises ``error``, if any."""

    def run() -> None:
        typer.echo("a result")
        if error is not None:
            raise error

    return invoke(run)


def invoke(run: Callable[..., None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(framed(run))
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (None, 0, ""),
        (ToleranceError("cosine is 0.9"), 1, "error: cosine is 0.9\n"),
        (DataError("empty", where="d.npz", hint="fill it"), 2, "error: d.npz: empty\n  hint: fill it\n"),
        (PassError("broke", where="pass 3"), 3, "error: pass 3: broke\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (FileNotFoundError(2, "No such file", "x.json"), 2, "error: x.json: No such file\n"),
        (OSError("the disk is full"), 2, "error: the disk is full\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: BaseException | None, code: int, text: str) -> None:
    result = outcome(error)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "a result\n", text)


def test_the_help_breaks_paragraphs_where_the_terminal_ends() -> None:
    def run() -> None:
        """Do it.

        A line that ends long before the terminal does,
        and another.
        """

    help_text = [line.strip() for line in invoke(run, "--help").stdout.splitlines()]
    assert "A line that ends long before the terminal does, and another." in help_text


def test_an_unexpected_error_asks_for_a_report() -> None:
    result = outcome(KeyError("a\nb"))
    assert result.exit_code == 3
    assert result.stderr == (
        "error: onnxq failed, which is its own fault: KeyError: 'a\\nb'\n"
        "  hint: please report it, with the traceback that ONNXQ_TRACEBACK=1 prints\n"
    )


@pytest.mark.parametrize("error", [KeyError("a"), OnnxqError("b"), OSError("c")])
def test_the_traceback_is_printed_on_request(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setenv("ONNXQ_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in outcome(error).stderr


def test_a_reproducer_is_named() -> None:
    result = outcome(PassError("broke", reproducer=Path("out.failed/003-x.onnxtxt")))
    assert "  reproducer: out.failed/003-x.onnxtxt\n" in result.stderr


def test_long_lines_and_markup_stay_as_they_are() -> None:
    text = "[bold]" + 30 * "a long path/"
    assert outcome(DataError(text)).stderr == f"error: {text}\n"


def test_colour_is_used_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31merror:" in outcome(DataError("x")).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in outcome(DataError("x")).stderr


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(help="Columns.")] = 3
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def test_a_group_of_options_arrives_as_one_value() -> None:
    got: list[object] = []

    def run(first: Annotated[str, typer.Argument()], *, size: Size, last: bool = False) -> None:
        """Do something."""
        got.extend([first, size, last])

    assert invoke(run, "a", "--width", "5", "--name", "b", "--name", "c", "--last").exit_code == 0
    assert got == ["a", Size(5, ["b", "c"]), True]
    assert "Do something." in invoke(run, "--help").stdout


ONNXQ = f"{shlex.quote(sys.executable)} -c 'from onnxq.cli import main; main()'"
CODES = {
    "recipes | true": 141,  # 128 + SIGPIPE; rich, which prints it, would make it 1: a gate was missed
    "--help | true": 141,
    "recipes >&-": 141,
    "recipes <&- >&- 2>&-": 141,
    "recipes >/dev/full": 2,
    "passes none 2>&1 >/dev/null | true": 141,
}


def test_who_cannot_be_told_a_result_is_not_told_a_wrong_code() -> None:
    runs = {
        command: subprocess.Popen(
            ["bash", "-c", f"{ONNXQ} {command}; exit ${{PIPESTATUS[0]}}"], stdout=PIPE, stderr=PIPE, text=True
        )
        for command in CODES
    }
    said = {command: run.communicate()[1] for command, run in runs.items()}
    assert {command: run.returncode for command, run in runs.items()} == CODES
    assert not any("Traceback" in text or "Exception ignored" in text for text in said.values())


def test_text_that_the_locale_lacks_is_written_with_backslashes(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": os.environ["PATH"]}
    name = os.fsencode(tmp_path) + "/größe-".encode() + b"\xff.onnx"
    command = [sys.executable, "-c", "from onnxq.cli import main; main()", "inspect", name]
    run = subprocess.run(command, capture_output=True, env=plain)
    assert run.returncode == 2
    assert rb"\udcc3\udcb6\udcc3\udc9fe-\udcff.onnx: ONNX Runtime opens no model whose name" in run.stderr
