"""Pipelines as text: ``fold-constants,encode-activations{method=mse, scope=all-tensors},insert-qdq``.

::

    pipeline = [pass {"," pass}]
    pass     = name ["{" [setting {"," setting}] "}"]
    setting  = "off" | option
    option   = name "=" [item {"+" item}]
    item     = text without blanks and , { } " +, or a string in double quotes, as in JSON

White space may stand between any two of these. A pass that is ``off`` keeps its place and its options, and
does nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from functools import lru_cache
from typing import Any, NoReturn

from onnxq.errors import PipelineError, did_you_mean
from onnxq.passmanager.base import Pass
from onnxq.passmanager.off import switched
from onnxq.passmanager.options import Option, convert, options_of
from onnxq.passmanager.registry import find_pass
from onnxq.passmanager.values import BARE

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_SPACE = re.compile(r"\s*")
_OFF = re.compile(r"off\s*(?=[,}])")
_SWITCH = {"on": True, "off": False}


def parse_pipeline(text: str) -> list[Pass]:
    """Return the passes that ``text`` names.

    Raises:
        PipelineError: It does not parse, or an option does not fit; a caret shows where.
        UnknownPassError: A pass is not installed.

    """
    return list(_parsed(text))


@lru_cache(maxsize=256)
def _parsed(text: str) -> tuple[Pass, ...]:
    """Parse; a search asks for the same text again and again, and passes do not change."""
    return tuple(_Parser(text).pipeline())


def load_pass(text: str) -> Pass:
    """Return the one pass that ``text`` names, such as ``split-linear{parts=3}``.

    Raises:
        PipelineError: It does not parse as one pass.
        UnknownPassError: The pass is not installed.

    """
    parser = _Parser(text)
    loaded = parser.one_pass()
    parser.end()
    return loaded


def format_pipeline(passes: Iterable[Pass]) -> str:
    """Return the text that parses to these passes."""
    return ",".join(map(str, passes))


def override(passes: Sequence[Pass], setting: str) -> list[Pass]:
    """Return the passes with one option set in every pass of that name, or every such pass switched.

    A pass that is off is on once an option of it is set.

    Args:
        passes: The pipeline.
        setting: ``pass.option=value``, ``pass=off`` or ``pass=on``.

    Raises:
        PipelineError: It does not parse, or the pipeline has no such pass or option.

    """
    parser = _Parser(setting)
    name, at = parser.name("the name of a pass")
    names = {pass_.name for pass_ in passes}
    if name not in names:
        hint = did_you_mean(name, names)
        raise parser.error(f"the pipeline has no pass {name!r}", at, len(name), hint)
    if parser.take("="):
        on = parser.switch()
        parser.end()
        return [switched(p, on=on) if p.name == name else p for p in passes]
    parser.expect(".", "pass.option=value or pass=off")
    start = parser.at
    given = {p: switched(p, on=True) for p in passes if p.name == name}
    option, value = parser.option(options_of(type(next(iter(given.values())))), name)
    parser.end()
    try:
        return [replace(given[p], **{option: value}) if p in given else p for p in passes]
    except ValueError as error:
        raise parser.error(str(error), start, parser.at - start) from error


@dataclass
class _Parser:
    """Reads a pipeline from left to right; ``at`` is where it stands."""

    text: str
    at: int = 0

    def __post_init__(self) -> None:
        """Put all on one line, so that the caret stands under its fault."""
        self.text = re.sub(r"[\t-\r]", " ", self.text)
        self.space()

    def pipeline(self) -> Iterator[Pass]:
        """Yield the passes to the end of the text."""
        if self.at == len(self.text):
            return
        yield self.one_pass()
        while self.take(","):
            yield self.one_pass()
        self.end()

    def one_pass(self) -> Pass:
        """Read a name and, in braces, options."""
        name, at = self.name("the name of a pass")
        cls = find_pass(name, text=self.text, at=at)
        options = options_of(cls)
        values, off = self.settings(options, name) if self.take("{") else ({}, False)
        length = len(self.text[at : self.at].rstrip())
        for option in options.values():
            if option.name not in values and option.default is MISSING:
                raise self.error(f"pass {name!r} needs its option {option.name!r}", at, length)
        try:
            return switched(cls(**values), on=not off)
        except ValueError as error:
            raise self.error(f"pass {name!r}: {error}", at, length) from error

    def settings(self, options: Mapping[str, Option], owner: str) -> tuple[dict[str, Any], bool]:
        """Read to the closing brace; return the options, none given twice, and whether the pass is off."""
        values: dict[str, Any] = {}
        off = False
        while not self.take("}"):
            if values or off:
                self.expect(",", "a comma or the closing brace }")
            if not off and (off := self.word(_OFF)):
                continue
            start = self.at
            name, value = self.option(options, owner)
            if name in values:
                raise self.error(f"option {name!r} is given twice", start, len(name))
            values[name] = value
        return values, off

    def switch(self) -> bool:
        """Read ``on`` or ``off``."""
        name, at = self.name("on or off")
        if name not in _SWITCH:
            raise self.error(f"a pass is on or off, not {name}", at, len(name))
        return _SWITCH[name]

    def option(self, options: Mapping[str, Option], owner: str) -> tuple[str, Any]:
        """Read a name and a value of its type."""
        name, at = self.name("the name of an option")
        if name not in options:
            hint = did_you_mean(name, options) or f"pass {owner!r} has no options"
            raise self.error(f"pass {owner!r} has no option {name!r}", at, len(name), hint)
        self.expect("=", "= and a value")
        start, items, quoted = self.at, *self.items()
        try:
            return name, convert(options[name].hint, items, quoted=quoted)
        except ValueError as error:
            shown = self.text[start : self.at].rstrip()
            message = f"option {name!r} cannot be {shown or 'empty'}"
            raise self.error(message, start, len(shown), str(error)) from error

    def items(self) -> tuple[list[str], bool]:
        """Return the parts of a value, and whether the first was quoted."""
        quoted = self.text[self.at : self.at + 1] == '"'
        first = self.item()
        items = [] if first is None else [first]
        while items and self.take("+"):
            item = self.item()
            items.append(self.fail("a value") if item is None else item)
        return items, quoted

    def item(self) -> str | None:
        """Read a plain or quoted word; None where none stands."""
        found = _QUOTED.match(self.text, self.at) or BARE.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        self.space()
        return self.unquoted(found[0], found.start()) if found.re is _QUOTED else found[0]

    def unquoted(self, text: str, at: int) -> str:
        try:
            return str(json.loads(text))
        except ValueError as error:
            raise self.error("a backslash in quotes must be as in JSON", at, len(text)) from error

    def name(self, what: str) -> tuple[str, int]:
        """Return a name and where it begins; ``what`` it is, for the error where none stands."""
        found, at = _NAME.match(self.text, self.at), self.at
        if found is None:
            self.fail(what)
        self.at = found.end()
        self.space()
        return found[0], at

    def word(self, pattern: re.Pattern[str]) -> bool:
        """Read what matches, if it stands here."""
        found = pattern.match(self.text, self.at)
        self.at = self.at if found is None else found.end()
        return found is not None

    def take(self, mark: str) -> bool:
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        self.space()
        return True

    def expect(self, mark: str, what: str) -> None:
        if not self.take(mark):
            self.fail(what)

    def end(self) -> None:
        if self.at < len(self.text):
            self.fail("a comma or the end")

    def space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def fail(self, wanted: str) -> NoReturn:
        found = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
        raise self.error(f"expected {wanted}, found {found}", self.at)

    def error(self, message: str, at: int, length: int = 1, hint: str | None = None) -> PipelineError:
        return PipelineError(message, text=self.text, at=at, length=length, hint=hint)
