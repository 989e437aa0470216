"""Train a small depthwise-separable network on handwritten digits, with channels of very different size.

Such channels are what folded BatchNormalizations leave in mobile networks. Here they are made on purpose:
after training, each channel between two layers is multiplied by a factor of its own on one side and divided
by it on the other, which changes no output in exact arithmetic. One scale for a whole tensor then cannot hold
the small channels; ``equalize-layers`` finds the factors back. Half a minute on one core::

    pip install -e ".[demo,export]"
    python models/train_digits_depthwise.py

The seed fixes the split, the first weights, the order and the factors.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from onnxq.digits import load_digits_split
from onnxq.files import write_whole
from onnxq.ir.store import load_model
from onnxq.ir.text import render
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target

MODEL = Path(__file__).with_name("digits_depthwise.onnxtxt")
WIDTHS = (12, 20, 20)
EPOCHS, BATCH, LEARNING_RATE = 150, 64, 1e-2
MOVE, NOISE = 0.25, 0.1
LARGEST_FACTOR = 50.0
TIDY = "inline-functions, lift-constants, fold-constants, remove-dead"


class DigitsDepthwise(nn.Module):
    """The classifier: (N, 1, 8, 8) in 0..1 to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, first, 3, padding=1, bias=False),
                nn.Conv2d(first, first, 3, stride=2, padding=1, groups=first, bias=False),
                nn.Conv2d(first, second, 1, bias=False),
                nn.Conv2d(second, second, 3, padding=1, groups=second, bias=False),
                nn.Conv2d(second, third, 1, bias=False),
            ]
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(conv.out_channels) for conv in self.convs])
        self.head = nn.Linear(third, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Classify by the mean over the positions."""
        x = image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def augment(images: Tensor) -> Tensor:
    """Move each image by up to a pixel, which is 0.25 in the units of ``affine_grid``, and add noise."""
    move = MOVE * (2 * torch.rand(len(images), 2, 1) - 1)
    grid = nn.functional.affine_grid(
        torch.cat([torch.eye(2).expand(len(images), 2, 2), move], 2), list(images.shape), align_corners=False
    )
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    return (moved + NOISE * torch.randn_like(moved)).clamp(0, 1)


def train(images: Tensor, labels: Tensor, seed: int) -> DigitsDepthwise:
    """Return the model trained with AdamW under a one-cycle schedule."""
    torch.manual_seed(seed)
    model = DigitsDepthwise().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, cycle_momentum=False
    )
    for _ in range(EPOCHS):
        for chosen in torch.split(torch.randperm(len(images)), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(augment(images[chosen])), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def spoil(model: DigitsDepthwise, seed: int) -> DigitsDepthwise:
    """Fold the BatchNormalizations, and scale each channel up on one side and down on the other."""
    rng = np.random.default_rng(seed)
    fused = [fuse_conv_bn_eval(conv, norm) for conv, norm in zip(model.convs, model.norms, strict=True)]
    for made, met in pairwise(fused):
        exponents = rng.uniform(-1, 1, made.out_channels)
        factor = torch.tensor(LARGEST_FACTOR**exponents, dtype=torch.float32).reshape(-1, 1, 1, 1)
        made.weight *= factor
        made.bias *= factor.flatten()
        met.weight /= factor if met.groups > 1 else factor.reshape(1, -1, 1, 1)
    model.convs, model.norms = nn.ModuleList(fused), nn.ModuleList([nn.Identity() for _ in fused])
    return model


def export(model: DigitsDepthwise, path: Path) -> None:
    """Write the graph as text, with a free batch axis."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        torch.onnx.export(
            model,
            (torch.zeros(2, 1, 8, 8),),
            file,
            dynamo=True,
            opset_version=21,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
        module = load_model(file)
        PassManager(parse_pipeline(TIDY), find_target("portable")).run(module)
    module.graph.name = path.stem
    write_whole(path, render(module))


@torch.no_grad()
def accuracy(model: DigitsDepthwise, images: Tensor, labels: Tensor) -> float:
    """Return the share of right answers in percent."""
    return 100 * float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    split = load_digits_split()
    images, labels = torch.from_numpy(split.train_images), torch.from_numpy(split.train_labels)
    held_out = torch.from_numpy(split.test_images), torch.from_numpy(split.test_labels)
    model = train(images, labels, args.seed)
    print(f"held-out accuracy: {accuracy(model, *held_out):.2f} %")
    model = spoil(model, args.seed)
    print(f"after scaling the channels: {accuracy(model, *held_out):.2f} %")
    export(model, args.output)
    print(f"{args.output}: {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
