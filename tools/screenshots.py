"""Write the screenshots of the documentation: a diff and a report of one model, in a headless Chromium.

Needs the report extra, Chromium with its driver, and selenium.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from chromium import chromium, missing, opened, wait
from PIL import Image

DOCS = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = (1280, 800)
SELECT = "graph.select(scene.nodes.findIndex((node) => node.name === arguments[0]), { move: true })"


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    options.add_argument("source", type=Path, help="the original .onnx file")
    options.add_argument("compiled", type=Path, help="what onnxq compile made of it, its manifest beside it")
    options.add_argument("--data", required=True, help="as onnxq diff takes it")
    options.add_argument("--node", required=True, help="the node that the screenshots show")
    options.add_argument("--output", type=Path, default=DOCS, help="the folder to write into")
    args, reading = options.parse_known_args()
    if reason := missing():
        print(f"error: {reason}", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        diff, report = Path(folder, "diff.html"), Path(folder, "report.html")
        data = ["--data", args.data, *reading]
        _onnxq("diff", args.source, args.compiled, "--html", diff, *data)
        manifest = args.compiled.with_suffix(".manifest.json")
        _onnxq("report", manifest, "--source", args.source, "--html", report, *data)
        _shoot(diff, report, args.node, args.output)
    return 0


def _shoot(diff: Path, report: Path, node: str, output: Path) -> None:
    with chromium(*SIZE) as driver:
        opened(driver, f"file://{diff}")
        driver.execute_script(SELECT, node)
        wait(driver, "return document.querySelector('#panel .chart svg')")
        _save(driver, output / "diff.png")
        opened(driver, f"file://{diff}#tab=charts")
        wait(driver, "return document.querySelectorAll('#charts .chart svg.main-svg').length")
        _save(driver, output / "diff-charts.png")
    with chromium(*SIZE, dark=True) as driver:
        opened(driver, f"file://{diff}#colour=error&view=over&level=1")
        _save(driver, output / "diff-error.png")
        opened(driver, f"file://{report}#tab=charts")
        wait(driver, "return document.querySelectorAll('#charts .chart svg.main-svg').length")
        _save(driver, output / "report.png")


def _save(driver: Any, path: Path) -> None:
    image = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    palette = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)
    print(f"wrote {path} ({path.stat().st_size // 1000} kB)")


def _onnxq(*arguments: object) -> None:
    """Run a command of onnxq; a diff that finds something exits with 1."""
    command = Path(sys.executable).with_name("onnxq")
    done = subprocess.run([command, *map(str, arguments)], stdout=subprocess.DEVNULL)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    sys.exit(main())
