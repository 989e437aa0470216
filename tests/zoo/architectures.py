"""The architectures of the zoo: a table from names to small models with what they are exported with.

Every model has two layers and a hidden size of 64; its weights are drawn with a seed, and nothing is
downloaded. ``ARCHITECTURES`` names the builders; ``export`` writes what one builds, with either exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

Exporter = Literal["dynamo", "torchscript"]
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
OPSETS = {"dynamo": 20, "torchscript": 17}

LAYERS, WIDTH, HEADS, INNER, WORDS = 2, 64, 4, 128, 100
SIZE = WIDTH // HEADS
TOKENS = {0: "batch", 1: "tokens"}
IMAGES = {0: "batch"}
MEMORY = {0: "batch", 1: "memory"}
PAST = {0: "batch", 2: "past"}
NAMED = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
"""The sizes as most configurations call them."""
TEXT = {"vocab_size": WORDS, **NAMED}
DECODER = {**TEXT, "max_position_embeddings": 64, "use_cache": False, "pad_token_id": 0}
GROUPED = {**DECODER, "num_key_value_heads": 2}
SEQUENCES = {
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
}
"""The sizes of models with an encoder and a decoder, as those that came after BART call them."""


@dataclass(frozen=True)
class Example:
    """A model with inputs to export it with.

    Args:
        model: A torch module in evaluation mode, called with the values of ``inputs`` in their order; it
            returns one tensor, or a tuple of tensors.
        inputs: A tensor for each name.
        axes: The axes of an input that have a name, and so may have any length.

    """

    model: Any
    inputs: Mapping[str, Any]
    axes: Mapping[str, Mapping[int, str]]


Builder = Callable[[], Example]


def export(example: Example, path: Path, exporter: Exporter) -> Path:
    """Write ``example`` into one file with torch's exporter of that name, and return the path."""
    torch = import_module("torch")
    common = {"input_names": list(example.inputs), "opset_version": OPSETS[exporter]}
    values = tuple(example.inputs.values())
    axes = [dict(example.axes.get(name, {})) for name in example.inputs]
    if exporter == "dynamo":
        shapes = {"values": tuple(axes)}
        more = {"dynamo": True, "dynamic_shapes": shapes, "external_data": False}
        torch.onnx.export(example.model, values, path, **more, **common)
    else:
        named = dict(zip(example.inputs, axes, strict=True))
        torch.onnx.export(example.model, values, path, dynamo=False, dynamic_axes=named, **common)
    return path


def words(batch: int = 2, tokens: int = 7) -> Any:
    """Return numbers of words, int64 of shape (batch, tokens)."""
    return import_module("torch").randint(3, WORDS, (batch, tokens))


def flags(batch: int = 2, tokens: int = 7, padded: int = 2) -> Any:
    """Return int64 of shape (batch, tokens): 1 for a token, 0 for padding, in the last row's end."""
    torch = import_module("torch")
    found = torch.ones(batch, tokens, dtype=torch.int64)
    found[-1, tokens - padded :] = 0
    return found


def floats(*shape: int) -> Any:
    """Return normal numbers."""
    return import_module("torch").randn(*shape)


def of_config(model: str, config: str, call: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """Build a model of transformers with seeded weights, as a module of positional inputs and one output.

    Args:
        model: The class of the model.
        config: The class of its configuration.
        call: Calls the model with the inputs and returns its result; None to hand them over.
        settings: What the configuration shall say.

    """
    torch, transformers = import_module("torch"), import_module("transformers")
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**settings))
    return wrapped(built, call)


def wrapped(built: Any, call: Callable[..., Any] | None) -> Any:
    """Return ``built`` as a module in evaluation mode that returns tensors, with weights of unit gain."""
    torch = import_module("torch")

    class Wrapped(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.built = built

        def forward(self, *values: Any) -> Any:
            found = self.built(*values) if call is None else call(self.built, *values)
            return found[0] if hasattr(found, "keys") else found

    with torch.no_grad():
        for weight in built.parameters():
            if weight.ndim > 1:
                weight.normal_(std=(weight.numel() / weight.shape[0]) ** -0.5)
    return Wrapped().eval()


def reading(model: str, config: str, **settings: Any) -> Builder:
    """Return the builder of a model that reads words and flags of padding."""

    def build() -> Example:
        made = of_config(model, config, _read, **settings)
        inputs = {"input_ids": words(), "attention_mask": flags()}
        return Example(made, inputs, dict.fromkeys(inputs, TOKENS))

    return build


def _read(built: Any, ids: Any, mask: Any) -> Any:
    return built(input_ids=ids, attention_mask=mask)


def seeing(model: str, config: str, size: int = 32, **settings: Any) -> Builder:
    """Return the builder of a model that sees square images of ``size`` pixels."""

    def build() -> Example:
        made = of_config(model, config, **settings)
        return Example(made, {"pixel_values": floats(2, 3, size, size)}, {"pixel_values": IMAGES})

    return build


def translating(model: str, config: str, **settings: Any) -> Builder:
    """Return the builder of a decoder that reads words and what an encoder made of others."""

    def build() -> Example:
        made = of_config(model, config, _translate, use_cache=False, **settings)
        inputs = {
            "decoder_input_ids": words(),
            "memory": floats(2, 9, WIDTH),
            "attention_mask": flags(tokens=9),
        }
        axes = {"decoder_input_ids": TOKENS, "memory": MEMORY, "attention_mask": MEMORY}
        return Example(made, inputs, axes)

    return build


def _translate(built: Any, ids: Any, memory: Any, mask: Any) -> Any:
    return built(attention_mask=mask, encoder_outputs=(memory,), decoder_input_ids=ids)


def hearing() -> Example:
    """Build Whisper's encoder."""
    made = of_config("WhisperModel", "WhisperConfig", _hear, **_whisper())
    return Example(made, {"input_features": floats(2, 8, 64)}, {"input_features": IMAGES})


def _hear(built: Any, features: Any) -> Any:
    return built.encoder(features)


def _whisper() -> dict[str, Any]:
    places = {"max_source_positions": 32, "max_target_positions": 32, "num_mel_bins": 8}
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return {**SEQUENCES, **places, **marks, "vocab_size": WORDS}


def writing() -> Example:
    """Build Whisper's decoder."""
    made = of_config("WhisperModel", "WhisperConfig", _write, use_cache=False, **_whisper())
    inputs = {"decoder_input_ids": words(), "memory": floats(2, 9, WIDTH)}
    return Example(made, inputs, {"decoder_input_ids": TOKENS, "memory": MEMORY})


def _write(built: Any, ids: Any, memory: Any) -> Any:
    return built.decoder(input_ids=ids, encoder_hidden_states=memory)


def stepping(model: str, config: str, heads: int, **settings: Any) -> Builder:
    """Return the builder of a decoder that takes keys and values of earlier tokens, and returns them all."""
    names = [f"past_{part}_{layer}" for layer in range(LAYERS) for part in ("key", "value")]

    def build() -> Example:
        made = of_config(model, config, _step, **{**settings, "use_cache": True})
        inputs = {"input_ids": words(tokens=3), "attention_mask": flags(tokens=8, padded=0)}
        inputs |= {name: floats(2, heads, 5, SIZE) for name in names}
        axes = {"input_ids": TOKENS, "attention_mask": {0: "batch", 1: "all_tokens"}}
        return Example(made, inputs, {**axes, **dict.fromkeys(names, PAST)})

    return build


def _step(built: Any, ids: Any, mask: Any, *past: Any) -> Any:
    cache = import_module("transformers").DynamicCache()
    for layer in range(LAYERS):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    found = built(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    kept = found.past_key_values
    return (found[0], *(part for layer in kept.layers for part in (layer.keys, layer.values)))


def layers_of_torch() -> Example:
    """Build torch's own encoder layers, with a mask of padding."""
    torch = import_module("torch")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, batch_first=True)
    built = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    made = wrapped(built, lambda encoder, x: encoder(x))
    return Example(made, {"x": floats(2, 7, WIDTH)}, {"x": TOKENS})


_PATCHES = {"image_size": 32, "patch_size": 8, **NAMED}
_T5 = {
    "vocab_size": WORDS,
    "d_model": WIDTH,
    "d_kv": SIZE,
    "d_ff": INNER,
    "num_layers": LAYERS,
    "num_heads": HEADS,
}
_STAGES = {"depths": [1, 1], "embed_dim": 32, "num_heads": [2, 4], "window_size": 4, "patch_size": 2}
_SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [32, 64],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
}
_DETR = {
    **SEQUENCES,
    "num_queries": 10,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
}


def _detr() -> Example:
    """Build DETR on a small ResNet."""
    transformers = import_module("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    made = of_config("DetrModel", "DetrConfig", backbone_config=backbone, **_DETR)
    return Example(made, {"pixel_values": floats(2, 3, 64, 64)}, {"pixel_values": IMAGES})


ARCHITECTURES: dict[str, Builder] = {
    "albert": reading("AlbertModel", "AlbertConfig", embedding_size=32, **TEXT),
    "bart": translating("BartModel", "BartConfig", vocab_size=WORDS, **SEQUENCES),
    "beit": seeing("BeitModel", "BeitConfig", use_relative_position_bias=True, **_PATCHES),
    "bert": reading("BertModel", "BertConfig", **TEXT),
    "bloom": reading(
        "BloomModel",
        "BloomConfig",
        vocab_size=WORDS,
        hidden_size=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        use_cache=False,
    ),
    "clip_text": reading("CLIPTextModel", "CLIPTextConfig", eos_token_id=2, **TEXT),
    "clip_vision": seeing("CLIPVisionModel", "CLIPVisionConfig", **_PATCHES),
    "deberta_v2": reading(
        "DebertaV2Model",
        "DebertaV2Config",
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        **TEXT,
    ),
    "deit": seeing("DeiTModel", "DeiTConfig", **_PATCHES),
    "detr": _detr,
    "dinov2": seeing("Dinov2Model", "Dinov2Config", **_PATCHES),
    "distilbert": reading(
        "DistilBertModel",
        "DistilBertConfig",
        vocab_size=WORDS,
        dim=WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=INNER,
    ),
    "electra": reading("ElectraModel", "ElectraConfig", embedding_size=32, **TEXT),
    "gemma2": reading("Gemma2Model", "Gemma2Config", head_dim=SIZE, sliding_window=4, **GROUPED),
    "gemma3": reading("Gemma3TextModel", "Gemma3TextConfig", head_dim=SIZE, sliding_window=4, **GROUPED),
    "gpt2": reading(
        "GPT2Model",
        "GPT2Config",
        vocab_size=WORDS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=64,
        use_cache=False,
    ),
    "gpt2_past": stepping(
        "GPT2Model",
        "GPT2Config",
        HEADS,
        vocab_size=WORDS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=64,
    ),
    "gpt_neox": reading("GPTNeoXModel", "GPTNeoXConfig", **DECODER),
    "llama": reading("LlamaModel", "LlamaConfig", **GROUPED),
    "llama_past": stepping("LlamaModel", "LlamaConfig", 2, **GROUPED),
    "mistral": reading("MistralModel", "MistralConfig", sliding_window=4, **GROUPED),
    "modernbert": reading(
        "ModernBertModel",
        "ModernBertConfig",
        local_attention=4,
        reference_compile=False,
        pad_token_id=0,
        **TEXT,
    ),
    "mpnet": reading("MPNetModel", "MPNetConfig", **TEXT),
    "opt": reading(
        "OPTModel",
        "OPTConfig",
        vocab_size=WORDS,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
        use_cache=False,
    ),
    "phi": reading("PhiModel", "PhiConfig", **DECODER),
    "qwen2": reading("Qwen2Model", "Qwen2Config", **GROUPED),
    "qwen3": reading("Qwen3Model", "Qwen3Config", head_dim=SIZE, **GROUPED),
    "qwen3_past": stepping("Qwen3Model", "Qwen3Config", 2, head_dim=SIZE, **GROUPED),
    "roberta": reading("RobertaModel", "RobertaConfig", **TEXT),
    "segformer": seeing("SegformerModel", "SegformerConfig", **_SEGFORMER),
    "siglip": seeing("SiglipVisionModel", "SiglipVisionConfig", **_PATCHES),
    "swin": seeing("SwinModel", "SwinConfig", image_size=32, **_STAGES),
    "t5": translating("T5Model", "T5Config", **_T5),
    "t5_encoder": reading("T5EncoderModel", "T5Config", **_T5),
    "torch_encoder": layers_of_torch,
    "vit": seeing("ViTModel", "ViTConfig", **_PATCHES),
    "whisper_decoder": writing,
    "whisper_encoder": hearing,
}
"""A builder for each name."""
