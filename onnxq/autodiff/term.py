"""Values with arithmetic: ``y * (1 - y)`` is two nodes, ``x.Exp()`` one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.rewrite.builder import Builder


@dataclass(frozen=True, eq=False)
class Term:
    """A value, and what builds nodes that read it.

    Arithmetic and comparisons are nodes; every other operator is a method that takes its further inputs and
    its attributes: ``x.Clip(0.0, 6.0)``. A plain number has the type of the term that it meets.

    Args:
        op: Builds the nodes, each behind the one before.
        value: What they read.

    """

    op: Builder
    value: ir.Value
    __array_ufunc__: ClassVar[None] = None
    """Tells NumPy to leave arithmetic with arrays to the term."""

    def __getattr__(self, op_type: str) -> Callable[..., Term]:
        """Return what builds a node of this operator, whose first input is the term."""
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *others, **attributes: self._node(op_type, self, *others, **attributes)

    def _node(self, op_type: str, *inputs: Any, **attributes: Any) -> Term:
        values = [one.value if isinstance(one, Term) else one for one in inputs]
        return Term(self.op, self.op(op_type, *values, **attributes))

    def __neg__(self) -> Term:
        """Return the term with the other sign."""
        return self._node("Neg", self)

    def __add__(self, other: Any) -> Term:
        """Return a sum."""
        return self._node("Add", self, other)

    def __radd__(self, other: Any) -> Term:
        """Return a sum."""
        return self._node("Add", other, self)

    def __sub__(self, other: Any) -> Term:
        """Return a difference."""
        return self._node("Sub", self, other)

    def __rsub__(self, other: Any) -> Term:
        """Return a difference."""
        return self._node("Sub", other, self)

    def __mul__(self, other: Any) -> Term:
        """Return a product, element by element."""
        return self._node("Mul", self, other)

    def __rmul__(self, other: Any) -> Term:
        """Return a product, element by element."""
        return self._node("Mul", other, self)

    def __matmul__(self, other: Any) -> Term:
        """Return a product of matrices."""
        return self._node("MatMul", self, other)

    def __truediv__(self, other: Any) -> Term:
        """Return a quotient."""
        return self._node("Div", self, other)

    def __rtruediv__(self, other: Any) -> Term:
        """Return a quotient."""
        return self._node("Div", other, self)

    def __gt__(self, other: Any) -> Term:
        """Return where it is greater, as booleans."""
        return self._node("Greater", self, other)

    def __lt__(self, other: Any) -> Term:
        """Return where it is less, as booleans."""
        return self._node("Less", self, other)

    def __ge__(self, other: Any) -> Term:
        """Return where it is not less, as booleans."""
        return self._node("GreaterOrEqual", self, other)

    def __le__(self, other: Any) -> Term:
        """Return where it is not greater, as booleans."""
        return self._node("LessOrEqual", self, other)

    def where(self, mask: Term, other: Term | float = 0.0) -> Term:
        """Return the term where the mask is true, and ``other`` elsewhere."""
        if not isinstance(other, Term):
            other = self.number(other)
        return self._node("Where", mask, self, other)

    def masked(self, mask: Term) -> Term:
        """Return the term where the mask is true, and 0 elsewhere; it has to be finite."""
        return self * mask.cast(self)

    def number(self, number: float) -> Term:
        """Return a constant of the type of the term, without axes."""
        assert self.value.dtype is not None
        return self.constant(np.array(number, self.value.dtype.numpy()))

    def constant(self, array: NDArray[Any]) -> Term:
        """Return a constant."""
        return Term(self.op, self.op.constant(f"{self.op.base}_constant", array))

    def sum(self, axes: Sequence[int]) -> Term:
        """Return the sum over these axes, which keep the length 1."""
        return self.ReduceSum(np.array(axes, np.int64), keepdims=1)

    def mean(self, axes: Sequence[int]) -> Term:
        """Return the mean over these axes, which keep the length 1."""
        return self.ReduceMean(np.array(axes, np.int64), keepdims=1)

    def cast(self, like: Term) -> Term:
        """Return the term in the type of another."""
        assert like.value.dtype is not None
        return self.to(like.value.dtype)

    def to(self, dtype: ir.DataType) -> Term:
        """Return the term in this type."""
        return self if self.value.dtype == dtype else self._node("Cast", self, to=dtype)
