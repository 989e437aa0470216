"""Bars on a terminal of 80 columns: what is done, how far it is, and what it will take."""

import re
import time

import pytest

from onnxq.cli.console import progress


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the captured stream for a terminal then
    monkeypatch.setenv("COLUMNS", "80")


def last_lines(printed: str) -> list[str]:
    """Return the lines that were on the screen at the end, without colours."""
    lines = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", printed).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    return [line.rstrip() for line in lines if line.strip()]


def test_a_phase_tells_how_far_it_is_and_what_it_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as on_progress:
        for done in (0, 32, 64):
            on_progress("calibrating", done, 128)
            time.sleep(0.01)
    assert re.fullmatch(r"calibrating .* 64/128 0:00, 0:0\d left", last_lines(capsys.readouterr().err)[-1])


def test_a_phase_of_unknown_length_ends_with_the_next_one_and_goes_if_it_was_short(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress() as on_progress:
        on_progress("writing", 0, None)
        on_progress("comparing", 1, 2)
        on_progress("comparing", 2, 2)
    assert re.fullmatch(r"comparing \S+ 2/2 0:00", last_lines(capsys.readouterr().err)[-1])


def test_a_phase_within_another_leaves_that_running_and_may_begin_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress() as on_progress:
        on_progress("choosing", 1, 5)
        for done in (0, 128, 0, 16):
            on_progress("calibrating", done, 128)
    outer, inner = last_lines(capsys.readouterr().err)[-2:]
    assert re.fullmatch(r"choosing .* 1/5 +0:00", outer)
    assert re.fullmatch(r"calibrating .* 16/128 0:00.*", inner)
