"""The texts that the two BERT-Tiny classifiers in this folder are trained and measured on.

``read_texts("emotion", folder)`` reads ``emotion/train.txt`` and ``emotion/val.txt`` (six emotions;
Saravia et al., 2018), ``read_texts("spam", folder)`` the labelled messages of ``sms_spam/train.tsv``
(Almeida et al., 2011).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LABELS = {
    "emotion": ("sadness", "joy", "love", "anger", "fear", "surprise"),
    "spam": ("ham", "spam"),
}
PARTS = 10
DEV_PARTS = frozenset({0, 1})
"""A fifth of the messages is held out, where the data has no such part of its own."""

Labelled = list[tuple[str, int]]


@dataclass(frozen=True)
class Texts:
    """Texts with the index of their label: to train on, and held out."""

    train: Labelled
    dev: Labelled


def read_texts(name: str, folder: Path) -> Texts:
    """Return the texts of one task, ``emotion`` or ``spam``."""
    if name == "emotion":
        return Texts(*(_read_emotions(folder / "emotion" / file) for file in ("train.txt", "val.txt")))
    messages = _read_messages(folder / "sms_spam" / "train.tsv")
    train = [(text, label) for text, label in messages if part_of(text) not in DEV_PARTS]
    return Texts(train, [(text, label) for text, label in messages if part_of(text) in DEV_PARTS])


def part_of(text: str) -> int:
    """Return which tenth a text belongs to, by its digest: the same text is never on both sides."""
    return int(hashlib.sha256(text.strip().lower().encode()).hexdigest()[:8], 16) % PARTS


def _read_emotions(path: Path) -> Labelled:
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return _labelled((line.rsplit(";", 1) for line in lines), "emotion")


def _read_messages(path: Path) -> Labelled:
    lines = path.read_text(encoding="utf-8").splitlines()
    return _labelled((line.split("\t", 1)[::-1] for line in lines if "\t" in line), "spam")


def _labelled(rows: Iterable[list[str]], name: str) -> Labelled:
    return [(text, LABELS[name].index(label)) for text, label in rows]
