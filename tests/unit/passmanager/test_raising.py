"""The operator set is raised as far as every node keeps a kernel, and no further."""

import onnx
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.schema import body_of
from onnxq.ir.text import parse
from onnxq.kernels import Kernel, KernelList
from onnxq.passmanager.base import PassRecord
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.available import cpu_kernels
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

SIX = {
    "RandomNormalLike": ("float[4,3,8] y", "y = RandomNormalLike(x)"),
    "GlobalLpPool": ("float[4,3,1] y", "y = GlobalLpPool(x)"),
    "Bernoulli": ("float[4,3,8] y", "s = Sigmoid(x) y = Bernoulli(s)"),
    "Multinomial": ("int32[4,5] y", "f = Flatten(x) y = Multinomial <sample_size: int = 5> (f)"),
    "MaxRoiPool": (
        "float[1,1,3,1] y",
        "u = Reshape(x, image) y = MaxRoiPool <pooled_shape: ints = [3, 1]> (u, boxes)",
    ),
    "RoiAlign": ("float[1,1,1,1] y", "u = Reshape(x, image) y = RoiAlign(u, corners, which)"),
}
WEIGHTS = """<int64[4] image = {1, 1, 8, 12}, float[1,5] boxes = {0, 0, 0, 5, 5},
    float[1,4] corners = {0, 0, 5, 5}, int64[1] which = {0}>"""


def model(op_type: str, opset: int = 17) -> GraphModule:
    declared, body = SIX[op_type]
    header = f'<ir_version: 8, opset_import: ["" : {opset}]>'
    return parse(f"{header}\nmain (float[4,3,8] x) => ({declared})\n{WEIGHTS}\n{{ {body} }}")


def run(module: GraphModule, pipeline: str, target: str = "cpu", **options: object) -> list[PassRecord]:
    manager = PassManager(parse_pipeline(pipeline), find_target(target), [VerifyEach()], **options)  # type: ignore[arg-type]
    return manager.run(module)


@pytest.mark.parametrize("op_type", SIX)
def test_a_node_keeps_its_kernel(op_type: str) -> None:
    """Of these, ONNX Runtime 1.32 runs the versions up to operator set 21, and nothing is left out of it."""
    module = model(op_type)
    (record,) = run(module, "convert-opset{minimum=23}", kernels=cpu_kernels)
    open_session(ir.to_proto(module.model), Run(threads=1))
    assert module.opset == 21
    reasons = {remark.reason for remark in record.remarks}
    assert f"operator set 22 has no kernel for {op_type} in the installed ONNX Runtime" in reasons


def test_an_operator_without_a_kernel_is_what_its_body_is_made_of() -> None:
    """ONNX Runtime 1.32 has no kernel for HardSwish, and inlines what it is made of."""
    text = '<ir_version: 8, opset_import: ["" : 14]> main (float[4] x) => (float[4] y) { y = HardSwish(x) }'
    module = parse(text)
    run(module, "convert-opset{minimum=23}", kernels=cpu_kernels)
    assert module.opset == 23
    open_session(ir.to_proto(module.model), Run(threads=1))


def test_what_has_no_kernel_to_begin_with_holds_nothing_back() -> None:
    module = model("GlobalLpPool")
    nothing = KernelList("CPUExecutionProvider", "a test", {("", "Relu"): (Kernel(6, None, {}),)})
    run(module, "convert-opset{minimum=23}", kernels=lambda: nothing)
    assert module.opset == 23


def test_the_kernels_are_asked_only_for_a_reason() -> None:
    def fail() -> KernelList:
        raise AssertionError("nothing was to be raised")

    run(model("GlobalLpPool"), "convert-opset{minimum=13}, fuse-attention, fuse-gelu", kernels=fail)


def test_the_list_is_that_of_the_installed_build() -> None:
    found = cpu_kernels()
    assert len(found.kernels) > 300
    assert "onnxruntime" in found.source
    assert any(kernel.until is None for kernel in found.kernels["", "Relu"])


@pytest.mark.parametrize(
    "body", ["y = HardSigmoid(x)", "y = HardSwish(x)", "h = Identity(x) y = HardSigmoid(h)"]
)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_body_of_an_operator_holds_until_a_part_gets_another_version(body: str, target: str) -> None:
    """ONNX Runtime 1.32 has no kernel for HardSigmoid of double; its body holds in operator set 18 alone.

    What the CUDA provider runs is refused as well where the CPU cannot follow: it opens the result.
    """
    text = f'<ir_version: 8, opset_import: ["" : 18]> main (double[4] x) => (double[4] y) {{ {body} }}'
    module = parse(text)
    run(module, "convert-opset{minimum=23}", kernels=cpu_kernels, target=target)
    assert module.opset == 18
    open_session(ir.to_proto(module.model), Run(threads=1))


def test_what_had_no_kernel_before_does_not_hold_a_model_back() -> None:
    """ONNX Runtime casts Mul of float16, in all sets alike; Softmax has another form from set 13 on."""
    text = (
        '<ir_version: 8, opset_import: ["" : 12]> main (float16[2,2,3] x) => (float16[2,2,3] y) '
        "{ h = Softmax<axis=1>(x) y = Mul(h, h) }"
    )
    module = parse(text)
    run(module, "convert-opset{minimum=13}", kernels=cpu_kernels)
    assert module.opset == 13
    open_session(ir.to_proto(module.model), Run(threads=1))


def test_an_operator_older_than_its_body_has_none() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> main (float[4] x) => (float[4] y) { y = HardSigmoid(x) }'
    (node,) = parse(text).graph
    assert body_of(node, 17) is None
    body = body_of(node, 18)
    assert body is not None
    assert "Max" in {part.op_type for part in body}


def test_a_body_lacks_the_outputs_that_a_node_leaves_out() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> main (float[3,5] x, int64[3] t) => (float[3] y) '
        '{ y = SoftmaxCrossEntropyLoss<reduction = "none">(x, t) }'
    )
    (node,) = parse(text).graph
    body = body_of(node, 17)
    assert body is not None
    assert [value.name for value in body.outputs] == ["output"]


def test_a_body_may_read_sequences() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> main (seq(float[N]) x) => (seq(float[N]) y) '
        "{ y = SequenceMap<body = each (float[N] one) => (float[N] other) { other = Relu(one) }>(x) }"
    )
    (node,) = ir.from_proto(onnx.parser.parse_model(text)).graph
    body = body_of(node, 17)
    assert body is not None
    assert "SequenceInsert" in {part.op_type for part in body.all_nodes()}
