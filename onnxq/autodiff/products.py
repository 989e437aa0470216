"""Gradients of products of matrices."""

from __future__ import annotations

import numpy as np

from onnxq.autodiff.shapes import joined, known_shape, length_of, summed
from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term


def left_of_matmul(s: Step) -> Term:
    """Return ``g @ B.T``, for each matrix of a batch."""
    _, b, g = _matrices(s)
    return _one_of_batch(s, g @ _transposed(b), 0)


def right_of_matmul(s: Step) -> Term:
    """Return ``A.T @ g``; for one matrix that a whole batch is multiplied by, of all their rows at once."""
    a, _, g = _matrices(s)
    if s.rank(1) == 2 and s.rank(0) > 2:
        return _rows(a).Gemm(_rows(g), transA=1)
    return _one_of_batch(s, _transposed(a) @ g, 1)


def _matrices(s: Step) -> tuple[Term, Term, Term]:
    """Return both factors and the gradient, where vectors are a row on the left, a column on the right."""
    a, b, g = s[0], s[1], s.g
    if s.rank(1) == 1:
        b, g = b.Unsqueeze(np.array([-1])), g.Unsqueeze(np.array([-1]))
    if s.rank(0) == 1:
        a, g = a.Unsqueeze(np.array([0])), g.Unsqueeze(np.array([-2]))
    return a, b, g


def _one_of_batch(s: Step, gradient: Term, index: int) -> Term:
    """Return the gradient of a factor from that of matrices: summed over a batch that it was repeated for."""
    shape, full = s.shape(index), known_shape(gradient)
    if full is None:
        raise NoGradientError("how many axes its factors have is not known")
    if len(shape) == 1:
        matrix = gradient.Squeeze(np.array([-2 if index == 0 else -1]))
        return (
            matrix.sum(range(len(full) - 2)).Reshape(matrix.constant(np.array([-1])))
            if len(full) > 2
            else matrix
        )
    return summed(gradient, s[index], shape, (*full[:-2], *shape[-2:]))


def _rows(term: Term) -> Term:
    """Return all rows of a batch of matrices as one matrix."""
    shape = known_shape(term) or ()
    return term.Reshape(joined(np.array([-1]), length_of(term, len(shape) - 1)))


def _transposed(term: Term) -> Term:
    """Return the matrices with their rows as columns."""
    shape = known_shape(term)
    assert shape is not None
    *batch, row, column = range(len(shape))
    return term.Transpose(perm=[*batch, column, row])


def left_of_gemm(s: Step) -> Term:
    """Return alpha times ``g @ B.T``, or its transpose if the product takes that."""
    a, b, alpha = s.attr("transA", 0), s.attr("transB", 0), s.attr("alpha", 1.0)
    if a:
        return s[1].Gemm(s.g, alpha=alpha, transA=b, transB=1)
    return s.g.Gemm(s[1], alpha=alpha, transB=1 - b)


def right_of_gemm(s: Step) -> Term:
    """Return alpha times ``A.T @ g``, or its transpose if the product takes that."""
    a, b, alpha = s.attr("transA", 0), s.attr("transB", 0), s.attr("alpha", 1.0)
    if b:
        return s.g.Gemm(s[0], alpha=alpha, transA=1, transB=a)
    return s[0].Gemm(s.g, alpha=alpha, transA=1 - a)


def bias_of_gemm(s: Step) -> Term:
    """Return beta times the sum over what the bias was repeated along."""
    beta = s.attr("beta", 1.0)
    return s.summed(s.g if beta == 1 else s.g * beta, 2)


def einsum(s: Step, index: int) -> Term:
    """Return the product of the gradient and the other factors, summed over what the factor has not."""
    *factors, result = s.attr("equation").replace(" ", "").replace("->", ",").split(",")
    others = [one for place, one in enumerate(factors) if place != index]
    known = set("".join([result, *others]))
    if "->" not in s.attr("equation") or "." in s.attr("equation"):
        raise NoGradientError("its equation does not name all axes")
    if len(set(factors[index])) < len(factors[index]) or not set(factors[index]) <= known:
        raise NoGradientError(f"its equation takes a diagonal or a sum of input {index} alone")
    equation = f"{','.join([result, *others])}->{factors[index]}"
    rest = [s[place] for place in range(len(factors)) if place != index]
    return s.g.Einsum(*rest, equation=equation)
