"""A whole graph that is trained: constants, and grids of activations, are inputs; their slopes come out.

What is quantized of activations is computed as ``round(clip(x / scale, n - z, p - z)) * scale`` with
``z = round(offset)``: the gradient goes straight through the roundings, and those of scale and offset follow.
Weights are fed as they are, on their grids or not: how theirs move is told in ``learned.py``.

Sources:
    Esser et al., 2020, arXiv:1902.08153 (LSQ); Bhalgat et al., 2020, arXiv:2004.09576 (LSQ+, offsets).

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.autodiff import Term, prepared, pulled_back
from onnxq.autodiff.fake import fake_quantize, written_out
from onnxq.autodiff.model import with_outputs
from onnxq.errors import ModelError
from onnxq.ir.knowledge import Decision
from onnxq.ir.module import LINEAR, GraphModule, array_of, constant_tensor, input_of, is_standard, name_of
from onnxq.quant.encodings import Affine, Encoding
from onnxq.rewrite.builder import Builder
from onnxq.rewrite.edit import Editor
from onnxq.training.goals import Goal, reached
from onnxq.training.penalty import STRENGTH, penalty

WHY = "training"
LOSS, FED = "loss", "_weight"
OF_THEIR_OPERATOR = ("Softmax",)
"""What their outputs are quantized to is known beforehand; kernels take no less: see encode-activations."""
NORMS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization")


@dataclass(frozen=True)
class Parameter:
    """A constant that is trained.

    Args:
        uses: The names of the nodes that read it, and at which input.
        array: Its values.
        encoding: Its grid; None where it stays in float.

    """

    uses: tuple[tuple[str, int], ...]
    array: NDArray[np.float32]
    encoding: Encoding | None


@dataclass(frozen=True)
class Grid:
    """A grid of activations that is learned.

    Args:
        encoding: As it was decided; values that are tied to each other share it.
        offset: The name of the input that holds its zero point as a float; None where that stays at 0.

    """

    encoding: Encoding
    offset: str | None


@dataclass(frozen=True)
class Network:
    """What trains a graph.

    Args:
        training: Its inputs are those of the graph, the goals', and one for each parameter, scale and offset.
            Its outputs are ``loss``, for each of these its name with ``_slope`` behind, the derivative of the
            loss, and for each scale its name with ``_size`` behind: how many values it quantizes.
        evaluation: The same inputs; its outputs are ``loss``, and what the goals look at, in their order.
        parameters: By the names of their inputs; those that the loss does not depend on are left out.
        grids: By the names of their scales' inputs.

    """

    training: GraphModule
    evaluation: GraphModule
    parameters: Mapping[str, Parameter]
    grids: Mapping[str, Grid]


def network_of(
    module: GraphModule, goals: Sequence[Goal], penalized: Mapping[str, float] = MappingProxyType({})
) -> Network:
    """Return what trains a graph in which is decided what is quantized, and nothing is realised.

    Args:
        module: Stays as it is.
        goals: What makes up the loss.
        penalized: How much the outliers of values count, by their names: see ``penalty.py``. With any, the
            network has one more input, ``strength``: as often the sum of the penalties is part of the loss.

    Raises:
        ModelError: An operator on the way has no gradient, or an encoding cannot be learned.

    """
    return _Making(module, goals, penalized).network()


@dataclass
class _Making:
    module: GraphModule
    goals: Sequence[Goal]
    penalized: Mapping[str, float]
    parameters: dict[str, Parameter] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    added: dict[str, ir.Value] = field(default_factory=dict)
    sizes: dict[str, ir.Value] = field(default_factory=dict)
    shown: dict[str, ir.Value] = field(default_factory=dict)
    _scales: dict[Encoding, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.copy = prepared(self.module.undecided())
        self.edit = Editor(self.copy)
        self.values, self.nodes = self.copy.by_name(), {node.name: node for node in self.copy.graph}
        decisions = self.module.decisions()
        self.fixed = {one.encoding for one in decisions if is_made_by(one.value, *OF_THEIR_OPERATOR)}

    def network(self) -> Network:
        """Build it."""
        given = list(self.copy.graph.inputs)
        for decision in self.module.decisions():
            if constant_tensor(decision.value) is None:
                self._quantize(decision)
        for parameter in list(_parameters(self.module)):
            self._feed(parameter)
        self._restore_the_rest()
        terms, ends = self._terms()
        seeds = {term: self._one(term) for term in terms}
        if self.penalized:
            slopes_of, more = self._penalties()
            seeds, terms = {**seeds, **slopes_of}, [*terms, more]
        loss = self._behind()("Sum", *terms, name=LOSS)
        self.edit.set_inputs([*given, *self.added.values()], why=WHY)
        found = pulled_back(self.copy, seeds, self._learned())
        written_out(self.copy)
        slopes = {name_of(v): s for v, s in zip(self._learned(), found, strict=True) if s is not None}
        evaluation = self._evaluated(ends)
        outputs = [loss, *self._named(slopes, "slope"), *self.sizes.values()]
        training = with_outputs(outputs, self.edit)
        parameters = {name: one for name, one in self.parameters.items() if name in slopes}
        return Network(training, evaluation, parameters, self.grids)

    def _learned(self) -> list[ir.Value]:
        offsets = [grid.offset for grid in self.grids.values() if grid.offset is not None]
        return [self.added[name] for name in (*self.parameters, *self.grids, *offsets)]

    def _behind(self) -> Builder:
        return self.edit.behind(self.copy.graph[-1].outputs[0], why=WHY)

    def _penalties(self) -> tuple[dict[ir.Value, ir.Value], ir.Value]:
        """Return the gradient that each penalty adds to that of its value, and what they add to the loss."""
        strength = self._input(STRENGTH, ir.DataType.FLOAT, ())
        seeds, terms = {}, []
        for name, weight in self.penalized.items():
            found, slope = penalty(Term(self._behind(), self.values[name]))
            terms.append((found * weight).value)
            seeds[self.values[name]] = (slope * (Term(slope.op, strength) * weight)).value
        op = self._behind()
        return seeds, op.Mul(op.Sum(*terms), strength)

    def _evaluated(self, ends: Sequence[str]) -> GraphModule:
        copy = self.copy.clone()
        values = copy.by_name()
        return with_outputs([values[LOSS], *(values[end] for end in ends)], Editor(copy))

    def _one(self, loss: ir.Value) -> ir.Value:
        return Term(self.edit.behind(loss, why=WHY), loss).number(1).value

    def _named(self, found: Mapping[str, ir.Value], suffix: str) -> list[ir.Value]:
        op = self._behind()
        return [op.Identity(value, name=f"{name}_{suffix}") for name, value in found.items()]

    def _input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str | None]) -> ir.Value:
        value = self.edit.add_input(name, dtype, ir.Shape(shape), why=WHY)
        self.added[name_of(value)] = value
        return value

    def _quantize(self, decision: Decision) -> None:
        """Let whoever reads a value by an encoding read it on a grid that is fed."""
        value, encoding = self.values[name_of(decision.value)], decision.encoding
        if not isinstance(encoding, Affine) or encoding.block_size is not None:
            raise ModelError("its grid cannot be learned", where=f"value {value.name!r}")
        if encoding in self.fixed:
            fake = self._on_grid(value, encoding, *self._constants(value, encoding))
        else:
            grid = self.grids[scale := self._scale_of(value, encoding)]
            offset = None if grid.offset is None else self.added[grid.offset]
            fake = self._on_grid(value, encoding, self.added[scale], offset)
        for use in decision.uses:
            self.edit.rewire(self.nodes[use.node.name], use.idx, fake, why=WHY)
        if decision.for_all:
            self.shown[name_of(value)] = fake

    def _scale_of(self, value: ir.Value, encoding: Encoding) -> str:
        """Return the name of the input that holds the scale of an encoding; those that are equal share it."""
        if encoding not in self._scales:
            float32, shape = ir.DataType.FLOAT, encoding.scale.shape
            scale = name_of(self._input(f"{value.name}_scale", float32, shape))
            moves = bool(encoding.zero_point.any())
            offset = name_of(self._input(f"{value.name}_offset", float32, shape)) if moves else None
            self.grids[scale], self._scales[encoding] = Grid(encoding, offset), scale
            size = self.edit.behind(value, why=WHY).Size(value, name=f"{scale}_size")
            self.sizes[scale] = size
        return self._scales[encoding]

    def _constants(self, value: ir.Value, encoding: Encoding) -> list[ir.Value]:
        """Return scale and zero point of a grid that stays as it is."""
        numbers = {"scale": encoding.scale, "offset": encoding.zero_point.astype(np.float32)}
        return [self.edit.constant(f"{value.name}_{key}", array, why=WHY) for key, array in numbers.items()]

    def _on_grid(
        self, value: ir.Value, encoding: Encoding, scale: ir.Value, offset: ir.Value | None
    ) -> ir.Value:
        op = self.edit.behind(value, why=WHY)
        steps = _along(Term(op, scale), encoding, value)
        zero = None if offset is None else _along(Term(op, offset), encoding, value)
        return fake_quantize(Term(op, value), steps, zero, encoding.limits).value

    def _feed(self, one: Parameter) -> None:
        node, index = one.uses[0]
        name = name_of(self.nodes[node].inputs[index])
        fed = self._input(f"{name}{FED}", ir.DataType.FLOAT, one.array.shape)
        self.parameters[name_of(fed)] = one
        for node, index in one.uses:
            self.edit.rewire(self.nodes[node], index, fed, why=WHY)

    def _restore_the_rest(self) -> None:
        """Put constants that are encoded, and not trained, on their grids."""
        fed = {use for one in self.parameters.values() for use in one.uses}
        for decision in self.module.decisions():
            if constant_tensor(decision.value) is None:
                continue
            array = decision.encoding.restored(array_of(decision.value))
            for use in decision.uses:
                if (use.node.name, use.idx) not in fed:
                    constant = self.edit.constant(f"{name_of(decision.value)}_restored", array, why=WHY)
                    self.edit.rewire(self.nodes[use.node.name], use.idx, constant, why=WHY)

    def _terms(self) -> tuple[list[ir.Value], list[str]]:
        """Return what each goal says, and the names of what they look at."""
        ends, terms = [], []
        for goal in self.goals:
            end = self.shown.get(goal.value, self.values[goal.value])
            target = self._input(goal.target, *goal.fed(end))
            op = self._behind()
            ends.append(name_of(end))
            terms.append(reached(goal, Term(op, end), Term(op, target)).value)
        return terms, ends


def _along(vector: Term, encoding: Encoding, value: ir.Value) -> Term:
    """Return one number for each channel so that they meet the channel axis of a value."""
    if encoding.axis is None:
        return vector
    ones = [1] * len(value.shape or ())
    ones[encoding.axis] = -1
    return vector.Reshape(np.array(ones))


def is_made_by(value: ir.Value, *op_types: str) -> bool:
    """Tell whether a node of one of these operators computes a value."""
    maker = value.producer()
    return maker is not None and is_standard(maker, *op_types)


def _parameters(module: GraphModule) -> Iterator[Parameter]:
    """Yield what is trained: weights and biases, and scales and shifts of normalizations."""
    found: dict[tuple[ir.Value, Encoding | None], list[tuple[str, int]]] = {}
    for node in module.graph:
        for index in _trained(node):
            value = input_of(node, index)
            tensor = constant_tensor(value)
            if value is None or tensor is None or tensor.dtype != ir.DataType.FLOAT or not tensor.size:
                continue
            encoding = module.encoding_at(node, index)
            if encoding is None or (index == 1 and is_standard(node, *LINEAR)):
                found.setdefault((value, encoding), []).append((node.name or "", index))
    for (value, encoding), uses in found.items():
        yield Parameter(tuple(uses), array_of(value), encoding)


def _trained(node: ir.Node) -> tuple[int, ...]:
    """Return the inputs of a node that are trained where they are constants."""
    if is_standard(node, *LINEAR, *NORMS):
        return (1, 2)
    if is_standard(node, "Add"):
        return tuple(index for index in (0, 1) if _is_vector(node, index))
    return ()


def _is_vector(node: ir.Node, index: int) -> bool:
    tensor = constant_tensor(node.inputs[index])
    return tensor is not None and len(tensor.shape) == 1 and tensor.size > 1
