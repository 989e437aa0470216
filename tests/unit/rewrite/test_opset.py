"""A model in another operator set gives, bit for bit, what ONNX Runtime makes of it in its own."""

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule
from onnxq.rewrite.opset import convert_opset
from onnxq.rewrite.opset_rules import RULES
from onnxq.rewrite.retired import RETIRED
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.testing.laws import random_feeds

X = "float[2,4,6,5] x"
Y = "float[A,B,C,D] y"

CASES = {
    "Softmax in the middle": (12, X, Y, "y = Softmax <axis: int = 2> (x)"),
    "Softmax by default": (9, X, Y, "y = Softmax (x)"),
    "Softmax before ones": (11, "float[2,4,1,1] x", Y, "y = Softmax (x)"),
    "Softmax over the last axis": (11, X, Y, "y = Softmax <axis: int = 3> (x)"),
    "Softmax from behind": (11, X, Y, "y = Softmax <axis: int = -2> (x)"),
    "LogSoftmax of all": (11, X, Y, "y = LogSoftmax <axis: int = 0> (x)"),
    "Hardmax": (11, X, Y, "y = Hardmax (x)"),
    "BatchNormalization": (7, X, Y, "y = BatchNormalization <spatial: int = 1> (x, v, v, v, v)"),
    "BatchNormalization in training": (
        9,
        X,
        Y,
        "y, m, s, saved_m, saved_s = BatchNormalization (x, v, v, v, v)",
    ),
    "Upsample nearest": (7, X, Y, "y = Upsample <scales: floats = [1.0, 1.0, 2.0, 1.5]> (x)"),
    "Upsample linear": (9, X, Y, 'y = Upsample <mode: string = "linear"> (x, grown)'),
    "Resize nearest, growing": (10, X, Y, "y = Resize (x, grown)"),
    "Resize nearest, shrinking": (10, X, Y, "y = Resize (x, shrunk)"),
    "Resize nearest, both": (10, X, Y, "y = Resize (x, mixed)"),
    "Resize nearest, told at run time": (10, X, Y, "s = Abs(mixed_too) y = Resize (x, s)"),
    "Resize linear, growing": (10, X, Y, 'y = Resize <mode: string = "linear"> (x, grown)'),
    "Resize linear, shrinking": (10, X, Y, 'y = Resize <mode: string = "linear"> (x, shrunk)'),
    "Resize cubic": (11, X, Y, 'y = Resize <mode: string = "cubic"> (x, roi, grown)'),
    "Resize to sizes": (11, X, Y, "y = Resize (x, roi, roi, sizes)"),
    "Slice": (1, X, Y, "y = Slice <axes: ints = [1, 3], starts: ints = [1, -3], ends: ints = [9, -1]> (x)"),
    "Slice of all axes": (9, X, Y, "y = Slice <starts: ints = [0, 1], ends: ints = [1, 3]> (x)"),
    "TopK": (7, X, Y, "y, i = TopK <k: int = 3, axis: int = 2> (x)"),
    "Clip": (6, X, Y, "y = Clip <min: float = -0.5, max: float = 0.25> (x)"),
    "Clip from below": (7, X, Y, "y = Clip <min: float = 0.0> (x)"),
    "Clip by nothing": (7, X, Y, "y = Clip (x)"),
    "Pad": (2, X, Y, "y = Pad <pads: ints = [0, 1, 0, 0, 0, 0, 2, 0], value: float = 1.5> (x)"),
    "Pad by reflection": (
        2,
        X,
        Y,
        'y = Pad <mode: string = "reflect", pads: ints = [0, 0, 1, 2, 0, 0, 0, 1]> (x)',
    ),
    "Pad in float64": (
        2,
        "double[2,3] x",
        "double[A,B] y",
        "y = Pad <pads: ints = [0, 1, 0, 1], value: float = 0.5> (x)",
    ),
    "Dropout": (7, X, Y, "y = Dropout <ratio: float = 0.5> (x)"),
    "Dropout of 10": (10, X, Y, "y, mask = Dropout <ratio: float = 0.5> (x)"),
    "Scatter": (9, X, Y, "y = Scatter <axis: int = 1> (x, first, updates)"),
    "Split": (
        2,
        X,
        "float[A,B,C,D] y, float[A,E,C,D] z",
        "y, z = Split <axis: int = 1, split: ints = [1, 3]> (x)",
    ),
    "Split in halves": (11, X, "float[A,B,C,D] y, float[A,B,C,D] z", "y, z = Split <axis: int = 1> (x)"),
    "Squeeze": (1, "float[2,1,3,1] x", "float[A,B] y", "y = Squeeze <axes: ints = [1, 3]> (x)"),
    "Squeeze of all": (1, "float[2,1,3,1] x", "float[A,B] y", "y = Squeeze (x)"),
    "Unsqueeze": (11, "float[2,3] x", Y, "y = Unsqueeze <axes: ints = [0, -1]> (x)"),
    "ReduceSum": (11, X, "float[A,B] y", "y = ReduceSum <axes: ints = [1, 3], keepdims: int = 0> (x)"),
    "ReduceSum of all": (1, X, Y, "y = ReduceSum (x)"),
    "RoiAlign": (10, X, Y, "y = RoiAlign <output_height: int = 3, output_width: int = 3> (x, boxes, zeros)"),
    "GridSample": (16, X, Y, 'y = GridSample <mode: string = "bicubic"> (x, grid)'),
    "GridSample by default": (16, X, Y, "y = GridSample (x, grid)"),
    "Reshape": (4, X, "float[A,B] y", "y = Reshape <shape: ints = [0, -1]> (x)"),
    "DFT": (17, "float[2,4,6,1] x", Y, "y = DFT (x)"),
    "DFT of an axis": (17, "float[2,4,6,1] x", Y, "y = DFT <axis: int = 2> (x)"),
    "GroupNormalization": (18, X, Y, "y = GroupNormalization <num_groups: int = 2> (x, pair, pair)"),
    "in a branch": (
        11,
        f"{X}, bool flag",
        Y,
        """y = If (flag) <
            then_branch = then () => (float[A,B,C,D] a) { a = Softmax <axis: int = 1> (x) },
            else_branch = else () => (float[A,B,C,D] b) { u = Clip(x, low) b = Hardmax(u) }>""",
    ),
    "beside what stays": (9, X, Y, "h = Conv(x, kernel) r = Relu(h) y = Softmax <axis: int = 1> (r)"),
} | {
    f"Reduce{name}": (13, X, "float[A,C,D] y", f"y = Reduce{name} <axes: ints = [1], keepdims: int = 0> (p)")
    for name in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]
}
CASES = {
    name: (version, given, wanted, f"p = Abs(x) {body}" if "(p)" in body else body)
    for name, (version, given, wanted, body) in CASES.items()
}
WEIGHTS = {
    "v": np.array([0.5, 1, 1.5, 2], np.float32),
    "pair": np.array([0.5, 2], np.float32),
    "grown": np.array([1, 1, 2, 1.5], np.float32),
    "shrunk": np.array([1, 1, 0.6, 0.55], np.float32),
    "mixed": np.array([1, 1, 0.6, 1.7], np.float32),
    "mixed_too": np.array([-1, 1, -1.7, 0.6], np.float32),
    "roi": np.zeros(0, np.float32),
    "sizes": np.array([2, 4, 5, 7], np.int64),
    "starts": np.array([0, 1, 2, 0], np.int64),
    "ends": np.array([2, 4, 5, 3], np.int64),
    "low": np.array(-0.1, np.float32),
    "first": np.array([[[[0, 1, 2]]]], np.int64),
    "updates": np.array([[[[7, 8, 9]]]], np.float32),
    "boxes": np.array([[0, 0, 4, 4], [1, 0.5, 3.25, 5]], np.float32),
    "zeros": np.zeros(2, np.int64),
    "grid": np.random.default_rng(0).uniform(-1.2, 1.2, (2, 3, 3, 2)).astype(np.float32),
    "kernel": np.random.default_rng(1).normal(size=(3, 4, 2, 2)).astype(np.float32),
}
TARGETS = (13, 17, 21)


def model_of(version: int, given: str, wanted: str, body: str) -> onnx.ModelProto:
    ir_version = 8 if version < 19 else 10 if version < 23 else 14
    header = f'<ir_version: {ir_version}, opset_import: ["" : {version}, "com.example" : 1]>'
    model: onnx.ModelProto = onnx.parser.parse_model(f"{header} main ({given}) => ({wanted}) {{ {body} }}")
    words = set(re.findall(r"\w+", body))
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in words
    )
    return model


def results(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return list(open_session(model, Run(threads=1), optimization="none").run(feeds).values())


@pytest.mark.parametrize("name", CASES)
def test_every_rule_keeps_every_bit(name: str) -> None:
    version, *rest = CASES[name]
    model = model_of(version, *rest)
    feeds = random_feeds(GraphModule(ir.from_proto(model)), seed=0)
    before = results(model, feeds)
    for target in [one for one in TARGETS if one > version]:
        converted = ir.to_proto(convert_opset(ir.from_proto(model), target))
        onnx.checker.check_model(converted)
        for found, expected in zip(results(converted, feeds), before, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_every_rule_has_a_case() -> None:
    """But for the form of operators before operator set 7, which ONNX Runtime does not run."""
    renamed = {"Upsample": {"Upsample", "Resize"}}
    passed = {
        (op_type, version)
        for first, *rest in CASES.values()
        for node in ir.from_proto(model_of(first, *rest)).graph.all_nodes()
        for op_type in renamed.get(node.op_type, {node.op_type})
        for version in range(first + 1, max(TARGETS) + 1)
    }
    assert set(RULES) - passed == {("BatchNormalization", 7), ("Dropout", 7)}


RETIRED_CASES = {
    "Affine": "y = Affine <alpha: float = 0.5, beta: float = 0.25> (x)",
    "Affine by default": "y = Affine (x)",
    "Crop": "y = Crop <border: ints = [1, 2, 2, 1]> (x)",
    "Crop to a size": "y = Crop <border: ints = [1, 2, 0, 0], scale: ints = [2, 3]> (x)",
    "DynamicSlice": "y = DynamicSlice (x, starts, ends)",
    "ImageScaler": "y = ImageScaler <bias: floats = [-1.0, 0.5, 2.0, 3.0], scale: float = 0.5> (x)",
    "ParametricSoftplus": "y = ParametricSoftplus <alpha: float = 2.0, beta: float = 0.5> (x)",
    "ScaledTanh": "y = ScaledTanh <alpha: float = 2.0, beta: float = 0.5> (x)",
    "one behind the other": (
        "h = Affine <alpha: float = 0.5> (x) c = Crop <border: ints = [1, 1, 1, 1]> (h) y = Relu (c)"
    ),
}


@pytest.mark.parametrize("name", RETIRED_CASES)
def test_what_onnx_gave_up_is_said_with_what_it_has(name: str) -> None:
    """Softplus and Tanh may be another kernel's, so that the last bits differ; 8 of them are asked for."""
    model = model_of(7, X, Y, RETIRED_CASES[name])
    feeds = random_feeds(GraphModule(ir.from_proto(model)), seed=0)
    converted = ir.to_proto(convert_opset(ir.from_proto(model), 13))
    onnx.checker.check_model(converted)
    for found, expected in zip(results(converted, feeds), results(model, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=8 * np.finfo(np.float32).eps)


def test_every_operator_that_was_given_up_has_a_case() -> None:
    assert {name.split()[0] for name in RETIRED_CASES} >= set(RETIRED)


NORM = "BatchNormalization"
REFUSED = {
    "a mode that is gone": (
        11,
        'y = Resize <coordinate_transformation_mode: string = "tf_half_pixel_for_nn"> (x, roi, grown)',
        r"operator set 11 cannot be converted to 13: no later version has tf_half_pixel_for_nn",
    ),
    "a mask of another type": (
        7,
        "h, m = Dropout (x) y = Mul(h, m)",
        "its mask is read, which has another type",
    ),
    "a mask": (10, "h, m = Dropout (x) f = Cast <to: int = 1> (m) y = Mul(h, f)", "its mask is read"),
    "statistics of elements": (
        7,
        f"y = {NORM} <spatial: int = 0> (x, v, v, v, v)",
        "no later version has spatial",
    ),
    "training before operator set 7": (
        6,
        f"y = {NORM} (x, v, v, v, v)",
        "it is in training, as is_test says",
    ),
    "old broadcasting": (
        6,
        "y = Add <axis: int = 1, broadcast: int = 1> (x, v)",
        "its attribute axis is another in version 7",
    ),
    "a border of nothing": (7, "y = Crop <border: ints = [1, 1, 0, 0]> (x)", "its border is 0"),
    "an attribute that became required": (1, "y = Concat (x, x)", "version 4 wants attribute axis"),
    "nobody knows the type": (
        7,
        "h = com.example.Half (x) y = Clip <min: float = 0.0> (h)",
        "type of its input",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_later_version_cannot_say_is_refused(name: str) -> None:
    version, body, message = REFUSED[name]
    model = ir.from_proto(model_of(version, X, Y, body))
    before = ir.to_proto(model).SerializeToString()
    with pytest.raises(ModelError, match=message):
        convert_opset(model, 13)
    assert ir.to_proto(model).SerializeToString() == before


def test_saved_statistics_end_at_operator_set_14() -> None:
    body = f"h, m, s, saved_m, saved_s = {NORM} (x, v, v, v, v) y = Add(h, saved_m)"
    model = ir.from_proto(model_of(9, X, Y, body))
    assert convert_opset(model, 13).opset_imports[""] == 13
    with pytest.raises(ModelError, match="its saved statistics are read, which no later version returns"):
        convert_opset(model, 17)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Relu(x)", None),
        ("y = Mod <fmod: int = 1> (x, x)", None),
        ("y = SwiGLU (x, x)", "does not exist"),
    ],
)
def test_a_newer_model_is_lowered_where_it_uses_nothing_new(body: str, message: str | None) -> None:
    model = ir.from_proto(model_of(28, X, Y, body))
    if message is not None:
        with pytest.raises(ModelError, match=message):
            convert_opset(model, 27)
        return
    proto = ir.to_proto(convert_opset(model, 27))
    onnx.checker.check_model(proto)
    feeds = {"x": np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)}
    np.testing.assert_array_equal(results(proto, feeds)[0], results(ir.to_proto(model), feeds)[0])
