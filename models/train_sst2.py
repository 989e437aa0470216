"""Fine-tune a BERT encoder on SST-2, movie-review sentiment in two classes, and export it to ONNX.

The result shows what outliers in activations do to a classifier: ``tools/reproduce_outliers.py`` reads
it. It is not kept in the repository, since weights and data come from elsewhere::

    pip install -e ".[export]"
    python models/train_sst2.py ENCODER --data SST2 -o OUT

ENCODER is a model folder in the Hugging Face layout (config.json, weights, tokenizer), for example
all-MiniLM-L6-v2; SST2 holds ``train.tsv`` and ``dev.tsv`` with the columns ``sentence`` and ``label``.
With a six-layer encoder of width 384 it took 23 minutes on one core. The seed fixes the
chosen sentences, their order, the first weights of the new head, and dropout.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from onnxq.export import export_model

EPOCHS, BATCH, LONGEST = 2, 32, 64
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 5e-5, 0.01, 0.1
WATCHED = 1000
"""Sentences of the dev split that are classified each half epoch; all of them at the end."""


@dataclass(frozen=True)
class Sentences:
    """Texts with their labels, 0 for negative and 1 for positive."""

    texts: list[str]
    labels: list[int]

    def batches(self, order: list[int], size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Yield texts and labels, ``size`` at a time."""
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield [self.texts[i] for i in chosen], torch.tensor([self.labels[i] for i in chosen])


def read_sentences(path: Path) -> Sentences:
    """Read a tab-separated file with a header line."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return Sentences([row["sentence"].strip() for row in rows], [int(row["label"]) for row in rows])


@dataclass
class Trainer:
    """The model in training, with its tokenizer and data."""

    model: Any
    tokenizer: Any
    train: Sentences
    dev: Sentences
    rng: np.random.Generator

    def fit(self, count: int, epochs: int) -> None:
        """Train on ``count`` sentences, ``epochs`` times, and print what becomes of it."""
        chosen = self.rng.permutation(len(self.train.texts))[:count]
        steps = -(-len(chosen) // BATCH)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=steps * epochs, pct_start=WARM_UP, cycle_momentum=False
        )
        began = time.perf_counter()
        for epoch in range(epochs):
            order = [int(i) for i in self.rng.permutation(chosen)]
            for step, (texts, labels) in enumerate(self.train.batches(order, BATCH), start=1):
                loss = self.step(texts, labels, optimizer)
                schedule.step()
                if step in (steps // 2, steps):
                    seconds = time.perf_counter() - began
                    print(
                        f"epoch {epoch + step / steps:.1f}/{epochs}: loss {loss:.3f}, "
                        f"dev accuracy {self.accuracy(WATCHED):.2f} % of {WATCHED}, {seconds:.0f} s",
                        flush=True,
                    )

    def step(self, texts: list[str], labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        """Move the weights by one batch and return its loss."""
        self.model.train()
        loss = nn.functional.cross_entropy(self.logits(texts), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    def logits(self, texts: list[str]) -> torch.Tensor:
        """Classify texts, padded to the longest among them: shape (N, 2)."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        logits: torch.Tensor = self.model(**tokens).logits
        return logits

    @torch.no_grad()
    def accuracy(self, count: int) -> float:
        """Return the share of the first ``count`` dev sentences that are classified right, in percent."""
        self.model.eval()
        order = list(range(min(count, len(self.dev.texts))))
        right = 0
        for texts, labels in self.dev.batches(order, 64):
            right += int((self.logits(texts).argmax(1) == labels).sum())
        return 100 * right / len(order)


def export(trainer: Trainer, output: Path) -> None:
    """Write the ONNX file, with free batch and token axes, and the tokenizer beside it."""
    with TemporaryDirectory() as folder:
        trainer.model.save_pretrained(folder)
        trainer.tokenizer.save_pretrained(folder)
        exported = export_model(folder, output, task="text-classification", opset=18)
    print(f"{output}: {', '.join(exported.files)}; allowed difference to torch {exported.tolerance}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", type=Path, help="folder of the encoder: config.json, weights, tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the ONNX model")
    parser.add_argument("--sentences", type=int, default=16000, help="how many to train on")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    trainer = Trainer(
        AutoModelForSequenceClassification.from_pretrained(args.encoder, num_labels=2, local_files_only=True),
        AutoTokenizer.from_pretrained(args.encoder, local_files_only=True),
        read_sentences(args.data / "train.tsv"),
        read_sentences(args.data / "dev.tsv"),
        np.random.default_rng(args.seed),
    )
    trainer.fit(args.sentences, args.epochs)
    print(f"dev accuracy {trainer.accuracy(len(trainer.dev.texts)):.2f} % of {len(trainer.dev.texts)}")
    export(trainer, args.output)


if __name__ == "__main__":
    main()
