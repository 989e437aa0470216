"""Export the zoo with both exporters of torch, and count in how many exports all attention is fused.

python tools/count_attention.py FOLDER [ARCHITECTURE ...]

Exports are kept in FOLDER, and taken from there the next time.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from zoo.architectures import ARCHITECTURES, EXPORTERS, Exporter, export
from zoo.attention import attention_of


def exported(name: str, exporter: Exporter, folder: Path) -> Path | None:
    """Return the export of an architecture; None where torch cannot write it."""
    path = folder / f"{name}.{exporter}.onnx"
    if path.exists():
        return path
    try:
        return export(ARCHITECTURES[name](), path, exporter)
    except RuntimeError as error:
        print(f"{name:16} {exporter:12} torch cannot export it: {error}"[:110], file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description="count exports whose attention is fused")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found = []
    for name in args.names:
        for exporter in EXPORTERS:
            path = exported(name, exporter, args.folder)
            if path is not None:
                found.append(attention_of(path))
                reasons = "; ".join(sorted(found[-1].reasons))
                print(f"{name:16} {exporter:12} fused {found[-1].fused}, left {found[-1].left} {reasons}")
    print(f"all attention fused in {sum(one.whole for one in found)} of {len(found)} exports")


if __name__ == "__main__":
    main()
