"""Pipelines as text, there and back, and a caret under each fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.errors import PipelineError, UnknownPassError
from onnxq.passmanager.base import Pass
from onnxq.passmanager.off import switched
from onnxq.passmanager.pipeline import format_pipeline, load_pass, override, parse_pipeline
from onnxq.passmanager.registry import find_pass

OPTIONS = """
    flag: bool = False
    count: int = 3
    share: float = 0.5
    text: str = ""
    mode: Literal["mse", "min-max"] = "mse"
    bits: Literal[4, 8] = 8
    kinds: tuple[str, ...] = ("Conv", "Gemm")
    limit: float | None = None
    label: str | None = None
"""

CHECK = """
    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")
"""


@pytest.fixture(scope="module", autouse=True)
def try_options(offer: Callable[..., None], source: Callable[..., str]) -> None:
    """Offer ``try-options``, which has an option of every type, and two smaller passes."""
    offer(
        "tried-passes",
        {
            "try_options": source("try-options", OPTIONS) + CHECK,
            "try_nothing": source("try-nothing"),
            "try_required": source("try-required", "size: int"),
        },
    )


def test_a_pipeline_parses_with_blanks_and_newlines_and_prints_back() -> None:
    passes = parse_pipeline("try-nothing,\n  try-options { mode = min-max ,count=4 }\n, try-options")
    assert format_pipeline(passes) == "try-nothing,try-options{count=4, mode=min-max},try-options"


def test_a_pass_can_be_off_and_keeps_its_place_and_its_options() -> None:
    text = "try-nothing { off },try-options{count=4 , off, mode=min-max}"
    nothing, options = parse_pipeline(text)
    assert format_pipeline([nothing, options]) == "try-nothing{off},try-options{off, count=4, mode=min-max}"
    assert (nothing.name, options.name) == ("try-nothing", "try-options")
    assert override([options], "try-options=on") == parse_pipeline("try-options{count=4, mode=min-max}")


def test_no_text_is_no_passes() -> None:
    assert parse_pipeline(" \n") == []


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("flag=true", "flag", True),
        ("count=-0", "count", 0),
        ("share=1e+3", "share", 1000.0),
        ("share=2", "share", 2.0),
        ('text="a, b} \\"c\\" +"', "text", 'a, b} "c" +'),
        ("text=a+b", "text", "a+b"),
        ("bits=4", "bits", 4),
        ("kinds=Conv", "kinds", ("Conv",)),
        ("kinds=", "kinds", ()),
        ('kinds=Conv + "a+b"', "kinds", ("Conv", "a+b")),
        ("limit=none", "limit", None),
        ("limit=0.25", "limit", 0.25),
        ('label="none"', "label", "none"),
        ("label=none", "label", None),
    ],
)
def test_option_values(text: str, name: str, value: object) -> None:
    found = getattr(load_pass(f"try-options{{{text}}}"), name)
    assert found == value
    assert type(found) is type(value)


def passes_with_options() -> st.SearchStrategy[Pass]:
    values: dict[str, st.SearchStrategy[Any]] = {
        "flag": st.booleans(),
        "count": st.integers(min_value=0),
        "share": st.floats(allow_nan=False),
        "text": st.text(),
        "mode": st.sampled_from(["mse", "min-max"]),
        "bits": st.sampled_from([4, 8]),
        "kinds": st.lists(st.text(), max_size=3).map(tuple),
        "limit": st.none() | st.floats(allow_nan=False),
        "label": st.none() | st.text() | st.just("none"),
    }
    return st.fixed_dictionaries({}, optional=values).map(lambda chosen: find_pass("try-options")(**chosen))


@given(st.data())
def test_what_is_printed_parses_to_the_same_passes(data: st.DataObject) -> None:
    one = passes_with_options() | st.builds(lambda: load_pass("try-nothing"))
    passes = data.draw(st.lists(one | one.map(lambda pass_: switched(pass_, on=False)), max_size=4))
    assert parse_pipeline(format_pipeline(passes)) == passes


FAULTS = [
    ("try-options{coutn=3}", "coutn", "pass 'try-options' has no option 'coutn'", "did you mean 'count'?"),
    ("try-nothing{a=1}", "a", "has no option 'a'", "pass 'try-nothing' has no options"),
    ("try-options{count=many}", "many", "option 'count' cannot be many", "it must be int"),
    ("try-options{count=3.5}", "3.5", "option 'count' cannot be 3.5", "it must be int"),
    ("try-options{flag=maybe}", "maybe", "option 'flag' cannot be maybe", "it must be true | false"),
    ("try-options{limit=big}", "big", "option 'limit' cannot be big", "it must be float | none"),
    ("try-options{mode=msee}", "msee", "option 'mode' cannot be msee", "did you mean 'mse'?"),
    ("try-options{bits=5}", "5", "option 'bits' cannot be 5", "choose from: 4, 8"),
    ("try-options{count=1, count=2}", "count=2", "option 'count' is given twice", None),
    ("try-options{count=1 flag=true}", "flag", "expected a comma or the closing brace }, found 'f'", None),
    ("try-options{count=1", "", "expected a comma or the closing brace }, found the end", None),
    ("try-options{count}", "}", "expected = and a value, found '}'", None),
    ("try-options{kinds=a+}", "}", "expected a value, found '}'", None),
    ("try-nothing{off, off}", "off}", "has no option 'off'", "pass 'try-nothing' has no options"),
    ("try-nothing{off,}", "}", "expected the name of an option, found '}'", None),
    ("try-nothing{off=1}", "off", "has no option 'off'", "pass 'try-nothing' has no options"),
    ("try-options{=1}", "=", "expected the name of an option, found '='", None),
    ('try-options{text="\\q"}', '"\\q', "a backslash in quotes must be as in JSON", None),
    ("try-nothing,,try-nothing", ",try", "expected the name of a pass, found ','", None),
    ("try-nothing}", "}", "expected a comma or the end, found '}'", None),
    ("try-required", "try", "pass 'try-required' needs its option 'size'", None),
    ("try-nothing,try-options{count=-1}", "try-o", "count must not be negative", None),
]


@pytest.mark.parametrize(("text", "at", "message", "hint"), FAULTS)
def test_a_fault_is_named_and_pointed_at(text: str, at: str, message: str, hint: str | None) -> None:
    with pytest.raises(PipelineError) as caught:
        parse_pipeline(text)
    assert caught.value.message.startswith(message) or message in caught.value.message
    assert caught.value.at == (text.rindex(at) if at else len(text))
    assert caught.value.hint == hint


def test_the_caret_stands_under_the_fault_of_a_text_with_newlines() -> None:
    with pytest.raises(PipelineError) as caught:
        parse_pipeline("try-nothing,\ntry-options{coutn=3}")
    _, text, caret = str(caught.value).splitlines()
    assert text[caret.index("^") :].startswith("coutn")
    assert caret.count("^") == len("coutn")


def test_an_unknown_pass_is_pointed_at() -> None:
    with pytest.raises(UnknownPassError, match="unknown pass 'try-nothin'") as caught:
        parse_pipeline("try-options, try-nothin")
    assert caught.value.at == len("try-options, ")
    assert caught.value.hint == "did you mean 'try-nothing'?"


def test_one_pass_is_loaded_and_no_more() -> None:
    assert str(load_pass("try-options{bits=4}")) == "try-options{bits=4}"
    with pytest.raises(PipelineError, match="expected a comma or the end"):
        load_pass("try-options try-options")


def test_override_sets_the_option_in_every_pass_of_that_name() -> None:
    passes = parse_pipeline("try-options{count=1},try-nothing,try-options")
    changed = override(passes, "try-options.kinds=Conv+MatMul")
    assert format_pipeline(changed) == (
        "try-options{count=1, kinds=Conv+MatMul},try-nothing,try-options{kinds=Conv+MatMul}"
    )
    assert [dataclasses.asdict(p) for p in passes] != [dataclasses.asdict(p) for p in changed]


def test_override_switches_every_pass_of_that_name_and_an_option_that_is_set_switches_on() -> None:
    passes = parse_pipeline("try-options{count=1},try-nothing,try-options{off}")
    off = override(passes, "try-options=off")
    assert format_pipeline(off) == "try-options{off, count=1},try-nothing,try-options{off}"
    assert format_pipeline(override(off, "try-options = on")) == (
        "try-options{count=1},try-nothing,try-options"
    )
    assert format_pipeline(override(off, "try-options.bits=4")) == (
        "try-options{count=1, bits=4},try-nothing,try-options{bits=4}"
    )


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("try-options=of", "a pass is on or off, not of", None),
        ("try-options=", "expected on or off, found the end", None),
        ("try-option=off", "the pipeline has no pass 'try-option'", "did you mean 'try-options'?"),
        ("try-option.count=1", "the pipeline has no pass 'try-option'", "did you mean 'try-options'?"),
        ("try-options.cuont=1", "pass 'try-options' has no option 'cuont'", "did you mean 'count'?"),
        ("try-options.count=x", "option 'count' cannot be x", "it must be int"),
        ("try-options.count=-1", "count must not be negative", None),
        ("try-options", "expected pass.option=value or pass=off, found the end", None),
        ("try-options.count=1 2", "expected a comma or the end, found '2'", None),
    ],
)
def test_override_faults(setting: str, message: str, hint: str | None) -> None:
    with pytest.raises(PipelineError) as caught:
        override(parse_pipeline("try-options"), setting)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == hint
