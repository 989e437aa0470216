"""What the user is warned of about a result: each function returns sentences, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnxq.analysis.products import saturating_products
from onnxq.analysis.rows import most_rows, sizes_of
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model
from onnxq.ir.weights import weight_share
from onnxq.passmanager.base import Pass, PassRecord
from onnxq.passmanager.precision import Assigned
from onnxq.processor import at_hand, here
from onnxq.runtime.bench import Spread
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.denormals import PAYS
from onnxq.runtime.padded import DENORMALS
from onnxq.target import Target

LEAST_LIKENESS = 0.98
"""Outputs with a smaller cosine, or a smaller share of equal values, are warned of."""

CLEAR_LOSS = 0.99
"""A model that is slower by 1 % in the median, and in nine rounds of ten, is warned of."""

LEAST_QUANTIZED = 0.5
"""If less than half of the weights became integers, the result says why."""

TOLD_READERS = 2
"""So many operators that read floats are told of."""

OVERHEAD = 4096
"""Bytes of stamps and nodes: a compiled file of fewer has no weights to speak of."""


def warn_of_accuracy(outputs: Sequence[OutputAccuracy]) -> tuple[str, ...]:
    """Return a warning for each output that is far from the source's, as a whole or in some slices."""
    return tuple(
        f"output {output.name!r} is far from the source's{where}"
        for output in outputs
        if (where := _far(output) or _lost(output)) is not None
    )


def warn_of_padding(cost: float | None) -> tuple[str, ...]:
    """Return a warning if padded samples take ``cost`` times as long as full ones, and that is much."""
    if cost is None or cost < PAYS:
        return ()
    return (
        f"padded samples take {cost:.1f} times as long as full ones, as exponentials of masked scores end as "
        f"denormal numbers: {DENORMALS}=1 in the first session of a process spares that, for all of it",
    )


def warn_of_decisions(module: GraphModule) -> tuple[str, ...]:
    """Return a warning if values were to be encoded and are not: no file holds what was only decided."""
    count = len({decision.value for decision in module.decisions()})
    if not count:
        return ()
    return (f"insert-qdq is not in the recipe: {count} of its encodings are nowhere in the result",)


def warn_of_floats(module: GraphModule, records: Sequence[PassRecord]) -> tuple[str, ...]:
    """Return a warning if less than half of the weights are quantized: what stayed in float, and why."""
    found = weight_share(module)
    if found.share >= LEAST_QUANTIZED or not found.readers:
        return ()
    reasons = {remark.node: remark.reason for record in records for remark in record.remarks}
    largest = sorted(found.readers.items(), key=lambda one: -one[1][0])[:TOLD_READERS]
    told = "; ".join(
        f"{kind} ({count / found.wide:.0%} of those: {_reason(kind, names, reasons)})"
        for kind, (count, names) in largest
    )
    return (f"{found.share:.0%} of the weights were quantized; the others are read by {told}",)


def _reason(kind: str, names: Sequence[str], reasons: Mapping[str, str]) -> str:
    """Return why most of the nodes were left alone."""
    told = Counter(reasons[name] for name in names if name in reasons)
    return told.most_common(1)[0][0] if told else f"no pass of the recipe quantizes weights of {kind}"


def warn_of_simulation(passes: Sequence[Pass]) -> tuple[str, ...]:
    """Return a warning if accuracy is that of fewer bits than the result has."""
    told = [one.simulated for one in passes if one.simulated]
    if not told:
        return ()
    return (f"simulated: {' and '.join(told)} are stored and computed in 8, so nothing is smaller or faster",)


def warn_of_precision(assigned: Sequence[Assigned]) -> tuple[str, ...]:
    """Return a warning if layers or values have another precision than the recipe assigns to them."""
    missed = [one for one in assigned if one.given != one.assigned]
    names = [f"{one.kind} {one.name!r} ({one.given}, not {one.assigned})" for one in missed]
    if not names:
        return ()
    more = f" and {len(names) - TOLD_READERS} more" if len(names) > TOLD_READERS else ""
    told = ", ".join(names[:TOLD_READERS])
    return (f"not in the precision that the recipe assigns: {told}{more}; what was left alone tells why",)


def warn_of_rows(
    module: GraphModule, target: Target, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, ...]:
    """Return a warning if products have more rows than weights in blocks were timed to be fast with.

    Args:
        module: The compiled model.
        target: Where it runs.
        shapes: What it is fed, by input; of the others nothing follows but what the model fixes.

    """
    if not target.block_rows:
        return ()
    sizes = sizes_of(module, shapes)
    return tuple(
        f"products of {rows} rows read weights in {kind}: with more than {target.block_rows[kind]} "
        f"float16 was faster where it was timed (a decoder step of 1, 8 and 32 rows on an NVIDIA H200): "
        "--recipe cuda"
        for kind, rows in sorted(most_rows(module, sizes).items())
        if rows > target.block_rows[kind]
    )


def warn_of_size(before: int, after: int) -> tuple[str, ...]:
    """Return a warning if the compiled file, with its external data, is no smaller than the source's."""
    if after < before or after < OVERHEAD:
        return ()
    return (f"the file did not shrink: {before} bytes became {after}",)


def warn_of_speed(ratio: Spread) -> tuple[str, ...]:
    """Return a warning if the compiled model is slower beyond the noise of the timing.

    Args:
        ratio: The source's time over the compiled model's, within each round.

    """
    if ratio.p90 >= 1 or ratio.median > CLEAR_LOSS:
        return ()
    return (f"the compiled model is slower than the source here ({ratio.median:.2f}x): its kernels tell why",)


def warn_of_saturation(model: GraphModule | Path) -> tuple[str, ...]:
    """Return a warning if the model can compute something else here than where integer products are exact."""
    saturating = [one.name for one in (at_hand(), here()) if one.saturates]
    if not saturating:
        return ()
    layers = saturating_products(load_model(model) if isinstance(model, Path) else model)
    if not layers:
        return ()
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return (
        f"{layers[0].op_type} {layers[0].name!r}{more}: sums of products can saturate on this processor "
        f"({saturating[0]}), as the int8 weights were made for another: compile for it, and without bits=8",
    )


def _far(output: OutputAccuracy) -> str | None:
    hint = "onnxq sensitivity tells what costs it"
    if output.cosine is not None and output.cosine < LEAST_LIKENESS:
        return f", with a cosine of {output.cosine:.3f}: {hint}"
    if output.equal is not None and output.equal < LEAST_LIKENESS:
        return f", with {output.equal:.1%} of its values equal: {hint}"
    return None


def _lost(output: OutputAccuracy) -> str | None:
    if (lost := output.lost) is None:
        return None
    return (
        f" in {lost.lost} of {lost.length} slices along axis {lost.axis}, with {lost.sqnr_db:z.1f} dB at "
        f"index {lost.index}, which its other values hide: where such slices share a grid with larger "
        "values, an output of their own keeps them, or float"
    )
