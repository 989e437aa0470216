"""Operators that ONNX Runtime has in the standard domain, and onnx has not, or only in later operator sets.

onnxruntime.transformers and the builder of onnxruntime-genai write them. Registered with onnx, they are
checked, and types and shapes are inferred through them, as for any other operator.

Source: ``contrib_defs.cc`` of onnxruntime 1.32.0, where both are of version 1.
"""

from __future__ import annotations

from typing import Any, cast

import onnx
from onnx.defs import OpSchema

_FLOATS = ["tensor(float16)", "tensor(float)", "tensor(double)", "tensor(bfloat16)"]
_TYPES = [
    ("T", _FLOATS, "What is normalized."),
    ("V", _FLOATS, "Scale and result."),
    ("U", _FLOATS, "Moments."),
]
_OPTIONAL = OpSchema.FormalParameterOption.Optional
_OPERATORS = {
    "LayerNormalization": (("Scale",), ("B",), ("Mean", "InvStdDev")),
    "SimplifiedLayerNormalization": (("scale",), (), ("inv_std_var",)),
}
"""Inputs behind X, those that may be left out, and outputs behind Y."""


def register_operators() -> None:
    """Tell onnx of them, unless that was done before."""
    for name in _OPERATORS:
        if not onnx.defs.has(name, max_inclusive_version=1):
            onnx.defs.register_schema(_schema(name))


def _schema(name: str) -> OpSchema:
    needed, optional, moments = _OPERATORS[name]
    formal = OpSchema.FormalParameter
    schema = OpSchema(
        name,
        "",
        1,
        inputs=[
            formal("X", "T"),
            *(formal(one, "V") for one in needed),
            *(formal(one, "V", param_option=_OPTIONAL) for one in optional),
        ],
        outputs=[formal("Y", "V"), *(formal(one, "U", param_option=_OPTIONAL) for one in moments)],
        type_constraints=_TYPES,
        attributes=[
            OpSchema.Attribute("axis", onnx.helper.make_attribute("axis", -1)),
            OpSchema.Attribute("epsilon", onnx.helper.make_attribute("epsilon", 1e-5)),
            OpSchema.Attribute("stash_type", onnx.helper.make_attribute("stash_type", 1)),
        ],
    )
    cast(Any, schema).set_type_and_shape_inference_function(_infer)
    return schema


def _infer(context: Any) -> None:
    """Give the result the shape of what is normalized and the type of the scale, and moments float32."""
    made, scale = context.get_input_type(0), context.get_input_type(1)
    if made is None or scale is None:
        return
    made.tensor_type.elem_type = scale.tensor_type.elem_type
    context.set_output_type(0, made)
    for index in range(1, context.get_num_outputs()):
        moment = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        context.set_output_type(index, moment)
