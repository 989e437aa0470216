"""The table of what there is to choose from, where the floor does not hold in integers alone."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

WIDTH = 32
TEXT = f"""<ir_version: 10, opset_import: ["" : 21]>
ruined (float[N,{WIDTH}] x) => (float[N,8] y) {{
    [first] h = MatMul(x, a) r = Relu(h)
    [last] y = MatMul(r, b)
}}"""


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    """Return a model whose first layer gives no weight to a channel that is a thousand times larger."""
    rng, model = np.random.default_rng(0), onnx.parser.parse_model(TEXT)
    first, last = rng.normal(size=(WIDTH, WIDTH)), rng.normal(size=(WIDTH, 8))
    first[0] = 0
    for name, weight in (("a", first), ("b", last)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, tmp_path / "ruined.onnx")
    x = rng.normal(size=(64, WIDTH)).astype(np.float32)
    x[:, 0] *= 1000
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path / "ruined.onnx"


def test_the_table_takes_eighty_columns(onnxq, ruined: Path) -> None:
    output, data = ruined.with_name("out.onnx"), ruined.with_name("data.npz")
    result = onnxq("compile", ruined, "-o", output, "--data", data, "--no-choose", "--no-tune")
    assert result.exit_code == 0
    table = result.stdout[result.stdout.index("Frontier") :].split("\n\n")[0]
    assert "1 of 2" in table
    assert "as here" in table
    assert max(map(len, table.splitlines())) <= 80
    assert "kept 1 of 2 layers in float" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("floor", "layers"), [("off", set()), ("0", set()), ("14.5", {"first"})])
def test_the_floor_is_an_option(onnxq, ruined: Path, floor: str, layers: set[str]) -> None:
    output, data = ruined.with_name("out.onnx"), ruined.with_name("data.npz")
    quick = ("--no-choose", "--no-bench", "--json")
    result = onnxq("compile", ruined, "-o", output, "--data", data, *quick, "--min-sqnr", floor)
    manifest = json.loads(result.stdout)["manifest"]
    assert set(manifest["recipe"]["precision"]["layers"]) == layers
    assert len(manifest["frontier"] or ()) == 3 * len(layers)


def test_a_floor_is_a_number_or_off(onnxq, ruined: Path) -> None:
    result = onnxq("compile", ruined, "-o", ruined.with_name("out.onnx"), "--min-sqnr", "high")
    assert result.exit_code == 2
    assert "'high' is neither a number nor off" in " ".join(result.stderr.replace("│", " ").split())
