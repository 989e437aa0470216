"""The passes keep their promises on the golden cases too, which hold what models/ does not."""

from pathlib import Path

import pytest

from onnxq.ir.text import parse
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target
from onnxq.testing.golden import GoldenCase, read_case
from onnxq.testing.laws import HoldToPromise, random_feeds

pytest.importorskip("onnxruntime", reason="the laws run models")

GOLDEN = Path(__file__).parents[2] / "golden"
NOT_RUN = {
    "cache_in_place/padded_behind": "random sizes do not fit; test_cache_in_place.py runs it",
    "encode_activations/parameters": "Resize takes no random scales",
    "fuse_block_matmul/as_a_table": "random rows lie outside the table; test_share_constants.py runs it",
    "infer_shapes/foreign_operator": "no runtime has the operator",
    "infer_shapes/sequences": "the laws compare tensors",
    "lower_precision/bfloat16": "NumPy cannot take bfloat16 from ONNX Runtime",
    "lower_precision/lowered_interface": "the laws feed float32",
    "lower_precision/no_kernel": "NumPy cannot take bfloat16 from ONNX Runtime",
    "normalize_frames/overlapping": "random signals are too short; test_normalize_frames.py runs it",
    "pack_attention/lengths": "masks of one row have no kernel; test_pack_attention.py runs it",
    "pack_attention/padded_behind": "masks of one row have no kernel; test_pack_attention.py runs it",
    "widen_float16/bfloat16": "ONNX Runtime has no kernels for it; test_widened.py runs one",
    "unfuse_contrib/products": "what is left alone does not fit; test_unfuse_contrib.py runs the rest",
}


def cases() -> list[tuple[str, GoldenCase]]:
    found = {f"{path.parent.name}/{path.stem}": path for path in sorted(GOLDEN.glob("*/*.onnxtxt"))}
    read = [(name, read_case(path.read_text(encoding="utf-8"))) for name, path in found.items()]
    return [(name, case) for name, case in read if case.after and name not in NOT_RUN]


@pytest.mark.parametrize("case", [case for _, case in cases()], ids=[name for name, _ in cases()])
def test_every_pass_of_a_case_keeps_its_promise(case: GoldenCase) -> None:
    module = parse(f"{case.before}\n")
    feeds = [random_feeds(module, seed=0)]
    passes = parse_pipeline(f"infer-shapes,{case.pipeline}")
    PassManager(passes, find_target(case.target, case.processor), [VerifyEach(), HoldToPromise(feeds)]).run(
        module
    )
