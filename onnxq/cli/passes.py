"""onnxq passes: what is installed, and what it can be told."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.console import show, show_json
from onnxq.cli.options import Json

if TYPE_CHECKING:
    from onnxq.passmanager.options import Option
    from onnxq.passmanager.registry import PassInfo


def _pass_names() -> list[str]:
    from onnxq.passmanager.registry import pass_names

    return pass_names()


Name = Annotated[
    str | None,
    typer.Argument(metavar="NAME", help="One pass.", autocompletion=_pass_names, show_default=False),
]


def run(name: Name = None, *, as_json: Json = False) -> None:
    """List the installed passes, or describe one with its options."""
    from onnxq.passmanager.registry import find_pass, installed_passes

    if name is not None:
        find_pass(name)
    chosen = [info for info in installed_passes() if name in (None, info.name)]
    if as_json:
        show_json("passes", {"passes": [_plain(info) for info in chosen]})
    elif name is None:
        _show_all(chosen)
    else:
        _show_one(chosen[0])


def _plain(info: PassInfo) -> dict[str, Any]:
    options = [
        {"name": one.name, "type": one.type, "default": one.default_text, "meaning": one.meaning}
        for one in info.options
    ]
    return {**asdict(info), "effect": info.effect.value, "options": options}


def _show_all(infos: list[PassInfo]) -> None:
    from onnxq.report.tables import Table
    from onnxq.report.text import draw

    rows = tuple((info.name, info.effect.value, info.summary.replace("``", "")) for info in infos)
    show(draw(Table("Passes", ("name", "numbers", "what it does"), rows, text_columns=3)))
    show("onnxq passes NAME shows a pass's options")


def _show_one(info: PassInfo) -> None:
    from onnxq.report.tables import Table
    from onnxq.report.text import draw

    show(f"{info.name} ({info.effect.value}, from {info.distribution})", f"  {info.summary}")
    rows = tuple((one.name, _default(one), one.type, one.meaning) for one in info.options)
    if rows:
        show(draw(Table("Options", ("name", "default", "values", "meaning"), rows, text_columns=4)))


def _default(option: Option) -> str:
    """Return the default as a person reads it: the empty text is nothing."""
    return "must be given" if option.default_text is None else option.default_text or "nothing"
