"""Train the two BERT-Tiny text classifiers of this folder, and export them to ONNX.

BERT-Tiny is BERT with 2 layers of width 128, 2 heads and 512 hidden units. It starts from random
weights and has a small vocabulary of its own, so that a model takes 3 MB. Some minutes on one core::

    pip install -e ".[export,text]"
    python models/train_bert_tiny.py emotion --data DIR --tokenizer models/bert_tiny_emotion.tokenizer.json
    python models/train_bert_tiny.py spam --data DIR --tokenizer models/bert_tiny_spam.tokenizer.json

The seed fixes first weights, order and dropout; the digest of a text fixes its side where the data has
no held-out part. Without ``--tokenizer`` a new vocabulary is made. Its trainer takes equal counts in the
order of a hash, so that it is another each time, whatever the seed.

``--validate`` trains on nine tenths of the training texts and measures on the tenth: with it the settings
below can be chosen. That tenth also fits the temperature that the logits are divided by, so that
probabilities mean what they say (Guo et al., 2017, arXiv:1706.04599).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from exporting import write_program
from numpy.typing import NDArray
from text_data import LABELS, PARTS, Labelled, part_of, read_texts
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

HERE = Path(__file__).resolve().parent
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNKNOWN = 0, 1
LONGEST, BATCH, WARM_UP = 128, 64, 0.1
SORTED = 16
"""So many batches are drawn at once and sorted by length, so that little is padded."""
HELD_PART = PARTS - 1
OPSET = 21


@dataclass(frozen=True)
class Settings:
    """What differs between the tasks; ``hidden`` is the share of tokens that are hidden while training."""

    vocabulary: int
    epochs: int
    rate: float
    dropout: float
    hidden: float
    decay: float = 0.05


SETTINGS = {
    "emotion": Settings(vocabulary=3000, epochs=10, rate=1e-3, dropout=0.1, hidden=0.1),
    "spam": Settings(vocabulary=2500, epochs=10, rate=1e-3, dropout=0.1, hidden=0.1),
}


class Classifier(nn.Module):
    """The model as exported: (N, T) token ids and mask to (N, classes) logits."""

    def __init__(self, vocabulary: int, classes: int, dropout: float) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=LONGEST,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            num_labels=classes,
            attn_implementation="eager",
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Classify each text by its first token."""
        logits: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Let the last layer give the logits divided by ``temperature``."""
        for parameter in self.bert.classifier.parameters():
            parameter /= temperature


def train_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """Return a WordPiece tokenizer in lower case, trained on ``texts``."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = BertProcessing(*ends)
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def encode(tokenizer: Tokenizer, rows: Labelled) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and mask, both (N, T), and the labels (N,)."""
    encoded = tokenizer.encode_batch([text for text, _ in rows])
    ids, mask = (torch.tensor([getattr(e, part) for e in encoded]) for part in ("ids", "attention_mask"))
    return ids, mask, torch.tensor([label for _, label in rows])


def train(tokenizer: Tokenizer, rows: Labelled, classes: int, settings: Settings, seed: int) -> Classifier:
    """Return the model trained with AdamW under a cosine schedule with warm-up."""
    torch.manual_seed(seed)
    model = Classifier(tokenizer.get_vocab_size(), classes, settings.dropout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=settings.decay)
    lengths = torch.tensor([len(text) for text, _ in rows])
    batches = -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=settings.epochs * batches, pct_start=WARM_UP
    )
    for epoch in range(settings.epochs):
        total = 0.0
        for chosen in batches_of(lengths):
            total += step(model, optimizer, encode(tokenizer, [rows[i] for i in chosen]), settings.hidden)
            schedule.step()
        print(f"epoch {epoch + 1}/{settings.epochs}: loss {total / batches:.4f}", flush=True)
    return model.eval()


def batches_of(lengths: Tensor) -> list[Tensor]:
    """Return one epoch's batches of places in random order, each of texts of about equal length."""
    drawn = torch.split(torch.randperm(len(lengths)), BATCH * SORTED)
    batches = [batch for some in drawn for batch in torch.split(some[lengths[some].argsort()], BATCH)]
    return [batches[index] for index in torch.randperm(len(batches))]


def step(
    model: Classifier, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor, Tensor], hidden: float
) -> float:
    """Learn from one batch in which some tokens are hidden, and return its loss."""
    ids, mask, labels = batch
    hide = (torch.rand(ids.shape) < hidden) & (ids >= len(SPECIAL))
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(ids.masked_fill(hide, UNKNOWN), mask), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def predict(model: Classifier, tokenizer: Tokenizer, rows: Labelled) -> tuple[Tensor, Tensor]:
    """Return logits and labels of all rows."""
    parts = [encode(tokenizer, rows[start : start + 64]) for start in range(0, len(rows), 64)]
    return torch.cat([model(ids, mask) for ids, mask, _ in parts]), torch.cat([part[2] for part in parts])


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the number of smallest cross-entropy to divide ``logits`` by, from a fine grid."""
    grid = torch.logspace(-1, 1, 401).tolist()
    return min(grid, key=lambda t: nn.functional.cross_entropy(logits / t, labels).item())


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Return how far confidence is from accuracy on average, in percent, over bins of equal width.

    Source:
        Naeini et al., 2015 (expected calibration error).

    """
    confidence, guess = logits.softmax(1).max(1)
    right = (guess == labels).float()
    place = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [(right - confidence)[place == index].sum().abs() for index in range(bins)]
    return 100 * float(sum(gaps)) / len(labels)


def describe(logits: Tensor, labels: Tensor) -> str:
    accuracy = 100 * float((logits.argmax(1) == labels).float().mean())
    error = calibration_error(logits, labels)
    return f"accuracy {accuracy:.2f} % of {len(labels)}, calibration error {error:.2f} %"


def export(model: Classifier, path: Path) -> None:
    """Write the ONNX file, with free batch and token axes and without the exporter's notes."""
    ids = torch.ones(2, 7, dtype=torch.int64)
    axes = {0: torch.export.Dim("N"), 1: torch.export.Dim("T", max=LONGEST)}
    program = torch.onnx.export(
        model,
        (ids, torch.ones_like(ids)),
        dynamo=True,
        opset_version=OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=(axes, axes),
        verbose=False,
    )
    write_program(program, path)


def run_onnx(path: Path, tokenizer: Tokenizer, rows: Labelled) -> NDArray[np.float32]:
    """Return the logits of all rows from ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [encode(tokenizer, rows[start : start + 64])[:2] for start in range(0, len(rows), 64)]
    feeds = [{"input_ids": ids.numpy(), "attention_mask": mask.numpy()} for ids, mask in parts]
    return np.concatenate([session.run(["logits"], feed)[0] for feed in feeds])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="folder with emotion/ or sms_spam/ in it")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for model and tokenizer")
    parser.add_argument("--tokenizer", type=Path, help="use this tokenizer, as it is")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true", help="measure on a part of the training texts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings, texts = SETTINGS[args.task], read_texts(args.task, args.data)
    held = [row for row in texts.train if part_of(row[0]) == HELD_PART]
    kept = [row for row in texts.train if part_of(row[0]) != HELD_PART]
    tokenizer = (
        Tokenizer.from_file(str(args.tokenizer))
        if args.tokenizer
        else train_tokenizer([text for text, _ in kept], settings.vocabulary)
    )
    tokenizer.enable_padding(pad_id=PAD)
    model = train(tokenizer, kept, len(LABELS[args.task]), settings, args.seed)
    logits, labels = predict(model, tokenizer, held)
    temperature = fit_temperature(logits, labels)
    print(f"validation: {describe(logits, labels)}; temperature {temperature:.3f}")
    if args.validate:
        return
    model.divide_logits(temperature)
    path = args.output / f"bert_tiny_{args.task}.onnx"
    export(model, path)
    tokenizer.no_padding()
    tokenizer.save(str(path.with_suffix(".tokenizer.json")))
    tokenizer.enable_padding(pad_id=PAD)
    logits, labels = predict(model, tokenizer, texts.dev)
    exported = torch.from_numpy(run_onnx(path, tokenizer, texts.dev))
    apart = float((logits - exported).abs().max())
    print(f"{path.name}: {path.stat().st_size} bytes; largest difference to torch {apart:.1e}")
    print(f"held out: {describe(exported, labels)}")


if __name__ == "__main__":
    main()
