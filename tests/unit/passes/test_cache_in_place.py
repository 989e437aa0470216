"""cache-in-place against what it replaces, in ONNX Runtime: prompts, steps, padding, and one buffer."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.kernels import load_kernels
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.bound import Replay
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

pytest.importorskip("onnxruntime", reason="runs the models")
GRAPH = Path(__file__).parents[3] / "models" / "cached_attention.onnxtxt"
MASK = "    [mask] mask = Where(seen, nothing, least)"
FLAGGED = """    [spread] wide = Unsqueeze(flags, middle)
    [real] real = Cast <to = 9> (wide)
    [both] keep = And(real, seen)
    [mask] mask = Where(keep, nothing, least)"""
PLACE = {"present_key": "past_key", "present_value": "past_value"}
ROOM, WIDTH = 12, 8
BOUND = 64 * 2**-24 * 30
"""Products of 8, 8, up to 12 and 16 numbers, a softmax of up to 12 and a residual, in another order: 64
roundings of numbers up to 30 (inputs up to 4, weights up to 1)."""

Array = NDArray[np.float32]


def with_flags() -> GraphModule:
    """Return the graph for any batch, with a mask of padding too."""
    text = GRAPH.read_text(encoding="utf-8").replace(MASK, FLAGGED)
    text = text.replace("float[1,S,8]", "float[N,S,8]").replace("float[1,1,", "float[N,1,")
    text = text.replace("(float[N,S,8] x,", "(float[N,S,8] x, int64[N,A] flags,")
    return parsed(text.replace("float root", "int64[2] middle = {1, 2}, float root"))


def parsed(text: str) -> GraphModule:
    found = parse(text)
    PassManager(parse_pipeline("infer-shapes"), find_target("cuda")).run(found)
    return found


def kept_in_place(before: GraphModule, options: str = "{padding=behind}") -> GraphModule:
    after = GraphModule(before.model.clone())
    PassManager(parse_pipeline(f"cache-in-place{options},remove-dead"), find_target("cuda")).run(after)
    assert [node.op_type for node in after.graph if node.domain] == ["GroupQueryAttention"]
    assert not any(node.op_type in ("Softmax", "Concat", "Range") for node in after.graph)
    return after


def run(module: GraphModule, feeds: dict[str, NDArray[np.generic]]) -> dict[str, Array]:
    return open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)


def feeds_of(x: Array, past: int, flags: list[list[int]] | None = None) -> dict[str, NDArray[np.generic]]:
    rng = np.random.default_rng(9)
    ones = np.ones((len(x), past + x.shape[1]), np.int64)
    caches = {name: rng.normal(size=(len(x), 1, past, WIDTH)).astype(np.float32) for name in PLACE.values()}
    return {"x": x, "flags": ones if flags is None else np.array(flags), **caches}


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("batch", "past", "new"), [(1, 0, 5), (3, 0, 4), (1, 6, 3), (3, 6, 1)])
def test_the_results_stay(batch: int, past: int, new: int) -> None:
    before = with_flags()
    feeds = feeds_of(random(batch, new, WIDTH), past)
    wanted, found = run(before, feeds), run(kept_in_place(before), feeds)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=BOUND, rtol=0)


def test_a_cache_that_grows_needs_no_word() -> None:
    before = parsed(GRAPH.read_text(encoding="utf-8"))
    feeds = feeds_of(random(1, 2, WIDTH), past=4)
    del feeds["flags"]
    wanted, found = run(before, feeds), run(kept_in_place(before, ""), feeds)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, atol=BOUND, rtol=0)


@pytest.mark.parametrize("whole_room", [False, True])
def test_two_texts_of_different_lengths_go_on_in_one_buffer(whole_room: bool) -> None:
    """Each sample gives what it gives alone, without padding, in the source."""
    before = with_flags()
    lengths, steps = [3, 5], 4
    texts = [random(1, length + steps, WIDTH) for length in lengths]
    wanted = [run(before, feeds_of(text, past=0))["y"][0] for text in texts]
    session = open_session(ir.to_proto(kept_in_place(before).model), Run(threads=1))

    prompt = np.zeros((2, max(lengths), WIDTH), np.float32)
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        prompt[row, :length] = text[0, :length]
    caches = {name: np.full((2, 1, ROOM, WIDTH), 7, np.float32) for name in PLACE.values()}
    flags = np.array([[1] * length + [0] * (max(lengths) - length) for length in lengths])
    first = Replay(session, "cpu", PLACE).run({"x": prompt, "flags": flags, **caches})
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(first["y"][row, :length], wanted[row][:length], atol=BOUND, rtol=0)

    replay = Replay(session, "cpu", PLACE)
    caches = {name: first[output] for output, name in PLACE.items()}
    for step in range(steps):
        counts = [length + step + 1 for length in lengths]
        room = ROOM if whole_room else max(lengths) + steps
        flags = np.array([[1] * count + [0] * (room - count) for count in counts])
        x = np.stack([text[0, count - 1 : count] for text, count in zip(texts, counts, strict=True)])
        found = replay.run({"x": x, "flags": flags, **caches})
        caches = {name: found[output] for output, name in PLACE.items()}
        for row, count in enumerate(counts):
            np.testing.assert_allclose(found["y"][row, 0], wanted[row][count - 1], atol=BOUND, rtol=0)
    assert caches["past_key"].shape == (2, 1, ROOM, WIDTH)


def test_flags_may_be_any_number_but_zero() -> None:
    """Some exports compare token ids with that of padding, 0: what counts is then not 1 but an id."""
    before = with_flags()
    feeds = feeds_of(random(2, 1, WIDTH), past=4)
    wanted = run(before, feeds)
    feeds["flags"] = feeds["flags"] * np.array([[7], [30000]])
    np.testing.assert_allclose(run(kept_in_place(before), feeds)["y"], wanted["y"], atol=BOUND, rtol=0)


def test_an_old_model_is_raised_to_what_the_lengths_ask_for() -> None:
    old = parse(GRAPH.read_text(encoding="utf-8").replace('["" : 21]', '["" : 13]'))
    passes = "inline-functions,infer-shapes,cache-in-place,remove-dead"
    PassManager(parse_pipeline(passes), find_target("cuda")).run(old)
    assert old.opset == 15
    feeds = feeds_of(random(1, 2, WIDTH), past=4)
    del feeds["flags"]
    wanted = run(parsed(GRAPH.read_text(encoding="utf-8")), feeds)
    np.testing.assert_allclose(run(old, feeds)["y"], wanted["y"], atol=BOUND, rtol=0)


def test_a_step_writes_into_the_buffer_that_it_reads() -> None:
    session = open_session(ir.to_proto(kept_in_place(with_flags()).model), Run(threads=1))
    feeds = feeds_of(random(1, 1, WIDTH), past=ROOM, flags=[[1] * 4 + [0] * (ROOM - 4)])
    replay = Replay(session, "cpu", PLACE)
    found = replay.run(feeds)
    changed = (found["present_key"] != feeds["past_key"]).any(axis=(0, 1, 3))
    assert changed.tolist() == [place == 3 for place in range(ROOM)]
    np.testing.assert_array_equal(replay._inputs["past_key"].numpy(), found["present_key"])


def test_it_has_a_kernel_on_cuda_in_half_precision() -> None:
    found = with_flags()
    passes = "cache-in-place{padding=behind},remove-dead,infer-shapes,lower-precision{io=lower},remove-dead"
    PassManager(parse_pipeline(passes), find_target("cuda")).run(found)
    (attention,) = (node for node in found.graph if node.domain)
    types = {value.dtype for value in (*attention.inputs[:5], *attention.outputs) if value is not None}
    assert types == {ir.DataType.FLOAT16}
    assert list(load_kernels("cuda").missing(found)) == []


def test_in_float32_no_kernel_is_listed() -> None:
    """The provider's kernel takes 16 bits only, so that the pass belongs before lower-precision."""
    (reason,) = (why for _, why in load_kernels("cuda").missing(kept_in_place(with_flags())))
    assert reason == "no kernel for float, int32"
