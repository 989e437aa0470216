"""Encodings as nodes: read back however a graph has them, and written by the form of their family."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.analysis.quantized import dequantized, read_dequantize, read_quantize
from onnxq.errors import PassError
from onnxq.ir.text import parse
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.encodings import Affine, Encoding, encoding_of
from onnxq.quant.encodings.base import Float32, FloatArray
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.qdq import forms
from onnxq.rewrite.qdq.base import Form
from onnxq.rewrite.qdq.pairs import Pairs
from onnxq.rewrite.switches import insert_switches
from onnxq.target import find_target
from onnxq.testing.laws import run_model

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'

PER_TENSOR = encoding_of(np.array(0.5), np.array(3), "uint8")
FORMS = {
    "per tensor": ("float s = {0.5}, uint8 z = {3}", "", "s, z", PER_TENSOR),
    "one scale in a vector": ("float[1] s = {0.5}, uint8[1] z = {3}", "<axis = 0>", "s, z", PER_TENSOR),
    "no zero point": ("float s = {0.5}", "", "s", encoding_of(np.array(0.5), np.array(0), "uint8")),
    "per channel, axis 1 by default": (
        "float[2] s = {0.5, 2}, int8[2] z = {0, 1}",
        "",
        "s, z",
        encoding_of(np.array([0.5, 2]), np.array([0, 1]), "int8", 1),
    ),
    "in blocks": (
        "float[2,2] s = {0.5, 2, 1, 4}, int8[2,2] z = {0, 1, 2, 3}",
        "<axis = 0, block_size = 2>",
        "s, z",
        encoding_of(np.array([[0.5, 2], [1, 4]]), np.array([[0, 1], [2, 3]]), "int8", 0, 2),
    ),
    "computed": ("float s0 = {0.5}", "", "s", None),
    "no zero point that is known": ("float s = {0.5}, uint8 z0 = {3}", "", "s, z", None),
    "nobody's grid": ("float s = {0}, uint8 z = {3}", "", "s, z", None),
}


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
@pytest.mark.parametrize("form", FORMS)
def test_both_operators_tell_their_encoding(form: str, domain: str) -> None:
    weights, attributes, grid, expected = FORMS[form]
    computed = "".join(f"{name} = Identity({name}0)\n" for name in "sz" if f" {name}0 =" in weights)
    module = parse(
        f"{HEAD}\nmain (float[4,2] x) => (float[4,2] y)\n<{weights}>\n{{\n{computed}"
        f"q = {domain}QuantizeLinear{attributes}(x, {grid})\n"
        f"y = {domain}DequantizeLinear{attributes}(q, {grid})\n}}\n"
    )
    quantize, dequantize = list(module.graph)[-2:]
    made, read = read_quantize(quantize), read_dequantize(dequantize)
    assert made is not None
    assert read is not None
    assert made.encoding == read.encoding == expected
    assert made.stored is read.stored is quantize.outputs[0]
    assert dequantized(module.value("y")) == read
    assert read_dequantize(quantize) is read_quantize(dequantize) is dequantized(module.value("x")) is None


@pytest.mark.parametrize(("code", "expected"), [("", "uint8"), ("3", "int8"), ("17", "float8e4m3fn")])
def test_a_quantizer_without_a_zero_point_declares_its_type(code: str, expected: str) -> None:
    declared = f"<output_dtype = {code}>" if code else ""
    graph = f"main (float[4,2] x) => (y)\n<float s = {{0.5}}>\n{{\ny = QuantizeLinear{declared}(x, s)\n}}\n"
    found = read_quantize(next(iter(parse(f"{HEAD}\n{graph}").graph)))
    assert found is not None
    assert found.dtype == expected
    assert isinstance(found.encoding, Encoding)


def test_other_nodes_are_none() -> None:
    module = parse(f"{HEAD}\nmain (float[4,2] x) => (float[4,2] y)\n{{\ny = Relu(x)\n}}\n")
    node = next(iter(module.graph))
    assert read_quantize(node) is read_dequantize(node) is dequantized(None) is None


@dataclass(frozen=True, eq=False)
class Twin(Affine):
    """Two grids: what the fine one cuts off is rounded to the coarse one.

    Source: Yuan et al., 2022, arXiv:2111.12293 (twin uniform quantization), as the sum of two encodings.
    """

    ratio: int = 16

    @property
    def form(self) -> tuple[object, ...]:
        """The ratio of the two counts as well."""
        return *super().form, self.ratio

    @property
    def parts(self) -> tuple[Affine, Affine]:
        """The fine grid and the coarse one."""
        fine, coarse = (Affine(self.scale * by, self.zero_point, self.dtype) for by in (1, self.ratio))
        return fine, coarse

    def restored(self, values: FloatArray) -> Float32:
        """Return the sum of what both restore."""
        fine, coarse = self.parts
        kept = fine.restored(values)
        return kept + coarse.restored(values - kept)


class TwinForm(Form):
    """A pair for the value, and one for what the first has cut off."""

    def takes(self, encoding: Encoding) -> bool:
        return isinstance(encoding, Twin)

    def activation(self, value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
        assert isinstance(encoding, Twin)
        fine, coarse = encoding.parts

        def join(op_type: str, one: ir.Value, other: ir.Value, part: str) -> ir.Value:
            return edit.behind(other, why="twin grids")(op_type, one, other, name=f"{value.name}_{part}")

        kept = Pairs().activation(value, fine, edit)
        rest = join("Sub", value, kept, "rest")
        return join("Add", kept, Pairs().activation(rest, coarse, edit), "twin")

    def constant(self, value: ir.Value, encoding: Encoding, readers: Sequence[ir.Node], edit: Editor) -> None:
        raise AssertionError("the case encodes no constant")


def test_a_family_of_its_own_form_is_written_by_the_same_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "FORMS", [TwinForm(), *forms.FORMS])
    text = f"{HEAD}\nmain (float[8,32] x) => (float[8,32] y)\n{{\nh = Softmax(x)\n y = Relu(h)\n}}\n"
    before, module = parse(text), parse(text)
    encoding = Twin(np.array(1 / 16 / 255), np.array(0), "uint8")
    run = parse_pipeline("insert-qdq")[0]
    edit = Editor(module)
    edit.encode(next(value for value in module.values() if value.name == "h"), encoding, why="a test")
    run.run(module, PassContext(edit, find_target("cpu"), np.random.default_rng(0)))
    pair = ["QuantizeLinear", "DequantizeLinear"]
    operators = [node.op_type for node in module.graph]
    assert operators == ["Softmax", *pair, "Sub", *pair, "Add", "Relu"]
    feeds = {"x": 4 * np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)}
    exact = run_model(before, feeds)["y"]
    # Both compute Softmax alike, and each number is rounded to float32 where the test rounds it.
    np.testing.assert_array_equal(run_model(module, feeds)["y"], encoding.restored(exact))
    plain = Affine(np.array(1 / 255), np.array(0), "uint8").restored(exact)
    assert np.square(encoding.restored(exact) - exact).sum() < np.square(plain - exact).sum() / 2


def test_switches_refuse_what_is_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "FORMS", [TwinForm(), *forms.FORMS])
    module = parse(f"{HEAD}\nmain (float[8,32] x) => (float[8,32] y)\n{{\nh = Softmax(x)\n y = Relu(h)\n}}\n")
    encoding = Twin(np.array(1 / 16 / 255), np.array(0), "uint8")
    Editor(module).encode(
        next(value for value in module.values() if value.name == "h"), encoding, why="a test"
    )
    with pytest.raises(PassError, match="value 'h': encodings of type Twin have no switch"):
        insert_switches(module)


def test_a_family_without_a_form_is_our_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "FORMS", [TwinForm()])
    with pytest.raises(PassError, match="encodings of type Affine have no form as nodes"):
        forms.form_of(PER_TENSOR)
