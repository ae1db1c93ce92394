"""Logistic regression, small and exact: what the signals of an answer weigh."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
RIDGE = 1.0


def regression(matrix: Numbers, labels: Numbers) -> tuple[Numbers, float]:
    """Coefficients (F,) and the constant of a logistic regression of labels (N,), 0 or 1, on columns (N, F), by
    Newton's method, with a ridge on the standardised columns."""
    mean, deviation = matrix.mean(0), matrix.std(0) + 1e-9
    rows = np.column_stack([(matrix - mean) / deviation, np.ones(len(matrix))])
    ridge = np.diag([RIDGE] * matrix.shape[1] + [0.0])
    found = np.zeros(rows.shape[1])
    for _ in range(50):
        odds = 1 / (1 + np.exp(-(rows @ found)))
        slope = rows.T @ (labels - odds) - ridge @ found
        step = np.linalg.solve(rows.T @ (rows * (odds * (1 - odds))[:, None]) + ridge, slope)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    coefficients = found[:-1] / deviation
    return coefficients, float(found[-1] - coefficients @ mean)
