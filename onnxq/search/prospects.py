"""What exact passes would do to a model, without doing it: fold sites, and what would be left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxq.analysis.sites import Site, find_sites
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model
from onnxq.passmanager.base import PassRecord
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.summary import PassSummary, summarise
from onnxq.recipe import load_recipe
from onnxq.runtime.validity import only_valid

RECIPE = "fp32"
"""The recipe whose passes are tried: all of them are exact."""


def prospects(path: Path) -> tuple[PassSummary, ...]:
    """Return what each exact pass finds to do in the model, in order; those that find nothing are left out.

    Raises:
        ModelError: The model cannot be read.
        PassError: A pass does not take it.

    """
    _, records = _rewritten(path)
    return tuple(one for one in summarise(records) if one.edits or one.skipped)


def fold_sites(path: Path) -> list[Site]:
    """Return the fold sites of the model as the exact passes leave it, which is how the others meet it.

    Raises:
        ModelError: The model cannot be read.
        PassError: A pass does not take it.

    """
    module, _ = _rewritten(path)
    return find_sites(module)


def _rewritten(path: Path) -> tuple[GraphModule, Sequence[PassRecord]]:
    module, recipe = load_model(path), load_recipe(RECIPE)
    with only_valid(path):
        return module, PassManager(parse_pipeline(recipe.pipeline), recipe.runs_on).run(module)
