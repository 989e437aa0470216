"""onnxq inspect --sites: where scales can move."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from onnxq.digits import DIGITS_MODEL

Onnxq = Callable[..., Result]


def test_sites_are_listed(onnxq: Onnxq) -> None:
    shown = onnxq("inspect", DIGITS_MODEL, "--sites")
    assert shown.exit_code == 0, shown.stderr
    assert "Fold sites" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    sites = json.loads(onnxq("inspect", DIGITS_MODEL, "--sites", "--json").stdout)["sites"]
    kinds = [site["kind"] for site in sites]
    assert [kinds.count(kind) for kind in ("norm", "query-key", "value", "activation")] == [5, 2, 2, 3]
    first = next(site for site in sites if site["kind"] == "norm")
    assert len(first["layers"]) == 3
    assert first["shift"]
    assert not first["paid"]


def test_no_site_is_no_error(onnxq: Onnxq, models: Path, tmp_path: Path) -> None:
    from onnxq.ir.store import save_model
    from onnxq.ir.text import parse

    text = '<ir_version: 10, opset_import: ["" : 21]> main (float[N] x) => (float[N] y) { y = Relu(x) }'
    save_model(parse(text), tmp_path / "relu.onnx")
    shown = onnxq("inspect", tmp_path / "relu.onnx", "--sites")
    assert shown.exit_code == 0, shown.stderr
    assert "Fold sites" in shown.stdout
