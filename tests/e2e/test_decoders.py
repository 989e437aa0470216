"""Decoders as optimum exports them, compiled for CUDA: the cache stays in place and the numbers stay."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.export import export_model
from onnxq.ir.module import GraphModule
from onnxq.ir.rounding import spell_out_rounding
from onnxq.ir.store import load_model
from onnxq.kernels import load_kernels
from onnxq.passmanager.base import PassRecord
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import load_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

pytestmark = pytest.mark.export
pytest.importorskip("optimum.exporters.onnx", reason="needs the export extra", exc_type=ImportError)
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")
LAYERS, SIZE, WORDS = 2, 16, 100
HEADS = {"llama": 2, "gpt2": 4}
"""Heads of keys and values; queries have four."""
SETTINGS = ("cache-in-place.padding=behind", "lower-precision.io=lower")


def random_model(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=64, n_layer=LAYERS, n_head=4, vocab_size=WORDS, n_positions=64
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=HEADS[kind],
        vocab_size=WORDS,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module", params=HEADS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    random_model(request.param).save_pretrained(folder / "model")
    export_model(str(folder / "model"), folder / "onnx", task="text-generation-with-past")
    return request.param, folder / "onnx" / "model.onnx"


def feeds_of(kind: str, batch: int, past: int, new: int) -> dict[str, Any]:
    rng = np.random.default_rng(past)
    shape = (batch, HEADS[kind], past, SIZE)
    parts = [f"past_key_values.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    return {
        "input_ids": rng.integers(0, WORDS, (batch, new)),
        "attention_mask": np.ones((batch, past + new), np.int64),
        "position_ids": np.tile(np.arange(past, past + new), (batch, 1)),
        **{name: rng.normal(size=shape).astype(np.float32) for name in parts},
    }


def built(path: Path, pipeline: str) -> tuple[GraphModule, list[PassRecord]]:
    module = load_model(path)
    return module, PassManager(parse_pipeline(pipeline), find_target("cuda")).run(module)


@pytest.mark.parametrize(("batch", "past", "new"), [(1, 0, 5), (2, 0, 4), (1, 3, 2), (3, 7, 1)])
def test_the_numbers_stay(exported: tuple[str, Path], batch: int, past: int, new: int) -> None:
    kind, path = exported
    recipe = load_recipe("cuda").with_options(SETTINGS[:1])
    before_lowering = recipe.pipeline.partition("lower-precision")[0].strip().rstrip(",")
    module, records = built(path, before_lowering)
    assert not [remark for record in records if "cache" in record.text for remark in record.remarks]
    feeds = feeds_of(kind, batch, past, new)
    wanted = open_session(path, Run(threads=1)).run(feeds)
    found = open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)
    for name, array in wanted.items():
        # Sums of up to 96 products of numbers below 4, in two layers and in another order: 200 roundings.
        np.testing.assert_allclose(found[name], array, atol=200 * 2**-24 * 4, rtol=0)


def test_in_half_precision_everything_has_a_kernel(exported: tuple[str, Path]) -> None:
    kind, path = exported
    module, _ = built(path, load_recipe("cuda").with_options(SETTINGS).pipeline)
    attention = [node for node in module.graph if node.op_type == "GroupQueryAttention"]
    assert len(attention) == LAYERS
    assert {node.inputs[3].dtype for node in attention if node.inputs[3]} == {ir.DataType.FLOAT16}
    assert [(node.name, why) for node, why in load_kernels("cuda").missing(module)] == []
    feeds = feeds_of(kind, batch=2, past=6, new=1)
    wanted = open_session(path, Run(threads=1)).run(feeds)["logits"]
    lowered = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in feeds.items()}
    session = open_session(ir.to_proto(spell_out_rounding(module.model)), Run(threads=1))
    found = session.run(lowered)["logits"].astype(np.float32)
    # Some dozens of roundings to 11 bits on the way through two layers, of which few add up.
    assert np.linalg.norm(found - wanted) < 20 * 2**-11 * np.linalg.norm(wanted)


def test_without_a_word_flags_stay_a_mask(exported: tuple[str, Path]) -> None:
    module, records = built(exported[1], load_recipe("cuda").pipeline)
    assert not any(node.op_type == "GroupQueryAttention" for node in module.graph)
    reasons = [
        remark.reason for record in records if record.text == "cache-in-place" for remark in record.remarks
    ]
    assert len(reasons) == LAYERS
    assert all("padding=behind" in reason for reason in reasons)
