"""The command line: one module for each command.

Command modules import nothing heavy until they run, so that ``--help`` and shell completion answer at once.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and leave with its exit code, that of an interrupt too if it is still starting."""
    try:
        from onnxq.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
