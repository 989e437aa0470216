"""Which processor is at hand, and what each means for products of 8-bit integers."""

import sys
from pathlib import Path

import pytest

from onnxq.errors import TargetError
from onnxq.processor import (
    CPU_FLAGS,
    EXACT_LIMIT,
    PRETENDED,
    PROCESSORS,
    at_hand,
    cpu_flags,
    find_processor,
    here,
    processor_of,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\nbugs : spectre\n", ("avx2", "avx512_vnni", "avx512f")),
        ("Features\t: fp asimd asimddp crc32\n", ("asimd", "asimddp")),
        ("processor\t: 0\n", ()),
    ],
)
def test_flags_are_read_from_cpuinfo(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text, encoding="utf-8")
    assert cpu_flags(file) == expected


def test_without_cpuinfo_numpy_tells_the_flags(tmp_path: Path) -> None:
    flags = cpu_flags(tmp_path / "none")
    assert flags
    assert list(flags) == sorted(flags)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/cpuinfo is Linux's, and so are these names")
def test_both_ways_find_a_processor_that_saturates_or_none(tmp_path: Path) -> None:
    # NumPy does not look for AVX-VNNI, and so may only err towards 7 bits.
    assert set(cpu_flags()) <= CPU_FLAGS
    by_numpy = processor_of(cpu_flags(tmp_path / "none"))
    assert by_numpy.saturates >= at_hand().saturates


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("amx_int8", "avx2", "avx512_vnni", "avx512f"), "amx"),
        (("avx2", "avx512_vnni", "avx512f"), "avx512_vnni"),
        (("avx2", "avx_vnni"), "avx_vnni"),
        (("avx2", "avx512f"), "avx512"),
        (("avx", "avx2"), "avx2"),
        (("asimd", "asimddp"), "arm_dot"),
        (("asimd",), "arm"),
        (("avx512_icl", "x86_v2", "x86_v3", "x86_v4"), "avx512_vnni"),  # NumPy's names
        (("x86_v2", "x86_v3"), "avx2"),
        (("x86_v2",), "sse41"),
        ((), "unknown"),
    ],
)
def test_features_tell_the_processor(flags: tuple[str, ...], name: str) -> None:
    assert processor_of(flags).name == name


def test_only_x86_without_dot_products_saturates() -> None:
    assert [one.name for one in PROCESSORS.values() if one.saturates] == ["avx512", "avx2", "sse41", "any"]
    assert not PROCESSORS["any"].features  # no processor is that one


def test_the_limit_is_the_largest_that_two_products_allow() -> None:
    assert (
        2 * 255 * EXACT_LIMIT <= 2**15 - 1 < 2 * 255 * (EXACT_LIMIT + 2)
    )  # 64 has no mirror image in 7 bits


def test_a_test_can_pretend_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, processor in PROCESSORS.items():
        monkeypatch.setenv(PRETENDED, name)
        assert here() == processor
    monkeypatch.delenv(PRETENDED)
    assert here() == at_hand()


def test_a_processor_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRETENDED, "avx3")
    with pytest.raises(TargetError, match="ONNXQ_PROCESSOR: unknown processor 'avx3'") as caught:
        here()
    assert caught.value.hint == "did you mean 'avx2'?"
    with pytest.raises(TargetError, match="unknown processor 'z80'"):
        find_processor("z80")
