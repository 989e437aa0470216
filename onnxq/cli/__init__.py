"""The command line: one module for each command.

Command modules import nothing heavy until they run, so that ``--help`` and shell completion answer at once.
"""

import gc
import sys

__all__ = ["main"]

OBJECTS = 10_000
"""So many new objects before Python looks for circles among them: graphs are many objects that stay. With the
700 of Python itself a tenth of a compilation goes into looking."""


def main() -> None:
    """Run the command line and leave with its exit code, that of an interrupt too if it is still starting."""
    gc.set_threshold(OBJECTS)
    try:
        from onnxq.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
