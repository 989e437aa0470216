"""onnxq report and what Python objects show of themselves."""

import json
from pathlib import Path

import pytest

from onnxq.story import read_story


@pytest.fixture(scope="module")
def compiled(onnxq, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compiled") / "out.onnx"
    result = onnxq(
        "compile", model, "-o", output, "--data", data, "--no-choose", "--no-tune", "--threads", "1"
    )
    assert result.exit_code == 0, result.stderr
    return output.with_suffix(".manifest.json")


def test_the_text_tells_results_work_and_ranges(onnxq, compiled: Path) -> None:
    result = onnxq("report", compiled)
    assert result.exit_code == 0
    for title in ("Result", "Accuracy", "Latency", "Kernels", "Passes", "Why", "Ranges"):
        assert f"\n{title}\n" in f"\n{result.stdout}"


def test_choices_are_told(onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    quick = ("--limit", 8, "--no-bench", "--no-validate", "--threads", 1)
    assert onnxq("compile", model, "-o", output, "--data", data, "--no-tune", *quick).exit_code == 0
    shown = onnxq("report", output.with_suffix(".manifest.json")).stdout
    assert "\nChoices\n" in f"\n{shown}"


def test_ranges_stand_beside_the_grid_that_holds_them(onnxq, compiled: Path) -> None:
    content = json.loads(onnxq("report", compiled, "--json").stdout)
    assert (content["schema"], content["command"]) == (1, "report")
    assert "table" not in content
    tensors = content["tensors"]
    assert tensors
    for tensor in tensors:
        step = (tensor["clip_high"] - tensor["clip_low"]) / 255
        assert tensor["clip_low"] - step <= tensor["low"]  # min-max covers what was seen, up to rounding
        assert tensor["high"] <= tensor["clip_high"] + step
        assert tensor["sqnr_db"] is None  # no histogram was asked for


def test_with_data_histograms_and_channels_are_measured(
    onnxq, compiled: Path, model: Path, data: Path
) -> None:
    result = onnxq("report", compiled, "--source", model, "--data", data, "--json")
    tensors = json.loads(result.stdout)["tensors"]
    measured = [tensor for tensor in tensors if tensor["sqnr_db"] is not None]
    assert measured
    for tensor in measured:
        assert len(tensor["edges"]) == len(tensor["heights"]) + 1
        assert tensor["outliers"][0][1] >= 1
        assert 20 < tensor["sqnr_db"] < 70  # 8 bits: about 48 dB if the range were filled evenly
    assert measured == sorted(measured, key=lambda tensor: tensor["sqnr_db"])


def test_a_wrong_file_is_refused(onnxq, model: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    result = onnxq("report", wrong)
    assert result.exit_code == 2
    assert "it is no manifest" in result.stderr
    assert "it cannot be read" in onnxq("report", tmp_path / "none.json").stderr
    assert "--source and --data belong together" in onnxq("report", wrong, "--source", model).stderr


def test_without_the_extra_a_page_is_refused_and_the_text_works(
    onnxq, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "igraph", None)
    page = tmp_path / "page.html"
    result = onnxq("report", compiled, "--html", page)
    assert result.exit_code == 2
    assert 'pip install "onnxq[report]"; without it, text and --json still work' in result.stderr
    assert not page.exists()
    assert onnxq("report", compiled).exit_code == 0


def test_objects_show_themselves_as_tables(compiled: Path, model: Path) -> None:
    from onnxq.analysis.overview import overview
    from onnxq.compilation import CompileResult
    from onnxq.diff.models import diff_models
    from onnxq.ir.store import load_model

    module = load_model(model)
    diff = diff_models(model, compiled.with_name("out.onnx"))
    story = read_story(compiled)
    told = story.manifest
    result = CompileResult(compiled.with_name("out.onnx"), told, (), told.accuracy, told.latency)
    reports = (told.accuracy, told.latency, told.kernels)
    for thing in (story, module, overview(module), diff, result, *reports):
        html = thing._repr_html_()
        assert html.startswith("<table><caption>")
        assert html.count("<table>") == html.count("</table>")
    assert "Linear -&gt; Q" in diff._repr_html_()
