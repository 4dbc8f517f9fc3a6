"""Polynomials through the last value of a record."""

import numpy as np

from .point import OnsetPoint

__all__ = ["WINDOW", "polynomial_lead"]

WINDOW = 0.5  # share of the rise that curves are fitted to


def polynomial_lead(point: OnsetPoint, degree: int) -> float | None:
    """Steps to the first crossing of the least-squares polynomial of the late rise, moved to pass through the last
    value (fitted to the past); None if there is none ahead. Of a lower degree where the values do not overdetermine it.
    """
    steps, values = point.rise(WINDOW)
    if len(steps) < 2:
        return None
    degree = min(degree, max(len(steps) - 2, 1))
    scale = float(np.ptp(steps))
    fitted = np.polynomial.Polynomial.fit((steps - point.step) / scale, values, degree).convert().coef
    coefficients = np.zeros(degree + 1)
    coefficients[: len(fitted)] = fitted
    coefficients[0] = values[-1] - point.critical
    roots = np.polynomial.polynomial.polyroots(np.trim_zeros(coefficients, "b"))
    ahead = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
    return float(ahead.min() * scale) if ahead.size else None
