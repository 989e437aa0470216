"""Finding passes by name, without importing the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from onnxq.errors import PassError, PipelineError, UnknownPassError
from onnxq.passmanager import registry
from onnxq.passmanager.base import Effect
from onnxq.passmanager.registry import find_pass, installed_passes, pass_names

Offer = Callable[..., None]
Source = Callable[..., str]


def test_own_passes_are_found_by_name() -> None:
    assert "insert-qdq" in pass_names()
    cls = find_pass("insert-qdq")
    assert (cls.name, cls.__module__) == ("insert-qdq", "onnxq.passes.insert_qdq")


def test_looking_one_up_imports_only_its_module() -> None:
    code = (
        "import sys; from onnxq.passmanager.registry import find_pass, pass_names; pass_names();"
        "find_pass('insert-qdq');"
        "print(*sorted(m for m in sys.modules if m.startswith('onnxq.passes.')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert "onnxq.passes.insert_qdq" in loaded
    assert "onnxq.passes.fold_constants" not in loaded


def test_the_listing_has_options_with_types_and_defaults() -> None:
    info = {info.name: info for info in installed_passes()}["encode-weights"]
    assert (info.effect, info.distribution) == (Effect.EXACT, "onnxq")
    assert info.summary.endswith(".")
    granularity = info.options[0]
    assert (granularity.name, granularity.type) == ("granularity", "channel | tensor")
    assert granularity.default_text == "channel"


def test_an_unknown_pass_has_a_suggestion() -> None:
    with pytest.raises(UnknownPassError, match="unknown pass 'insert-qdk'") as caught:
        find_pass("insert-qdk")
    assert caught.value.hint == "did you mean 'insert-qdq'?"


def test_a_pass_unlike_any_other_points_to_the_listing() -> None:
    with pytest.raises(UnknownPassError) as caught:
        find_pass("zzzzzzzz")
    assert caught.value.hint == "list them with: onnxq passes"


def test_a_checkout_without_installation_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "GROUP", "onnxq.no-such-group")
    registry._pass_modules.cache_clear()
    try:
        with pytest.raises(UnknownPassError, match="no passes are installed") as caught:
            find_pass("insert-qdq")
    finally:
        registry._pass_modules.cache_clear()
    assert caught.value.hint == "in a checkout, run: pip install -e ."


def test_a_name_offered_twice_names_both(offer: Offer, source: Source) -> None:
    offer("first-maker", {"do_twice": source("do-twice")})
    offer("second-maker", {"do_twice": source("do-twice")})
    message = r"'do-twice' is offered twice, by first-maker \(.*\) and second-maker \(second_maker.do_twice\)"
    with pytest.raises(PipelineError, match=message) as caught:
        find_pass("do-twice")
    assert caught.value.hint == "uninstall one of them"


def test_a_name_that_is_not_its_module_names_both(offer: Offer, source: Source) -> None:
    offer("misnamer", {"right_name": source("wrong-name")})
    message = "misnamer.right_name: class Anything is called 'wrong-name', its module wants 'right-name'"
    with pytest.raises(PassError, match=message):
        find_pass("right-name")


def test_a_module_holds_exactly_one_pass(offer: Offer, source: Source) -> None:
    two = source("hold-two", cls="One") + source("hold-two", cls="Two")
    offer("counting", {"hold_two": two, "hold_none": "", "_helper": ""})
    with pytest.raises(PassError, match="a pass's module holds exactly one pass; this has One, Two"):
        find_pass("hold-two")
    with pytest.raises(PassError, match="this has none"):
        find_pass("hold-none")
    assert not {"_helper", "-helper"} & set(pass_names())


def test_a_module_that_cannot_be_imported_is_named(offer: Offer) -> None:
    offer("broken-maker", {"break_import": "import no_such_module_anywhere"})
    message = "broken_maker.break_import of broken-maker: it cannot be imported: ModuleNotFoundError"
    with pytest.raises(PassError, match=message):
        find_pass("break-import")
