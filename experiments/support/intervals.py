"""Means of a few numbers, with what they may be off by."""

import math
from typing import Any

import numpy as np

CONFIDENCE = 0.95


def interval(values: Any) -> tuple[float, float]:
    """The mean of those that are finite, and half the width of its confidence interval.

    Of Student's t distribution; NaN of fewer than two values.
    """
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return (float(values[0]) if len(values) else float("nan")), float("nan")
    from scipy.special import stdtrit  # only where there are several runs

    quantile = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(quantile * error)
