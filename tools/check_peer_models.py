"""The models of onnxruntime's own quantization tests: compiled by onnxq, beside onnxruntime's quantizer.

``peer_cases.py`` builds them. Each is quantized as its test does, by both, on the same samples, and runs in
ONNX Runtime with and without its optimiser. What is compared is the largest excess of an error over the
test's tolerance, atol + rtol * |x|, the larger of the two runs; "within" is no excess. onnxruntime's is that
of its best form: QDQ and operators, uint8 weights as they are, int8 weights with ``reduce_range``. Without it
their products saturate on processors without VNNI, as onnxq's would if it did not keep to seven bits there.

Exits with 1 if a result is outside the tolerance and worse than onnxruntime's, or a compilation fails by
onnxq's fault.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from measuring import parser, show_tables
from numpy.typing import NDArray
from peer_cases import BLOCKS, BYTES, CASES, DYNAMIC, STATIC, Case
from peers import calibration_reader

from onnxq.calibration.data import DataOptions, input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.errors import OnnxqError
from onnxq.ir.store import load_model
from onnxq.recipe import load_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

RECIPES = {
    STATIC: ("cpu", "all-tensors"),
    DYNAMIC: ("cpu-dynamic",),
    BLOCKS: ("cpu-size",),
    BYTES: ("weight-only",),
}
"""Which of onnxq's recipes stand for each way of quantizing."""
BLOCK = 32
NOT_REBUILT = (
    "Not rebuilt: float8, 2-bit, NF4 and FP4 weights, 16-bit activations, and ranges or types set for single "
    "tensors, for which onnxq has other recipes or none; ResNet50 and files that the tests download or read; "
    "tests of helpers, calibration methods, fusions and exporters, which quantize no model."
)
QUIET = CompileOptions(validate=False, bench=False, tune=False, threads=1)

Outputs = Sequence[NDArray[Any]]
Build = Callable[[Path], None]


@dataclass(frozen=True)
class Result:
    """What one quantizer made of a case.

    Args:
        excess: How far the worst output is beyond the tolerance; None if there is no result.
        integers: Operators that read integers in it.
        floats: Operators that read none.
        failure: Why there is no result.
        refused: It is the caller's side that has to change something.

    """

    excess: float | None = None
    integers: frozenset[str] = frozenset()
    floats: frozenset[str] = frozenset()
    failure: str = ""
    refused: bool = False

    def __str__(self) -> str:
        """Say how near the result is, in a word or a number."""
        if self.excess is None:
            return "refused" if self.refused else "fails"
        return "within" if self.excess <= 0 else f"+{self.excess:.3g}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", action="append", help="try only the cases whose name begins so")
    args = options.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows, notes, floats = [], defaultdict(list), defaultdict(list)
    cases = [case for case in CASES if case.name.startswith(tuple(args.only or ("",)))]
    for case in cases:
        for mode in case.modes:
            theirs = onnxruntimes(case, mode)
            for recipe in RECIPES[mode]:
                ours = onnxqs(case, recipe)
                name = f"{case.name}, {recipe}"
                rows.append(row(case, mode, recipe, ours, theirs))
                for who, result in (("onnxq", ours), ("onnxruntime", theirs)):
                    if result.failure:
                        notes[f"{who} {result}: {result.failure}"].append(name)
                for operator in sorted(theirs.integers & ours.floats):
                    floats[recipe, operator].append(case.name)
    totals = Counter(str(row["verdict"]) for row in rows)
    title = f"{len(cases)} models of onnxruntime's quantization tests, {len(rows)} compilations"
    left = [{"recipe": r, "operator": o, "in": "; ".join(names)} for (r, o), names in sorted(floats.items())]
    tables = {"": rows, "In float where onnxruntime's result has integers": left}
    told = [f"{note} ({'; '.join(names)})" for note, names in sorted(notes.items())]
    show_tables(title, tables, [_counts(totals, rows), *told, NOT_REBUILT], as_json=args.json)
    return int(totals["worse"] + totals["fails"] > 0)


def row(case: Case, mode: str, recipe: str, ours: Result, theirs: Result) -> dict[str, str]:
    """Return one line of the table."""
    return {
        "case": case.name,
        "as": mode,
        "recipe": recipe,
        "onnxq": str(ours),
        "onnxruntime": str(theirs),
        "verdict": verdict(ours, theirs),
    }


def verdict(ours: Result, theirs: Result) -> str:
    """Say whether the result is within the tolerance, or at least no worse than onnxruntime's."""
    if ours.excess is None:
        return str(ours)
    if ours.excess <= 0:
        return "ok"
    return "worse" if theirs.excess is not None and ours.excess > theirs.excess else "no worse"


def onnxqs(case: Case, recipe: str) -> Result:
    """Compile the case with a recipe of onnxq."""
    loaded = load_recipe(recipe)
    feeds = case.feeds()

    def build(source: Path, output: Path) -> None:
        specs = input_specs(load_model(source).model)
        data = open_feeds("the test's samples", lambda: feeds, specs, DataOptions())
        compile_model(source, output, recipe=loaded, data=data if loaded.needs_data else None, options=QUIET)

    return _result(case, build)


def onnxruntimes(case: Case, mode: str) -> Result:
    """Quantize the case with onnxruntime in each of the mode's forms, and return the best."""
    results = [_result(case, form) for form in _forms(case, mode)]
    done = [result for result in results if result.excess is not None]
    if not done:
        return results[0]
    best = min(result.excess for result in done if result.excess is not None)
    return Result(best, frozenset().union(*(result.integers for result in done)))


def _forms(case: Case, mode: str) -> Iterator[Callable[[Path, Path], None]]:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    formats = (QuantFormat.QDQ, QuantFormat.QOperator)
    if mode == STATIC:
        extra = {"ForceQuantizeNoInputCheck": case.forced}
        kinds = {QuantType.QUInt8: extra, QuantType.QInt8: {**extra, "ActivationSymmetric": True}}
        for kind, options in kinds.items():
            for form in formats:
                yield lambda source, output, kind=kind, options=options, form=form: quantize_static(
                    source,
                    output,
                    calibration_reader(case.feeds()),
                    quant_format=form,
                    activation_type=kind,
                    weight_type=kind,
                    reduce_range=kind == QuantType.QInt8,
                    extra_options=options,
                )
    elif mode == DYNAMIC:
        for kind in (QuantType.QUInt8, QuantType.QInt8):
            yield lambda source, output, kind=kind: quantize_dynamic(
                source,
                output,
                weight_type=kind,
                reduce_range=kind == QuantType.QInt8,
                extra_options={"EnableSubgraph": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
            )
    else:
        for symmetric in (True, False):
            yield lambda source, output, symmetric=symmetric: _by_blocks(
                source, output, 4 if mode == BLOCKS else 8, symmetric
            )


def _by_blocks(source: Path, output: Path, bits: int, symmetric: bool) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK,
        is_symmetric=symmetric,
        bits=bits,
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(output), False)


def _result(case: Case, build: Callable[[Path, Path], None]) -> Result:
    feed = case.feeds()[0]
    with TemporaryDirectory() as folder:
        source, output = Path(folder, "source.onnx"), Path(folder, "output.onnx")
        onnx.save(case.model(), source)
        try:
            build(source, output)
        except Exception as error:
            refused = isinstance(error, OnnxqError) and error.exit_code == 2
            return Result(failure=_line(error, folder), refused=refused)
        try:
            found = [_outputs(output, feed, optimized) for optimized in (True, False)]
        except OnnxqError as error:
            return Result(failure=_line(error, folder))
        wanted = _outputs(source, feed, False)
        worst = max(excess(wanted, outputs, case.rtol, case.atol) for outputs in found)
        return Result(worst, *map(frozenset, operators(onnx.load(output).graph)))


def _line(error: Exception, folder: str) -> str:
    return " ".join(str(error).replace(f"{folder}/", "").split())[:200]


def _outputs(model: Path, feed: Mapping[str, NDArray[Any]], optimized: bool) -> Outputs:
    session = open_session(model, Run(threads=1), optimization="all" if optimized else "none")
    values = session.run(feed)
    return [np.asarray(values[name], np.float64) for name in session.output_names]


def excess(wanted: Outputs, found: Outputs, rtol: float, atol: float) -> float:
    """Return the largest error beyond ``atol + rtol * |wanted|``; no more than 0 if all are within."""
    return max(
        float(np.max(np.nan_to_num(np.abs(w - f), nan=np.inf) - (atol + rtol * np.abs(w))))
        for w, f in zip(wanted, found, strict=True)
    )


INTEGER_FORMS = {
    "ConvInteger": "Conv",
    "DynamicQuantizeLSTM": "LSTM",
    "DynamicQuantizeMatMul": "MatMul",
    "GatherBlockQuantized": "Gather",
    "MatMulInteger": "MatMul",
    "MatMulIntegerToFloat": "MatMul",
    "MatMulNBits": "MatMul",
    "QAttention": "Attention",
    "QEmbedLayerNormalization": "EmbedLayerNormalization",
    "QGemm": "MatMul",
}
"""Whose form an operator on integers is; ``QLinear`` is only left out of a name."""
NEVER_LISTED = {"Clip", "DequantizeLinear", "Identity", "QuantizeLinear", "Relu"}
"""The quantization itself, what nothing computes for, and what onnxq leaves to the layer before it."""


def operators(graph: onnx.GraphProto) -> tuple[set[str], set[str]]:
    """Return which of the float model's operators read integers here, and which read none at all."""
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    integers, others = set[str](), set[str]()
    for node in graph.node:
        form = node.op_type.removeprefix("QLinear")
        name = INTEGER_FORMS.get(form, "MatMul" if form == "Gemm" else form)
        reads = form != node.op_type or form in INTEGER_FORMS or dequantized.intersection(node.input)
        (integers if reads else others).add(name)
        for body in (attribute.g for attribute in node.attribute if attribute.HasField("g")):
            for found, inside in zip((integers, others), operators(body), strict=True):
                found |= inside
    return integers - NEVER_LISTED, others - integers - NEVER_LISTED


def _counts(totals: Mapping[str, int], rows: Sequence[Mapping[str, str]]) -> str:
    within = {who: sum(row[who] == "within" for row in rows) for who in ("onnxq", "onnxruntime")}
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in sorted(totals.items()))
    return f"{verdicts}. Within the tolerance: {', '.join(f'{who} {n}' for who, n in within.items())}."


if __name__ == "__main__":
    sys.exit(main())
