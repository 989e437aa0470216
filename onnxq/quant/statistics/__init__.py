"""Statistics: one file each. What is measured of a value, and all that depends on which statistic it is."""

from __future__ import annotations

from onnxq.quant.statistics.average import Average
from onnxq.quant.statistics.base import Statistic
from onnxq.quant.statistics.channel_range import ChannelRange
from onnxq.quant.statistics.curvature import Curvature
from onnxq.quant.statistics.curved_gram import CurvedGram
from onnxq.quant.statistics.curved_histogram import CurvedHistogram
from onnxq.quant.statistics.curved_rows import CurvedRows
from onnxq.quant.statistics.gram import Gram
from onnxq.quant.statistics.histogram import Histogram
from onnxq.quant.statistics.mean import Mean
from onnxq.quant.statistics.range import Range
from onnxq.quant.statistics.rows import Rows

STATISTICS: dict[str, type[Statistic]] = {
    kind.name: kind
    for kind in (
        *(Range, Average, ChannelRange, Mean, Curvature, Rows, CurvedRows, Gram, CurvedGram),
        *(Histogram, CurvedHistogram),
    )
}
"""Every kind of statistic by name, in the order in which texts show them."""

__all__ = [
    "STATISTICS",
    "Average",
    "ChannelRange",
    "Curvature",
    "CurvedGram",
    "CurvedHistogram",
    "CurvedRows",
    "Gram",
    "Histogram",
    "Mean",
    "Range",
    "Rows",
    "Statistic",
]
