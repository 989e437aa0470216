"""PyTorch beside the CUDA artifacts: the same architectures, random weights, eager and compiled.

Run by itself it times one layer of each, to see that it works: python tools/torch_cases.py --device cpu
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import architectures as nets
import numpy as np
from measuring import show_tables
from numpy.typing import NDArray

from onnxq.runtime.bench import Spread

Feeds = Mapping[str, NDArray[Any]]
Row = dict[str, Any]
NAMES = ("MiniLM", "BERT-base", "ViT-base", "resnet50")
"""What can be built; a decoder step with a cache is not among them."""
FORMS = {"eager": None, "compiled": "default", "compiled, CUDA graph": "reduce-overhead"}
"""How the model runs, and with which mode it is compiled."""
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
WARMUP = 5
"""Runs before the first that counts: some compile, and record a CUDA graph."""


def missing(device: str) -> str | None:
    """Return why there is no PyTorch row on this device; None if there can be one."""
    absent = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if absent:
        return f"PyTorch was not timed: {' and '.join(absent)} not installed"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "PyTorch was not timed: the installed one has no CUDA"
    return None


def module_of(name: str, *, quick: bool = False) -> Any:
    """Return one of ``NAMES`` with random weights in float32, for inference; a layer or two if ``quick``."""
    import transformers

    bert = {"hidden_act": "gelu", "vocab_size": nets.TOKENS, **({"num_hidden_layers": 1} if quick else {})}
    if name == "resnet50":
        depths = [1, 1, 1, 1] if quick else [count for _, count in nets.STAGES]
        config = transformers.ResNetConfig(depths=depths, num_labels=nets.CLASSES)
        return transformers.ResNetForImageClassification(config).eval()
    if name == "ViT-base":
        config = transformers.ViTConfig(
            num_hidden_layers=1 if quick else nets.LAYERS, num_labels=nets.CLASSES
        )
        return transformers.ViTForImageClassification(config).eval()
    size = MINILM if name == "MiniLM" else {}
    return transformers.BertModel(transformers.BertConfig(**{**size, **bert})).eval()


def torch_rows(
    name: str, feeds: Feeds, *, device: str, quick: bool = False, rounds: int = 30, compiled: bool = True
) -> Iterator[Row]:
    """Yield a row for the model as it is, and for it compiled."""
    for form in FORMS if compiled else ("eager",):
        settings = {"device": device, "form": form, "quick": quick, "rounds": rounds}
        try:
            spread = torch_times(name, feeds, **settings)
        except RuntimeError as error:  # no compiler, or too little memory
            reason = str(error).partition("\n")[0]
            yield {"form": form, "ms": None, "p10 .. p90": f"failed: {reason[:60]}"}
            continue
        yield {"form": form, "ms": spread.median, "p10 .. p90": f"{spread.p10:.3f} .. {spread.p90:.3f}"}


def torch_times(
    name: str, feeds: Feeds, *, device: str, form: str, quick: bool = False, rounds: int = 30
) -> Spread:
    """Return the milliseconds of one run: in float16 on CUDA, in float32 elsewhere.

    Inputs lie on the device. The rounds are PyTorch's own; each run ends when the device has ended it.

    Raises:
        RuntimeError: PyTorch cannot compile it, or has too little memory.

    """
    import torch

    torch.manual_seed(0)
    dtype = torch.float16 if device == "cuda" else torch.float32
    module = module_of(name, quick=quick).to(device, dtype)
    mode = FORMS[form]
    made = module if mode is None else torch.compile(module, mode=mode)
    return _timed(made, _inputs(feeds, device, dtype), device, rounds)


def _inputs(feeds: Feeds, device: str, dtype: Any) -> dict[str, Any]:
    """Return the feeds as tensors, images under the name that the library gives them."""
    import torch

    renamed = {"images": "pixel_values"}
    tensors = {renamed.get(key, key): torch.from_numpy(np.ascontiguousarray(a)) for key, a in feeds.items()}
    return {
        key: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
        for key, tensor in tensors.items()
    }


def _timed(module: Any, inputs: Mapping[str, Any], device: str, rounds: int) -> Spread:
    """Return the milliseconds of one run, over the rounds."""
    import torch

    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    with torch.inference_mode():
        for _ in range(WARMUP):
            module(**inputs)
        for _ in range(rounds):
            wait()
            start = time.perf_counter()
            module(**inputs)
            wait()
            times.append((time.perf_counter() - start) * 1e3)
    return Spread.of(times)


def _example(name: str) -> Feeds:
    rng = np.random.default_rng(0)
    if name in ("MiniLM", "BERT-base"):
        ids = rng.integers(0, nets.TOKENS, (1, 16))
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
    entry = "images" if name == "resnet50" else "pixel_values"
    return {entry: rng.normal(size=(1, 3, nets.PIXELS, nets.PIXELS)).astype(np.float32)}


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--device", default="cuda")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--compile", action="store_true", help="compile each, too")
    args = options.parse_args(arguments)
    reason = missing(args.device)
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    settings = {"device": args.device, "quick": True, "rounds": args.rounds, "compiled": args.compile}
    tables = {name: list(torch_rows(name, _example(name), **settings)) for name in NAMES}
    show_tables("PyTorch, one layer of each", tables, [], as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
