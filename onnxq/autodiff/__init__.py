"""Reverse-mode differentiation: a graph in, a graph of standard operators that computes its gradient out.

``gradient`` adds to a graph; ``gradient_model`` makes a model of its own. ``table.py`` has the rules.
"""

from onnxq.autodiff.backward import GradientError, gradient
from onnxq.autodiff.model import gradient_model, prepared
from onnxq.autodiff.step import NoGradientError, Part, Rule, Step, broadcasting, of_inputs, variadic
from onnxq.autodiff.term import Term

__all__ = [
    "GradientError",
    "NoGradientError",
    "Part",
    "Rule",
    "Step",
    "Term",
    "broadcasting",
    "gradient",
    "gradient_model",
    "of_inputs",
    "prepared",
    "variadic",
]
