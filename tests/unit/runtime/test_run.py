"""Where and how a model runs."""

import json
from dataclasses import asdict

import pytest

from onnxq.errors import TargetError
from onnxq.runtime.run import Run, known_provider


def test_entries_that_are_set_stay() -> None:
    run = Run(entries={"a": "1"})
    assert run.with_defaults({"a": "2", "b": "3"}).entries == {"a": "1", "b": "3"}
    assert run.entries == {"a": "1"}


def test_a_graph_is_left_out_and_nothing_else() -> None:
    run = Run("cuda", 2, {"a": "1"}, cuda_graph=True)
    assert run.without_graph == Run("cuda", 2, {"a": "1"})


def test_a_run_comes_back_from_json() -> None:
    run = Run("cuda", 2, {"a": "1"}, cuda_graph=True)
    assert Run(**json.loads(json.dumps(asdict(run)))) == run


@pytest.mark.parametrize("provider", ["cpu", "tensorrt"])
def test_graphs_are_refused_where_there_are_none(provider: str) -> None:
    name = known_provider(provider)
    assert name is not None
    with pytest.raises(TargetError, match=f"there are no CUDA graphs on provider '{provider}'") as caught:
        Run(name, cuda_graph=True)
    assert caught.value.hint == "ask for them with --provider cuda"


def test_an_unknown_provider_is_none() -> None:
    assert known_provider("abacus") is None
