"""Reverse-mode differentiation: a graph in, a graph of standard operators that computes its gradient out.

``gradient`` adds to a graph; ``gradient_model`` makes a model of its own, and ``fisher_model`` one
that tells how much a loss cares for each value. ``table.py`` has the rules.
"""

from onnxq.autodiff.backward import GradientError, gradient, pulled_back
from onnxq.autodiff.losses import Loss, losses
from onnxq.autodiff.model import gradient_model, prepared
from onnxq.autodiff.seeds import Head, drawn_seed, fisher_model, random_signs
from onnxq.autodiff.step import NoGradientError, Part, Rule, Step, broadcasting, of_inputs, variadic
from onnxq.autodiff.term import Term

__all__ = [
    "GradientError",
    "Head",
    "Loss",
    "NoGradientError",
    "Part",
    "Rule",
    "Step",
    "Term",
    "broadcasting",
    "drawn_seed",
    "fisher_model",
    "gradient",
    "gradient_model",
    "losses",
    "of_inputs",
    "prepared",
    "pulled_back",
    "random_signs",
    "variadic",
]
