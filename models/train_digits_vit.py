"""Train the small vision transformer that ``onnxq demo`` compiles, and export it to ONNX.

Each 8 x 8 digit is cut into 16 patches of 2 x 2 pixels; two pre-norm transformer layers of width 128
mix them, and their mean is classified. Some minutes on one core::

    pip install -e ".[demo,export]"
    python models/train_digits_vit.py

The seed fixes the split, the first weights, the order and the augmentation. ``--validate`` trains on
four fifths of the training images and tells the accuracy on the fifth: with it the settings below
were chosen, so that the test images stayed unseen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from exporting import write_program
from numpy.typing import NDArray
from torch import Tensor, nn

from onnxq.digits import DIGITS_MODEL, DigitsSplit, load_digits_split

WIDTH, DEPTH, HEADS, HIDDEN = 128, 2, 4, 256
PATCH, TOKENS, CLASSES = 2, 16, 10
EPOCHS, BATCH, WARM_UP = 200, 64, 10
LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING, DROPOUT = 1e-3, 0.1, 0.1, 0.1
WARP, MOVE, NOISE = 0.1, 0.25, 0.1
OPSET = 21


class Attention(nn.Module):
    """Multi-head self-attention, written out so that its export is plain MatMul and Softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, TOKENS, WIDTH) to the same shape."""
        query, key, value = (self.heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        mixed = scores.softmax(-1) @ value
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(-1, TOKENS, WIDTH))
        return joined

    def heads(self, x: Tensor) -> Tensor:
        """Map (N, TOKENS, WIDTH) to (N, HEADS, TOKENS, WIDTH / HEADS)."""
        return x.reshape(-1, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.norm2, self.gelu, self.dropout = nn.LayerNorm(WIDTH), nn.GELU(), nn.Dropout(DROPOUT)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, TOKENS, WIDTH) to the same shape."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        hidden = self.gelu(self.up(self.norm2(x)))
        y: Tensor = x + self.dropout(self.down(hidden))
        return y


class DigitsVit(nn.Module):
    """The classifier: (N, 1, 8, 8) in 0..1 to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Classify by the mean over the patches."""
        tokens = self.patches(image).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return logits


def augment(images: Tensor) -> Tensor:
    """Turn, stretch and move each image a little, and add noise.

    A move is at most one pixel, which is 0.25 in the units of ``affine_grid`` (-1..1 over 8 pixels).
    """
    count = len(images)
    turn = torch.eye(2) + WARP * torch.randn(count, 2, 2)
    move = MOVE * (2 * torch.rand(count, 2, 1) - 1)
    grid = nn.functional.affine_grid(torch.cat([turn, move], 2), list(images.shape), align_corners=False)
    moved = nn.functional.grid_sample(images, grid, align_corners=False)
    return (moved + NOISE * torch.randn_like(moved)).clamp(0, 1)


def train(images: NDArray[np.float32], labels: NDArray[np.int64], seed: int, epochs: int) -> DigitsVit:
    """Return the model trained with AdamW under a cosine schedule with warm-up."""
    torch.manual_seed(seed)
    model = DigitsVit().train()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    steps = epochs * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP / EPOCHS, cycle_momentum=False
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    for epoch in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), BATCH):
            optimizer.zero_grad()
            loss = loss_of(model(augment(x[chosen])), y[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
        if (epoch + 1) % 20 == 0:
            print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}", flush=True)
    return model.eval()


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the share of right answers in percent."""
    return 100 * float(np.mean(logits.argmax(1) == labels))


@torch.no_grad()
def predict(model: DigitsVit, images: NDArray[np.float32]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits


def export(model: DigitsVit, path: Path) -> None:
    """Write the ONNX file, with a free batch axis and without the exporter's notes."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    write_program(program, path)


def check_export(model: DigitsVit, path: Path, split: DigitsSplit) -> None:
    """Compare ONNX Runtime with torch on the test images, and print the held-out accuracy."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": split.test_images})
    apart = np.abs(logits - predict(model, split.test_images)).max()
    print(f"{path.name}: {path.stat().st_size} bytes; largest difference to torch {apart:.1e}")
    print(f"held-out accuracy: {accuracy(logits, split.test_labels):.2f} % of {len(logits)} images")


def validate(split: DigitsSplit, seed: int, epochs: int) -> None:
    """Train on four fifths of the training images and print the accuracy on the fifth."""
    held = np.arange(len(split.train_labels)) % 5 == seed % 5
    model = train(split.train_images[~held], split.train_labels[~held], seed, epochs)
    logits = predict(model, split.train_images[held])
    print(f"validation accuracy: {accuracy(logits, split.train_labels[held]):.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=DIGITS_MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--validate", action="store_true", help="measure on a part of the training images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    split = load_digits_split()
    if args.validate:
        validate(split, args.seed, args.epochs)
        return
    model = train(split.train_images, split.train_labels, args.seed, args.epochs)
    export(model, args.output)
    check_export(model, args.output, split)


if __name__ == "__main__":
    main()
