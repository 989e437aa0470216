"""The command line: one module for each command.

Command modules import nothing heavy until they run, so that ``--help`` and shell completion answer at once.
"""

from onnxq.cli.app import main

__all__ = ["main"]
