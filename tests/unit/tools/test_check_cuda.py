"""What check_cuda.py keeps between its two halves, and what it makes of the rows."""

import importlib
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from onnxq.digits import DIGITS_MODEL
from onnxq.ir.store import load_model
from onnxq.runtime.bound import Replay
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

pytest.importorskip("onnxruntime", reason="the tool opens models")
TOOLS = Path(__file__).resolve().parents[3] / "tools"


@pytest.fixture(scope="module")
def tools() -> SimpleNamespace:
    names = ("check_cuda", "cuda_prepared", "cuda_verdicts", "cuda_cases", "architectures")
    sys.path.insert(0, str(TOOLS))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(TOOLS))


def test_a_prepared_artifact_is_small_and_has_the_same_shapes(tools: SimpleNamespace, tmp_path: Path) -> None:
    prepared = tools.cuda_prepared.Prepared(tmp_path / "prepared")
    record = {"model": "digits", "artifact": "fp32", "file": "digits.fp32.onnxtxt"}
    prepared.write(record, DIGITS_MODEL)
    assert prepared.records() == [record]
    assert (prepared.folder / record["file"]).stat().st_size < DIGITS_MODEL.stat().st_size / 10
    prepared.save(record, tmp_path / "again.onnx")
    before, after = (load_model(path).model.graph for path in (DIGITS_MODEL, tmp_path / "again.onnx"))
    shapes = [
        {name: (value.dtype, list(value.shape or ())) for name, value in one.initializers.items()}
        for one in (before, after)
    ]
    assert shapes[0] == shapes[1]
    assert [node.op_type for node in before] == [node.op_type for node in after]


def test_a_row_is_told_on_one_line(
    tools: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = tools.cuda_prepared.Prepared(tmp_path)
    check = tools.check_cuda._Check(Namespace(minutes=1, only=""), prepared, tmp_path / "rows.jsonl")
    check._keep(iter([{"model": "m", "run": "batch 1", "artifact": "fp16", "form": "", "ms": 1.5}]))
    check._say({"model": "m", "artifact": "fp16", "cosine": 0.99})
    told = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told == ["m | batch 1 | fp16: ms 1.5", "m | fp16: cosine 0.99"]


def test_what_is_there_is_not_measured_again_and_nothing_begins_after_the_minutes(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    rows, row = tmp_path / "rows.jsonl", {"model": "m", "run": "batch 1", "artifact": "fp16", "form": ""}
    tools.cuda_prepared.append_line(rows, row | {"ms": 1.0})
    prepared = tools.cuda_prepared.Prepared(tmp_path)
    patient = tools.check_cuda._Check(Namespace(minutes=1, only=""), prepared, rows)
    assert not patient._is_wanted(row)
    assert patient._is_wanted(row | {"form": "CUDA graph"})
    hasty = tools.check_cuda._Check(Namespace(minutes=0, only=""), prepared, rows)
    assert not hasty._is_wanted(row | {"form": "CUDA graph"})
    assert hasty.unfinished == ["The minutes were over while timing; the same command goes on from there."]


@pytest.mark.parametrize(("fp16", "verdict"), [(2.0, "ok"), (0.9, "missed")])
def test_speeds_are_judged_by_their_ratios_to_fp32(tools: SimpleNamespace, fp16: float, verdict: str) -> None:
    timed = {"model": "resnet50", "run": "batch 1", "form": ""}
    rows = [
        timed | {"artifact": "fp32", "ms": 9.0, "over fp32": 1.0},  # its own times do not count
        timed | {"artifact": "fp16", "ms": 1.0, "over fp32": fp16},
    ]
    found = tools.cuda_verdicts.Verdicts("resnet50", [], rows).all()
    assert [(row["found"], row["verdict"]) for row in found] == [(f"{fp16:.2f}", verdict)]


def test_a_failure_counts_where_the_artifact_is_meant_for_cuda(tools: SimpleNamespace) -> None:
    row = {"model": "resnet50", "run": "batch 1", "form": "", "failed": "no kernel"}
    records = [{"artifact": "fp16", "for_cuda": True, "lacking": {}}, {"artifact": "int8 QDQ"}]
    rows = [row | {"artifact": record["artifact"]} for record in records]
    found = tools.cuda_verdicts.Verdicts("resnet50", records, rows).all()
    assert [one["what"] for one in found if one["verdict"] == "missed"] == ["batch 1: fp16"]


def test_a_time_is_that_of_the_second_model(tools: SimpleNamespace) -> None:
    timing, long, short = sys.modules["cuda_timing"], np.ones(400_000), np.ones(400)
    row = timing.interleaved(lambda: np.sort(long), lambda: np.sort(short))
    assert row["p10"] <= row["ms"] <= row["p90"]
    assert row["over fp32"] > 2  # a thousand numbers against one


@pytest.fixture(scope="module")
def small(tools: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Prepare BERT and the decoder, each of one layer and narrow."""
    cases = tools.cuda_cases
    prepared = tools.cuda_prepared.Prepared(tmp_path_factory.mktemp("prepared"))
    with narrow(tools.architectures):
        for case in cases.cases(None, None, quick=True):
            if case.name in (cases.BERT, cases.DECODER):
                assert next(tools.cuda_prepared.prepare(case, prepared, quick=True))
                rest = list(tools.cuda_prepared.prepare(case, prepared, quick=True))  # goes on
                assert len(rest) == len(case.artifacts)
                assert not list(tools.cuda_prepared.prepare(case, prepared, quick=True))
        step = next(iter(cases.runs(cases.DECODER, quick=True).values()))()
    return SimpleNamespace(prepared=prepared, records=prepared.records(), step=step)


@contextmanager
def narrow(nets: ModuleType) -> Iterator[pytest.MonkeyPatch]:
    """Let architectures be of a few numbers."""
    sizes = {"WIDTH": 96, "HIDDEN": 128, "TOKENS": 500, "STEP_WIDTH": 128, "STEP_HEADS": 4}
    sizes |= {"STEP_HIDDEN": 256, "STEP_TOKENS": 500}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(nets, name, size)
        patch.setattr(nets.Builder.norm, "__defaults__", (sizes["WIDTH"],))
        patch.setattr(nets.Builder.feed_forward, "__defaults__", (sizes["WIDTH"], sizes["HIDDEN"]))
        yield patch


def test_every_form_for_cuda_has_its_kernels_and_is_near_float32(
    tools: SimpleNamespace, small: SimpleNamespace
) -> None:
    cases = tools.cuda_cases
    found = {(one["model"], one["artifact"]): one for one in small.records}
    forms = {(cases.BERT, name) for name in (cases.FP16, cases.BF16, cases.UNPACKED, cases.LENGTHS)}
    forms |= {(cases.DECODER, name) for name in (cases.FP16, cases.IN_PLACE, cases.IN_PLACE_4)}
    assert forms < found.keys()
    for key in forms:
        assert found[key]["lacking"] == {}, key
        # 4 bits keep about 1/16 of each weight's size as error, 16 bits next to none
        assert found[key]["cosine"] > (0.95 if "4 bit" in key[1] else 0.999), key
    folder = small.prepared.folder
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1e6


def test_the_forms_are_in_the_prepared_graphs(tools: SimpleNamespace, small: SimpleNamespace) -> None:
    cases, folder = tools.cuda_cases, small.prepared.folder
    text = {(one["model"], one["artifact"]): (folder / one["file"]).read_text() for one in small.records}
    assert "com.microsoft.Attention" not in text[cases.BERT, cases.UNPACKED]
    assert "mask_filter_value" not in text[cases.BERT, cases.FP16]
    assert "mask_filter_value" in text[cases.BERT, cases.LENGTHS]
    assert "bfloat16" in text[cases.BERT, cases.BF16]
    for name in (cases.IN_PLACE, cases.IN_PLACE_4):
        assert "GroupQueryAttention" in text[cases.DECODER, name]
        assert "Concat" not in text[cases.DECODER, name]
    assert "MatMulNBits" in text[cases.DECODER, cases.IN_PLACE_4]


def test_a_step_with_its_cache_in_place_gives_what_the_other_gives(
    tools: SimpleNamespace, small: SimpleNamespace, tmp_path: Path
) -> None:
    cases = tools.cuda_cases
    found = {}
    for record in small.records:
        if record["artifact"] not in (cases.FP16, cases.IN_PLACE) or record["model"] != cases.DECODER:
            continue
        small.prepared.save(record, tmp_path / "model.onnx")
        session = open_session(tmp_path / "model.onnx", Run(threads=1))
        feeds = cases.with_room(small.step, record["in_place"])
        replay = Replay(session, "cpu", record["in_place"])
        found[record["artifact"]] = next(iter(replay.run(feeds).values()))
    wanted = found[cases.FP16].astype(np.float32)
    difference = found[cases.IN_PLACE].astype(np.float32) - wanted
    # one layer in 11 bits, with other roundings inside attention
    assert np.abs(difference).max() < 16 * 2**-11 * np.abs(wanted).max()


def test_rows_come_one_by_one_and_a_cache_is_timed_in_place(
    tools: SimpleNamespace, small: SimpleNamespace, tmp_path: Path
) -> None:
    """The CPU provider takes CUDA's place; what cannot be there is a row with its reason."""
    timing, cases = sys.modules["cuda_timing"], tools.cuda_cases
    names, first = (cases.FP32, cases.IN_PLACE), cases.title(cases.DECODER, 1)
    own = [one for one in small.records if one["model"] == cases.DECODER and one["artifact"] in names]
    kept = tmp_path / "rows.jsonl"
    for record in own:
        small.prepared.save(record, tmp_path / f"{record['file']}.onnx")

    def on_cpu(provider: str, entries: dict[str, str], cuda_graph: bool = False) -> Run:
        return Run("cpu", threads=1, entries=entries, cuda_graph=cuda_graph)

    def is_wanted(row: dict[str, str]) -> bool:
        return row["artifact"] == cases.IN_PLACE and row["run"] == first

    with narrow(tools.architectures) as patch:
        patch.setattr(timing, "Run", on_cpu)
        patch.setattr(timing, "BLOCK_SECONDS", 1e-3)
        timer = timing.Timer(cases.DECODER, own, small.prepared, tmp_path, is_wanted)
        counts = []
        for row in timer.times():
            tools.cuda_prepared.append_line(kept, row)
            counts.append(len(tools.cuda_prepared.read_lines(kept)))
    plain, graph = tools.cuda_prepared.read_lines(kept)
    assert counts == [1, 2]
    assert plain["p10"] <= plain["ms"] <= plain["p90"]
    assert "no CUDA graphs on provider 'cpu'" in graph["failed"]
