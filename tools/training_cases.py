"""What the measurements of training share: data of a model, and means over seeds."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.calibration.data import DataOptions, Dataset, input_specs, open_data, open_feeds
from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.ir.store import load_model

BATCH = 32


def add_data(options: argparse.ArgumentParser) -> None:
    """Add the options that say what is trained, and on what; the digits by default."""
    options.add_argument("--model", type=Path, default=DIGITS_MODEL)
    options.add_argument("--data", help="samples to learn from; the digits without it")
    options.add_argument("--val", help="samples to judge by")
    options.add_argument("--label-column", help="the labels in them")
    options.add_argument("--loss", default="kl", choices=["cross-entropy", "kl", "mse"])
    options.add_argument("--limit", type=int, help="read at most so many samples of each")
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--batch", type=int, default=BATCH)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--threads", type=int)


def data_of(args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Return samples to learn from, and to judge by."""
    if args.data is None:
        split = load_digits_split()
        return _digits(split.train_images, split.train_labels), _digits(split.test_images, split.test_labels)
    specs = input_specs(load_model(args.model).model)
    options = DataOptions(batch_size=args.batch, limit=args.limit, label_column=args.label_column)
    return open_data(args.data, specs, options), open_data(args.val, specs, options)


def _digits(images: Any, labels: Any) -> Dataset:
    def batches() -> Iterator[Any]:
        for start in range(0, len(images), BATCH):
            yield {"image": images[start : start + BATCH]}, labels[start : start + BATCH]

    return open_feeds("digits", batches, input_specs(load_model(DIGITS_MODEL).model))


def over_seeds(rows: Sequence[Mapping[str, float | None]]) -> dict[str, str]:
    """Return mean and spread (standard deviation) of each column."""
    return {name: _told([row[name] for row in rows]) for name in rows[0]}


def _told(found: Iterable[float | None]) -> str:
    known = [one for one in found if one is not None]
    return f"{np.mean(known):.4g} ± {np.std(known):.2g}" if known else "-"
