"""Rewrite what golden cases expect; read the diff before you commit it.

python tools/update_goldens.py [FILE_OR_FOLDER ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxq.testing.golden import update_golden

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"


def main() -> None:
    parser = argparse.ArgumentParser(description="rewrite what golden cases expect")
    parser.add_argument("paths", nargs="*", type=Path, default=[GOLDEN], help="files or folders")
    for path in parser.parse_args().paths:
        for case in sorted(path.rglob("*.onnxtxt")) if path.is_dir() else [path]:
            if update_golden(case):
                print(f"updated {case}")


if __name__ == "__main__":
    main()
