"""Each command on a real, small model: what it prints, writes and exits with."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.analysis.products import saturating_products
from onnxq.ir import store
from onnxq.ir.store import load_model
from onnxq.recipe import load_recipe
from onnxq.runtime.session import usable_provider


def loaded(text: str, command: str) -> dict[str, Any]:
    content = json.loads(text)
    assert (content["schema"], content["command"]) == (1, command)
    return dict(content)


def test_compile_writes_model_manifest_and_report(compiled: Path) -> None:
    names = {path.name for path in compiled.parent.iterdir()}
    assert names == {"out.onnx", "out.manifest.json", "out.report.md"}
    manifest = json.loads(compiled.with_suffix(".manifest.json").read_text())
    assert manifest["output"]["digest"] == hashlib.sha256(compiled.read_bytes()).hexdigest()
    assert manifest["recipe"]["name"] == "cpu"


def test_compile_reads_the_source_once(
    onnxq, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All graphs of it, that which the data is read for too, are one."""
    read: list[Path] = []
    parsed = store._read
    monkeypatch.setattr(store, "_read", lambda path: [read.append(path), parsed(path)][1])
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", "--data", data, "--no-tune", "--no-bench")
    assert result.exit_code == 0
    assert read.count(model) == 1


def test_compile_prints_results_to_stdout_and_remarks_to_stderr(
    onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    result = onnxq(
        *("compile", model, "-o", output, "--data", data, "--label-column", "label", "--no-bench"),
        *("--time-passes", "--print-after", "insert-qdq", "--dump", tmp_path / "dump"),
    )
    assert result.exit_code == 0
    assert "cosine of the outputs" in result.stdout
    assert "encode-weights" in result.stdout
    assert f"wrote {output}\n" in result.stdout
    assert "warning: compared on the samples that ranges were measured on" in result.stderr
    assert "# after pass" in result.stderr
    assert list((tmp_path / "dump").glob("*-insert-qdq.onnxtxt"))


def test_compile_repeats_byte_for_byte_from_its_manifest(
    onnxq, model: Path, compiled: Path, data: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    chosen = "--recipe", compiled.with_suffix(".manifest.json"), "--data", data
    result = onnxq("compile", model, "-o", again, *chosen, "--no-bench", "--no-validate")
    assert result.exit_code == 0, result.stderr
    assert again.read_bytes() == compiled.read_bytes()


@pytest.mark.parametrize("chosen", [(), ("--recipe", "portable")], ids=["default", "portable"])
def test_what_is_compiled_for_any_processor_saturates_on_none(
    onnxq, model: Path, data: Path, tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    out = tmp_path / "any.onnx"
    result = onnxq(
        "compile", model, "-o", out, "--data", data, "--target", "cpu-any", *chosen, "--no-bench", "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert loaded(result.stdout, "compile")["manifest"]["recipe"]["processor"] == "any"
    assert not saturating_products(load_model(out))


def test_compile_without_data_says_what_data_would_bring(onnxq, model: Path, tmp_path: Path) -> None:
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", "--no-bench", "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: no --data: activations are quantized at run time.")
    content = loaded(result.stdout, "compile")
    assert content["passed"]
    assert content["manifest"]["recipe"]["name"] == "cpu-dynamic"


def test_the_smallest_file_says_nothing_of_measured_activations(onnxq, model: Path, tmp_path: Path) -> None:
    arguments = ("--target", "cpu-size", "--no-bench", "--no-validate", "--json")
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", *arguments)
    assert result.exit_code == 0
    assert "at run time" not in result.stderr
    assert loaded(result.stdout, "compile")["manifest"]["recipe"]["name"] == "cpu-size"


def test_compile_runs_the_first_passes_only(onnxq, model: Path, tmp_path: Path) -> None:
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", "--no-bench", "--bisect-limit", 2, "--json")
    assert len(loaded(result.stdout, "compile")["manifest"]["passes"]) == 2
    assert "only the first 2 passes run" in result.stderr


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_compile_with_a_missed_gate_shows_what_was_measured(
    onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.onnx"
    result = onnxq(
        *("compile", model, "-o", output, "--data", data, "--recipe", "portable"),
        *("--no-bench", "--min-cosine", "1", "--json"),
    )
    assert result.exit_code == 1
    content = loaded(result.stdout, "compile")
    assert not content["passed"]
    assert content["manifest"]["recipe"]["gates"]["min_cosine"] == 1
    assert "min-cosine: output 'y' has 0.99" in result.stderr


def test_compile_takes_a_pipeline_and_settings(onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    result = onnxq(
        *("compile", model, "-o", tmp_path / "out.onnx", "--data", data, "--no-bench", "--json"),
        *("--pipeline", "encode-weights, encode-activations, insert-qdq", "--target", "portable"),
        *("--set", "encode-activations.method=mse"),
    )
    recipe = loaded(result.stdout, "compile")["manifest"]["recipe"]
    assert recipe["pipeline"] == "encode-weights,encode-activations{method=mse},insert-qdq"
    assert (recipe["name"], recipe["target"]) == ("custom", "portable")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--recipe", "cpu"],
            "error: recipe 'cpu': it measures activations, and there is no data\n  hint: give --data",
        ),
        (["--target", "tensorrt"], "error: recipe 'tensorrt': it measures activations, and there is no data"),
        (["--recipe", "cpuu"], "error: unknown recipe 'cpuu'\n  hint: did you mean 'cpu'?"),
        (
            ["--recipe", "fp32", "--pipeline", ""],
            "error: both --recipe and --pipeline are given\n  hint: give one",
        ),
        (["--pipeline", "fold-constant"], "^^^^^^^^^^^^^\n  hint: did you mean 'fold-constants'?"),
        (["--set", "fold-batch-norms.x=1"], "has no pass 'fold-batch-norms'"),
        (["--target", "gpu"], "error: unknown target 'gpu'\n  hint: did you mean 'cpu'?"),
        (["--data", "nowhere.npz"], "error: nowhere.npz: there is no such file or folder"),
        (
            ["--data", "random", "--size", "big"],
            "error: --size: 'big' is no size\n  hint: write it like 224 or 224x320",
        ),
        (
            ["--data", "random", "--mean", "a,b"],
            "error: --mean: 'a,b' is no list of numbers\n  hint: write it like --mean",
        ),
        (["--metric", "top2"], "error: metric 'top2': no such metric"),
        (["--min-cosine", "3"], "error: gate min-cosine: 3.0 is not possible"),
        (
            ["--min-cosine", "0.9", "--no-validate"],
            "error: gate min-cosine: it cannot be measured, as the models are not compared\n",
        ),
        (
            ["--print-after", "encode-weigths"],
            "error: --print-after: the recipe 'cpu-dynamic' has no pass 'encode-weigths'\n"
            "  hint: did you mean 'encode-weights'?",
        ),
        (["--threads", "100000"], "Invalid value for '--threads'"),
        (["--max-drop", "1"], "error: gate max-drop: it needs a task metric\n  hint: name one, such as"),
        (["--table", "nowhere.json"], "error: nowhere.json: cannot be read"),
    ],
)
def test_compile_tells_wrong_options_in_one_line(
    onnxq, model: Path, tmp_path: Path, arguments, message: str
) -> None:
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_calibrate_writes_a_table_that_compile_takes(onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    table, output, wanted = (tmp_path / name for name in ("table.json", "out.onnx", "wanted.onnx"))
    onnxq("compile", model, "-o", wanted, "--data", data, "--no-choose", "--no-bench", "--no-validate")
    result = onnxq("calibrate", model, "--data", data, "-o", table, "--json")
    assert result.exit_code == 0, result.stderr
    assert loaded(result.stdout, "calibrate")["samples"] == 24
    assert (
        onnxq("compile", model, "-o", output, "--table", table, "--no-bench", "--no-validate").exit_code == 0
    )
    assert output.read_bytes() == wanted.read_bytes()
    assert "wrote" in onnxq("calibrate", model, "--data", data, "-o", table).stdout


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_validate_compares_and_judges(onnxq, model: Path, compiled: Path, data: Path) -> None:
    arguments = ["validate", model, compiled, "--data", data]
    report = loaded(onnxq(*arguments, "--json").stdout, "validate")
    assert report["samples"] == 24
    assert report["outputs"][0]["cosine"] > 0.999
    passed = onnxq(*arguments, "--min-cosine", "0.99")
    assert (passed.exit_code, "compared on 24 samples" in passed.stdout) == (0, True)
    missed = onnxq(*arguments, "--max-abs", "1e-9")
    assert (missed.exit_code, "largest diff." in missed.stdout) == (1, True)
    assert "wanted at most 1e-09" in missed.stderr


def test_validate_takes_labels_and_a_metric_of_the_users_own(
    onnxq, model: Path, compiled: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metric.py").write_text(
        "def positive(outputs, batch):\n    return (outputs['y'].sum((1, 2)) > 0) == (batch.labels > 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = onnxq(
        *("validate", model, compiled, "--data", data, "--label-column", "label"),
        *("--metric", "own_metric:positive", "--max-drop", "100"),
    )
    assert result.exit_code == 0, result.stderr
    assert "own_metric:positive" in result.stdout


def test_bench_times_side_by_side(onnxq, model: Path, compiled: Path) -> None:
    arguments = [
        "bench",
        model,
        compiled,
        "--shape",
        "x=2x5x4",
        "--rounds",
        5,
        "--seconds",
        0.1,
        "--no-memory",
    ]
    result = onnxq(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "Kernels of small.onnx" in result.stdout
    assert "5 rounds; provider cpu, threads: 1, batch 2." in result.stdout
    report = loaded(onnxq(*arguments, "--json").stdout, "bench")
    assert [one["name"] for one in report["models"]] == ["small.onnx", "out.onnx"]
    assert report["padding"] == {}  # no attention_mask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "error: there is nothing to feed the models\n  hint: give --data DATA, --data random, or --shape",
        ),
        (["--shape", "x:1"], "error: --shape: 'x:1' is no shape\n  hint: write it like input_ids=1x128"),
        (["--shape", "z=1x5x4"], "error: --shape: the model has no input 'z'\n  hint: choose from: x"),
        (["--shape", "x=1x5x4", "--data", "random"], "error: both --data and --shape are given"),
        (["--data", "random", "--provider", "gpu"], "error: --provider: unknown provider 'gpu'"),
        (
            ["--data", "random", "--session-option", "=1"],
            "error: --session-option: '=1' is no entry\n  hint: w",
        ),
        (
            ["--data", "random", "--session-option", "x"],
            "error: --session-option: 'x' is no entry\n  hint: w",
        ),
        (
            ["--data", "random", "--cuda-graph"],
            "error: there are no CUDA graphs on provider 'cpu'\n  hint: ask for them with --provider cuda",
        ),
        (
            ["--data", "random", "--session-option", "optimization.minimal_build_optimizations=X"],
            "Invalid value for optimization",
        ),
    ],
)
def test_bench_tells_wrong_options_in_one_line(
    onnxq, model: Path, arguments: list[str], message: str
) -> None:
    result = onnxq("bench", model, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize("command", ["bench", "validate"])
def test_sessions_are_opened_as_the_manifest_beside_a_model_says(
    onnxq, model: Path, compiled: Path, tmp_path: Path, command: str
) -> None:
    wanting = tmp_path / "wanting.onnx"
    wanting.write_bytes(compiled.read_bytes())
    manifest = tmp_path / "wanting.manifest.json"
    for text, message in (
        (
            '{"session_options": {"optimization.minimal_build_optimizations": "X"}}',
            "asks for the session entry optimization.minimal_build_optimizations=X, which no target",
        ),
        ('{"session_options": {"ep.cuda.fpa_intb_gemm": []}}', "which no target of onnxq does"),
        ("[]", f"error: {manifest}: this is no manifest"),
    ):
        manifest.write_text(text)
        result = onnxq(command, model, wanting, "--data", "random", "--limit", 2)
        assert result.exit_code == 2
        assert message in result.stderr
    content = json.loads(compiled.with_suffix(".manifest.json").read_text())
    content["session_options"] = {"ep.cuda.fpa_intb_gemm": "1"}
    manifest.write_text(json.dumps(content))
    result = onnxq(command, model, wanting, "--data", "random", "--limit", 2)
    assert result.exit_code == 0
    assert "note: wanting.onnx: as its manifest asks, ep.cuda.fpa_intb_gemm=1" in result.stderr


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("command", ["bench", "validate", "diff", "inspect"])
def test_a_provider_that_is_not_there_is_told_in_one_line(
    onnxq, model: Path, compiled: Path, command: str, provider: str
) -> None:
    if usable_provider(provider) is not None:
        pytest.skip(f"{provider} is here")
    models = [compiled, "--kernels"] if command == "inspect" else [model, compiled]
    result = onnxq(command, *models, "--data", "random", "--limit", 2, "--provider", provider)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr
    absent = (f"the installed ONNX Runtime has no provider '{provider}'", "GPU", "libraries are missing")
    assert any(message in result.stderr for message in absent)


@pytest.mark.cuda
def test_a_cuda_graph_gives_what_plain_runs_give(onnxq, cuda: None, model: Path) -> None:
    on_gpu = ["--data", "random", "--limit", 2, "--provider", "cuda", "--cuda-graph"]
    result = onnxq("validate", model, model, *on_gpu, "--max-abs", 0)
    assert result.exit_code == 0, result.stderr
    result = onnxq("bench", model, *on_gpu, "--rounds", 5)
    assert result.exit_code == 0, result.stderr


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_inspect_shows_operators_and_encodings(onnxq, compiled: Path) -> None:
    shown = onnxq("inspect", compiled, "--kernels").stdout
    for text in (
        "QuantizeLinear",
        "float[N,5,4]",
        "int8, axis 1",
        "Quantized values",
        "MatMulIntegerToFloat",
    ):
        assert text in shown
    content = loaded(onnxq("inspect", compiled, "--kernels", "--text", "--json").stdout, "inspect")
    assert content["kernels"]["kinds"]["integer"] == 2
    assert content["parameters"] > 18
    assert "mlp_3d (float[N,5,4] x)" in content["text"]
    assert "QuantizeLinear" in onnxq("inspect", compiled, "--text").stdout


def test_inspect_tells_what_is_no_model(onnxq, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"PK\x03\x04")
    result = onnxq("inspect", tmp_path / "x.onnx")
    assert result.exit_code == 2
    assert "this is not an ONNX model: it is a zip archive" in result.stderr


def test_passes_lists_all_and_describes_one(onnxq) -> None:
    assert "insert-qdq" in onnxq("passes").stdout
    one = onnxq("passes", "encode-activations").stdout
    assert one.startswith("encode-activations (exact, from onnxq)\n")
    assert "all-tensors" in one
    (content,) = loaded(onnxq("passes", "convert-opset", "--json").stdout, "passes")["passes"]
    minimum = content["options"][0]
    assert (minimum["name"], minimum["type"], minimum["default"]) == ("minimum", "int", "13")
    assert minimum["meaning"].startswith("The operator set that later passes want")
    unknown = onnxq("passes", "insert-qdx")
    assert (unknown.exit_code, "did you mean 'insert-qdq'?" in unknown.stderr) == (2, True)


def test_recipes_lists_all_and_prints_one_to_start_from(onnxq, tmp_path: Path) -> None:
    assert "cpu-dynamic" in onnxq("recipes").stdout
    own, shown = tmp_path / "own.toml", onnxq("recipes", "cpu").stdout
    own.write_text(shown)
    assert load_recipe(own) == load_recipe("cpu")
    listed = loaded(onnxq("recipes", "--json").stdout, "recipes")
    assert len(listed["recipes"]) >= 5
    assert listed["fragments"]["realise"] == "insert-qdq, remove-dead"


def test_recipes_prints_a_pipeline_with_its_fragments_and_without(onnxq) -> None:
    shown = onnxq("recipes", "cpu").stdout
    assert "\nremove-initializer-inputs, inline-functions, lift-constants," in shown
    assert "\n# @tidy,\n" in shown
    (content,) = loaded(onnxq("recipes", "cpu", "--json").stdout, "recipes")["recipes"]
    assert content["pipeline"].startswith("remove-initializer-inputs, ")
    assert content["as_written"].startswith("@tidy,\n")
    assert "@tidy" in onnxq("recipes").stdout


def test_a_pipeline_on_the_command_line_may_name_fragments(onnxq, model: Path, tmp_path: Path) -> None:
    unknown = onnxq("compile", str(model), "-o", str(tmp_path / "x.onnx"), "--pipeline", "@tdy")
    assert (unknown.exit_code, "did you mean 'tidy'?" in unknown.stderr) == (2, True)


def test_doctor_shows_versions_and_extras(onnxq) -> None:
    result = onnxq("doctor")
    assert result.exit_code == 0
    assert "CPUExecutionProvider" in result.stdout
    assert "TensorRT's libraries: " in result.stdout
    content = loaded(onnxq("doctor", "--json").stdout, "doctor")
    assert content["denormal_cost"] > 0
    assert content["versions"]["numpy"] == np.__version__
    assert content["extras"]["cpu"] == []
    assert "test" not in content["extras"]


@pytest.mark.parametrize(("cost", "told"), [(4.31, "4.3x the time"), (1.1, "as fast as others")])
def test_doctor_tells_what_denormal_numbers_cost(onnxq, monkeypatch, cost: float, told: str) -> None:
    monkeypatch.setattr("onnxq.runtime.denormals.denormal_cost", lambda: cost)
    assert told in onnxq("doctor").stdout


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_demo_does_the_whole_job(onnxq, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the demo extra is not installed")
    result = onnxq("demo", "-o", tmp_path / "demo", "--json")
    assert result.exit_code == 0, result.stderr
    manifest = loaded(result.stdout, "compile")["manifest"]
    assert abs(manifest["accuracy"]["metric"]["drop_points"]) <= 0.6  # 3 of 500 held-out images
    assert manifest["kernels"]["kinds"]["integer"] > 0
    assert len(list((tmp_path / "demo").iterdir())) == 3


def test_an_interrupted_run_says_so_and_can_be_repeated(
    onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ["compile", str(model), "-o", str(tmp_path / "out.onnx"), "--data", str(data)]
    # shells let jobs in the background ignore interrupts, and the child would inherit that
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{listen}\nfrom onnxq.cli.app import make_app\nmake_app()({arguments})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob(".onnxq-*/new/out.onnx")):
            time.sleep(0.05)  # what follows, validating and timing, takes seconds
        process.send_signal(signal.SIGINT)
        _, remarks = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.fullmatch(
        r"error: interrupted: \d+ values that were measured are kept for the next run",
        remarks.splitlines()[-1],
    )
    assert not list(tmp_path.glob("out.*"))
    again = onnxq(*arguments, "--no-bench", "--json")
    assert again.exit_code == 0
    used = loaded(again.stdout, "compile")["manifest"]["data"]
    assert (used["measured"], used["recalled"] > 0) == (0, True)


def test_sensitivity_writes_what_compile_takes(onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    keep, output = tmp_path / "keep.toml", tmp_path / "out.onnx"
    keep.write_text(onnxq("sensitivity", model, "--data", data, "--samples", 4, "--keep", 1).stdout)
    assert keep.read_text().startswith("[precision.layers]\n")
    quick = ("--no-bench", "--no-validate", "--no-tune", "--no-choose")
    asked = onnxq("compile", model, "-o", output, "--data", data, "--precision", keep, *quick)
    assert asked.exit_code == 0, asked.stderr
    manifest = json.loads(output.with_suffix(".manifest.json").read_text())
    (one,) = manifest["precision"]
    assert (one["kind"], one["assigned"], one["given"]) == ("layer", "float", "float")
    assert list(manifest["recipe"]["precision"]["layers"].values()) == ["float"]
    keep.write_text('[precision.layers]\n"nobody" = "float"\n')
    wrong = onnxq("compile", model, "-o", output, "--data", data, "--precision", keep, *quick)
    assert (wrong.exit_code, "precision.layers: 'nobody'" in wrong.stderr) == (2, True)


def test_sensitivity_ranks_tensors_and_layers(onnxq, model: Path, data: Path) -> None:
    result = onnxq("sensitivity", model, "--data", data, "--samples", 4, "--top", 1)
    assert result.exit_code == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "everything" in result.stdout
    assert "Tensors: the worst 1 of" in result.stdout
    assert "warning: compared on the samples that ranges were measured on" in result.stderr
    arguments = ("--samples", 4, "--set", "encode-activations.dtype=int8", "--json")
    content = loaded(onnxq("sensitivity", model, "--data", data, *arguments).stdout, "sensitivity")
    assert content["version"] == 1
    assert {entry["dtype"] for entry in content["tensors"]} == {"int8"}
    ranked = [entry["alone_db"] for entry in content["tensors"] if entry["alone_db"] is not None]
    assert ranked == sorted(ranked)


@pytest.mark.skipif(usable_provider("cuda") is not None, reason="there is a GPU")
def test_tuning_for_a_device_that_is_not_here_is_refused(onnxq, model: Path, tmp_path: Path) -> None:
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", "--target", "cuda", "--tune")
    assert result.exit_code == 2
    assert "--tune times forms on provider cuda, which is not here" in result.stderr
    assert "onnxq doctor" in result.stderr
    assert not (tmp_path / "out.onnx").exists()
