"""The penalty on outliers: how far values lie beyond some standard deviations from the mean of their tensor.

Of a tensor with mean m and standard deviation s it is the mean of ``max(0, |a - m| / s - 4)^2``. Mean and
deviation count as constants, so that outliers are pulled in, and not the others out. In the graph it is a
gradient that is added where the tensor is; no operator needs a rule for it.

Source: QuantTune's abstract (Chen et al., 2024, arXiv:2403.06497), which tells that weights are adjusted by
the deviation of outlier activations. Its loss is not told there: this is our reconstruction.
"""

from __future__ import annotations

from onnxq.autodiff import Term

STRENGTH = "strength"

FREE = 4.0
"""So many standard deviations from the mean is no outlier: of normal numbers one in 16000 is farther."""


def penalty(a: Term) -> tuple[Term, Term]:
    """Return the penalty of a tensor, without axes, and its gradient, of the tensor's shape."""
    off = a - a.ReduceMean(keepdims=0)
    deviation = (off * off).ReduceMean(keepdims=0).Sqrt() + 1e-12
    over = (off.Abs() / deviation - FREE).Relu()
    count = a.Size().cast(a)
    return (over * over).ReduceMean(keepdims=0), over * off.Sign() * 2.0 / (deviation * count)
