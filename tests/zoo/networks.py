"""Networks of the zoo that are no transformers: convolutions, recurrent layers, graphs, tables.

Those that transformers has come from its configurations, the others are written here as papers have them,
with widths of 16 to 64. What scikit-learn fits, skl2onnx writes (``PIPELINES``).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from .architectures import IMAGES, Builder, Example, floats, of_config, seeing, words, wrapped

SETTLING = 32
"""So many images tell the moments of a channel, where each gives a few pixels."""
_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
_RESNET = {**_STAGES, "embedding_size": 16}
_EFFICIENTNET = {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320}


def settled(build: Builder) -> Builder:
    """Return a builder whose batch normalizations give unit variance of what they get, as trained ones do.

    Else what twenty layers give is so small that half precision knows no numbers for it, and so are biases.
    """

    def built() -> Example:
        torch, example = import_module("torch"), build()
        normalizing = [one for one in example.model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
        for one in normalizing:
            torch.nn.init.ones_(one.weight)
            torch.nn.init.normal_(one.bias, std=0.1)
            one.momentum = None
            one.train()
        with torch.no_grad():
            example.model(*(floats(SETTLING, *value.shape[1:]) for value in example.inputs.values()))
        example.model.eval()
        return example

    return built


def of_torch(build: Callable[[Any], Any], *shape: int, name: str = "x", **axes: str) -> Builder:
    """Return the builder of a module that takes normal numbers of a shape; its first axis counts samples."""

    def built() -> Example:
        torch = import_module("torch")
        torch.manual_seed(0)
        made = wrapped(build(torch.nn), None)
        named = {0: "batch", **{int(axis[1:]): called for axis, called in axes.items()}}
        return Example(made, {name: floats(*shape)}, {name: named})

    return built


def _inverted(nn: Any, inner: int, kernel: int, *, squeeze: bool) -> Any:
    """Return MobileNetV3's block: widen, convolve each channel, weigh the channels, narrow, add."""

    class Weighed(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(inner, inner // 4, 1), nn.Conv2d(inner // 4, inner, 1)

        def forward(self, x: Any) -> Any:
            part = nn.functional.relu(self.down(x.mean((2, 3), keepdim=True)))
            return x * nn.functional.hardsigmoid(self.up(part))

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            depthwise = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner)
            parts = [nn.Conv2d(16, inner, 1), nn.Hardswish(), depthwise, nn.Hardswish()]
            parts += [Weighed()] if squeeze else []
            self.parts = nn.Sequential(*parts, nn.Conv2d(inner, 16, 1), nn.BatchNorm2d(16))

        def forward(self, x: Any) -> Any:
            return x + self.parts(x)

    return Block()


def _mobilenet_v3(nn: Any) -> Any:
    blocks = [_inverted(nn, 48, 3, squeeze=False), _inverted(nn, 64, 5, squeeze=True)]
    stem = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 100))


def _unet(nn: Any) -> Any:
    """Return Ronneberger's network of two scales: down, up by a transposed convolution, joined."""
    torch = import_module("torch")

    def twice(before: int, after: int) -> Any:
        pair = [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1)]
        return nn.Sequential(*pair, nn.ReLU())

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.low, self.last = twice(3, 16), twice(16, 32), twice(32, 16)
            self.up, self.head = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(16, 4, 1)

        def forward(self, x: Any) -> Any:
            kept = self.first(x)
            found = self.up(self.low(nn.functional.max_pool2d(kept, 2)))
            return self.head(self.last(torch.cat((kept, found), 1)))

    return Net()


def _yolo(nn: Any) -> Any:
    """Return a detector of one scale: for each cell of an image of 64 pixels 4 numbers of a box, 8 scores."""
    torch = import_module("torch")

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            sizes = [(3, 16), (16, 32), (32, 32)]
            convolutions = [part for a, b in sizes for part in (nn.Conv2d(a, b, 3, 2, 1), nn.SiLU())]
            self.body, self.head = nn.Sequential(*convolutions), nn.Conv2d(32, 12, 1)

        def forward(self, x: Any) -> Any:
            found = self.head(self.body(x)).flatten(2)
            return torch.exp(found[:, :4]).transpose(1, 2), torch.sigmoid(found[:, 4:])

    return Net()


def select_boxes(path: Path) -> None:
    """Put a NonMaxSuppression behind the two outputs of a detector, as exporters of detectors do."""
    model = onnx.load(path)
    limits = {"most": 20, "overlap": 0.5, "least": 0.5}
    types = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT)
    for (name, limit), kind in zip(limits.items(), types, strict=True):
        model.graph.initializer.append(helper.make_tensor(name, kind, [1], [limit]))
    inputs = [*(value.name for value in model.graph.output), *limits]
    selected = helper.make_node("NonMaxSuppression", inputs, ["selected"], center_point_box=1)
    model.graph.node.append(selected)
    model.graph.output.append(helper.make_tensor_value_info("selected", TensorProto.INT64, ["boxes", 3]))
    onnx.save(model, path)


def _recurrent(kind: str, *, both_ways: bool = False) -> Callable[[Any], Any]:
    def build(nn: Any) -> Any:
        class Net(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.layers = getattr(nn, kind)(32, 64, 2, batch_first=True, bidirectional=both_ways)
                self.head = nn.Linear(128 if both_ways else 64, 10)

            def forward(self, x: Any) -> Any:
                return self.head(self.layers(x)[0])

        return Net()

    return build


def _graph_network() -> Example:
    """Build Kipf and Welling's network: what neighbours say is added up along edges of shape (2, E)."""
    torch = import_module("torch")
    torch.manual_seed(0)
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(32, 64), nn.Linear(64, 64)])

        def forward(self, x: Any, edges: Any) -> Any:
            for layer in self.layers:
                told = layer(x)
                x = torch.relu(told + torch.zeros_like(told).index_add(0, edges[1], told[edges[0]]))
            return x

    made = wrapped(Net(), None)
    axes = {"x": {0: "nodes"}, "edges": {1: "edges"}}
    return Example(made, {"x": floats(12, 32), "edges": torch.randint(0, 12, (2, 30))}, axes)


def _table() -> Example:
    """Build a network for tables: embeddings of categories beside numbers, and three layers."""
    torch = import_module("torch")
    torch.manual_seed(0)
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(100, 16)
            sizes = [(4 * 16 + 12, 128), (128, 64), (64, 3)]
            parts = [part for a, b in sizes for part in (nn.Linear(a, b), nn.ReLU())]
            self.layers = nn.Sequential(*parts[:-1])

        def forward(self, kinds: Any, numbers: Any) -> Any:
            return self.layers(torch.cat((self.table(kinds).flatten(1), numbers), 1))

    axes = {"kinds": IMAGES, "numbers": IMAGES}
    return Example(wrapped(Net(), None), {"kinds": words(2, 4), "numbers": floats(2, 12)}, axes)


def _mamba() -> Example:
    made = of_config("MambaModel", "MambaConfig", vocab_size=100, hidden_size=64, num_hidden_layers=2)
    return Example(made, {"input_ids": words()}, {"input_ids": IMAGES})


NETWORKS: dict[str, Builder] = {
    "convnext": seeing("ConvNextModel", "ConvNextConfig", num_stages=2, **_STAGES),
    "convnextv2": seeing("ConvNextV2Model", "ConvNextV2Config", num_stages=2, **_STAGES),
    "efficientnet": settled(seeing("EfficientNetModel", "EfficientNetConfig", 64, **_EFFICIENTNET)),
    "graph_network": _graph_network,
    "gru": of_torch(_recurrent("GRU"), 2, 9, 32, _1="steps"),
    "lstm": of_torch(_recurrent("LSTM"), 2, 9, 32, _1="steps"),
    "lstm_both_ways": of_torch(_recurrent("LSTM", both_ways=True), 2, 9, 32, _1="steps"),
    "mamba": _mamba,
    "mobilenet_v1": settled(seeing("MobileNetV1Model", "MobileNetV1Config", 64, depth_multiplier=0.25)),
    "mobilenet_v2": settled(seeing("MobileNetV2Model", "MobileNetV2Config", 64, depth_multiplier=0.25)),
    "mobilenet_v3": settled(of_torch(_mobilenet_v3, 2, 3, 32, 32)),
    "regnet": settled(seeing("RegNetModel", "RegNetConfig", 64, groups_width=8, **_RESNET)),
    "resnet": settled(seeing("ResNetModel", "ResNetConfig", 64, layer_type="basic", **_RESNET)),
    "table": _table,
    "unet": of_torch(_unet, 2, 3, 32, 32),
    "yolo": of_torch(_yolo, 2, 3, 64, 64),
}
"""A builder for each name."""
FINISHED: dict[str, Callable[[Path], None]] = {"yolo": select_boxes}
"""What is done to an export before it is used."""
PIPELINES = ("sklearn_mlp", "sklearn_logistic", "sklearn_trees")
"""What ``fitted`` writes."""


def fitted(name: str, path: Path) -> Path:
    """Fit a pipeline of scikit-learn on made-up rows of 20 numbers and three classes, and write it."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20)).astype(np.float32)
    y = (x @ rng.normal(size=(20, 3))).argmax(axis=1)
    models = {
        "sklearn_mlp": MLPClassifier((64, 64), max_iter=50, random_state=0),
        "sklearn_logistic": LogisticRegression(),
        "sklearn_trees": RandomForestClassifier(10, random_state=0),
    }
    pipeline = make_pipeline(StandardScaler(), models[name]).fit(x, y)
    path.write_bytes(import_module("skl2onnx").to_onnx(pipeline, x[:1]).SerializeToString())
    return path
