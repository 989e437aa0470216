"""How much a loss cares for each value: the diagonal of the Gauss-Newton matrix, from random seeds.

With J for the derivatives of the output by a value and M for the second derivatives of the loss by the
output, the matrix is ``J.T M J``. A seed v with ``E[v v.T] = M`` makes ``(J.T v)^2`` an unbiased draw of its
diagonal: one gradient for each draw, however many outputs there are.

Sources:
    Martens and Grosse, 2015, arXiv:1503.05671 (the Fisher matrix, drawn); Bekas et al., 2007, doi
    10.1016/j.apnum.2007.01.003 (a diagonal from random signs).

"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.autodiff.backward import gradient
from onnxq.autodiff.model import WHY, input_like, named_values, prepared, with_outputs
from onnxq.autodiff.term import Term
from onnxq.ir.module import GraphModule
from onnxq.rewrite.edit import Editor

Head = Literal["softmax", "regression"]
SIGNS = "signs"


def softmax_seed(logits: Term, signs: Term) -> Term:
    """Return ``(diag(sqrt p) - p sqrt(p).T) signs``, whose mean square is the cross entropy's Hessian.

    Args:
        logits: Classes along the last axis.
        signs: Of the same shape, each 1 or -1 at random.

    """
    p = logits.Softmax(axis=-1)
    drawn = p.Sqrt() * signs
    return drawn - p * drawn.sum([-1])


def regression_seed(output: Term, signs: Term) -> Term:
    """Return the signs: the Hessian of half the squared error is the unit matrix."""
    return signs


SEEDS: Mapping[Head, Callable[[Term, Term], Term]] = {
    "regression": regression_seed,
    "softmax": softmax_seed,
}


def fisher_model(module: GraphModule, *, of: str, wrt: Sequence[str], head: Head = "softmax") -> GraphModule:
    """Return a model that draws how much the loss curves along each value.

    Args:
        module: Stays as it is.
        of: The name of the output: logits with the classes along the last axis, or what is regressed.
        wrt: The names of inputs, initializers or inner values.
        head: What the loss is: cross entropy of a softmax, or half the squared error.

    Returns:
        A model with the inputs of ``module``, and ``signs`` of the shape of ``of``: see ``random_signs``. Its
        outputs are ``of``, and for each of ``wrt``, called after it with ``_fisher`` behind, the mean over
        its elements of the squared gradient, without axes. Averaged over draws, that is the mean of the
        diagonal, in units of the loss over squared units of the value; of a weight, that of the loss summed
        over the batch.

    Raises:
        ModelError: As ``gradient_model``.

    """
    copy = prepared(module)
    end, *sources = named_values(copy, [of, *wrt])
    edit = Editor(copy)
    _, seed = drawn_seed(end, head, edit)
    found = gradient(copy, of=end, wrt=sources, seed=seed)
    op = edit.behind(copy.graph[-1].outputs[0], why=WHY)
    named = zip(wrt, (Term(op, value) for value in found), strict=True)
    outputs = [(g * g).ReduceMean(keepdims=0, name=f"{name}_fisher").value for name, g in named]
    return with_outputs([end, *outputs], edit)


def drawn_seed(value: ir.Value, head: Head, edit: Editor) -> tuple[ir.Value, ir.Value]:
    """Add to a model a seed that is drawn, and return the new input of signs, and the seed.

    Args:
        value: What the loss depends on; types and shapes are known.
        head: How it does.
        edit: Adds to the model.

    """
    signs = input_like(value, SIGNS, edit)
    op = edit.behind(edit.module.graph[-1].outputs[0], why=WHY)
    return signs, SEEDS[head](Term(op, value), Term(op, signs)).value


def random_signs(shape: Sequence[int], draw: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return 1 or -1 for each element, of one of many draws that are independent of each other."""
    rng = np.random.default_rng([seed, draw])
    return (2 * rng.integers(0, 2, shape) - 1).astype(np.float32)
