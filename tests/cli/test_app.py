"""The front of the command line: help, version, completion, and what it must not import."""

import subprocess
import sys

import pytest

from onnxq.cli.app import COMMANDS

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch", "transformers")


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_help_lists_every_command_with_its_summary_on_one_line(onnxq) -> None:
    result = onnxq("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        line = next(line for line in result.stdout.splitlines() if f"│ {name} " in line)
        assert line.rstrip("│ ").endswith(".")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_that_fits_the_terminal(onnxq, name: str) -> None:
    result = onnxq(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "…" not in result.stdout  # nothing is cut off


def test_version(onnxq) -> None:
    from importlib.metadata import version

    assert onnxq("--version").stdout == f"onnxq {version('onnxq')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = run_python(
        "import sys\nfrom onnxq.cli.app import make_app\n"
        f"try: make_app()({arguments})\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    assert done.stderr == "[]\n"


def test_shell_completion_knows_commands_and_recipes() -> None:
    code = "from onnxq.cli import main; main()"
    asked = {"_ONNXQ_COMPLETE": "complete_bash"}
    commands = run_python(code, **asked, COMP_WORDS="onnxq va", COMP_CWORD="1")
    assert commands.stdout.split() == ["validate"]
    recipes = run_python(code, **asked, COMP_WORDS="onnxq compile --recipe cpu", COMP_CWORD="3")
    assert recipes.stdout.split() == ["cpu", "cpu-dynamic", "cpu-size", "cpu-split"]


def test_an_interrupt_while_it_starts_is_one_line() -> None:
    done = run_python(
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from onnxq.cli import main\n"
        "main()"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_usage_errors_exit_with_2(onnxq) -> None:
    for arguments in (["compile"], ["nothing"], ["passes", "--colour"]):
        result = onnxq(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Error" in result.stderr
