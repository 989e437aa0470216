"""The command ``onnxq``: its commands, in the order of its help."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from onnxq.cli.console import listen
from onnxq.cli.frame import framed
from onnxq.cli.streams import settle_streams

COMMANDS = (
    "compile",
    "tune",
    "export",
    "calibrate",
    "validate",
    "verify",
    "bench",
    "inspect",
    "sensitivity",
    "diff",
    "report",
    "passes",
    "recipes",
    "demo",
    "doctor",
)
"""Each is a module beside this one, with a function ``run``."""

EPILOG = "Exit codes: 0 done, 1 a gate was missed, 2 your side, 3 our side."


def make_app() -> typer.Typer:
    """Return the application with all commands."""
    listen()
    app = typer.Typer(
        name="onnxq",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in COMMANDS:
        app.command(name)(framed(import_module(f"onnxq.cli.{name}").run))
    return app


def main() -> None:
    """Run the command line and leave with its exit code."""
    settle_streams()
    make_app()(prog_name="onnxq")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxq {version('onnxq')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile an exported ONNX model into a smaller, faster int8 model."""
