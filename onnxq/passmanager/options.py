"""Options: the fields of a pass, as text and back."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from onnxq.errors import did_you_mean
from onnxq.passmanager.base import Pass
from onnxq.passmanager.values import value_text


@dataclass(frozen=True)
class Option:
    """One field of a pass.

    Args:
        name: Its name.
        hint: Its type.
        default: Its default; ``dataclasses.MISSING`` if it must be given.
        meaning: What its pass says of it, under ``Options:`` in the docstring; empty if nothing.

    """

    name: str
    hint: Any
    default: Any
    meaning: str = ""

    @property
    def type(self) -> str:
        """The type for listings, such as ``mse | min-max``."""
        return _type_text(self.hint)

    @property
    def default_text(self) -> str | None:
        """The default as pipeline text, None if there is none."""
        return None if self.default is MISSING else value_text(self.default)


@cache
def options_of(cls: type[Pass]) -> Mapping[str, Option]:
    """Return the options of a pass by name, in order."""
    hints = get_type_hints(cls)
    meanings = _meanings(inspect.getdoc(cls) or "")
    return {f.name: Option(f.name, hints[f.name], f.default, meanings.get(f.name, "")) for f in fields(cls)}


def _meanings(docstring: str) -> dict[str, str]:
    """Return what stands behind each name under ``Options:``, in one line each, without code marks."""
    section = docstring.partition("\nOptions:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in entries}


def convert(hint: Any, items: Sequence[str], *, quoted: bool = False) -> Any:
    """Return the value that the text of an option stands for.

    Args:
        hint: The type of the field: bool, int, float, str, Literal, a tuple of these, or one of
            these with None.
        items: The text, split at ``+``.
        quoted: Whether the text stood in quotes, and so is never ``none``.

    Raises:
        ValueError: The text is no such value; the message says what is.

    """
    text = "+".join(items)
    choices = [choice for choice in _members(hint) if choice is not NoneType]
    if len(choices) < len(_members(hint)) and text == "none" and not quoted:
        return None
    if get_origin(choices[0]) is Literal:
        return _chosen(get_args(choices[0]), text)
    return _validated(hint, list(items) if get_origin(choices[0]) is tuple else text)


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _chosen(choices: Sequence[Any], text: str) -> Any:
    known = {str(choice): choice for choice in choices}
    if text not in known:
        raise ValueError(did_you_mean(text, known) or f"choose from: {', '.join(known)}")
    return known[text]


def _validated(hint: Any, value: object) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"it must be {_type_text(hint)}") from error


def _type_text(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(_type_text(member) for member in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"{_type_text(get_args(hint)[0])}+..."
    return {bool: "true | false", NoneType: "none"}.get(hint, getattr(hint, "__name__", str(hint)))
