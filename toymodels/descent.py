r"""The gradient-descent loop, with u carried as mantissa and binary exponent so that it never underflows.

    u <- (1 - s) u,  b_perp <- (1 - lr c^2) b_perp,  b_par <- b_par + lr c r,
    c <- c + lr (b_par r - c b_perp^2 - alpha c u^2),     s = lr alpha c^2,  r = beta - c b_par

the map that ``symbolic.two_layer().gd_map`` generates (their equality is a row of the derivations). In plain
float64 u reaches exactly 0 after about 745 e-folds and the run then sits above 2/lr for ever.
"""

import math

import numba
import numpy as np

__all__ = ["RUNNING", "descend"]

RUNNING, CONVERGED, DIVERGED = 0, 1, 2
STATUS = ("running", "converged", "diverged")
HUGE, TINY = 2.0**200, 2.0**-200
LN2 = math.log(2.0)
BLOWN = 1e100


@numba.njit(cache=True)
def _one(beta, alpha, lr, start, steps, stride, floor, share, out, summary):  # pragma: no cover - compiled
    c, b, p, m = start[0], start[1], start[2], start[3]
    e = 0  # u = m * 2**e
    weight = 1.0  # 2**(2 e), 0 where that underflows: u then no longer acts on c
    onset, begin, peak = -1, -1, -1
    peak_log = math.nan
    was_below = False
    previous = -math.inf
    status = RUNNING
    log_floor = math.log(floor) if floor > 0 else -math.inf
    for n in range(steps + 1):
        magnitude = abs(m)
        if magnitude != 0.0 and (magnitude > HUGE or magnitude < TINY):
            m, shift = math.frexp(m)
            e += shift
            weight = math.ldexp(1.0, 2 * e) if -530 < e < 500 else (0.0 if e <= -530 else math.inf)
        s = lr * alpha * c * c
        r = beta - c * b
        u2 = m * m * weight
        if n % stride == 0 or (onset >= 0 and peak < 0) or floor > 0:
            log_u = math.log(abs(m)) + e * LN2 if m != 0.0 else -math.inf
            if floor > 0 and log_u < log_floor:
                m, e, weight = (-floor if m < 0 else floor), 0, 1.0
                u2, log_u = m * m, log_floor
            if n % stride == 0:
                k = n // stride
                out[0, k], out[1, k], out[2, k], out[4, k] = c, b, p, log_u
                out[3, k] = 1.0 if m > 0 else (-1.0 if m < 0 else 0.0)
        if s <= 2.0:
            was_below = True
        if onset < 0 and s > 2.0 and was_below:
            onset = n
            log_u = math.log(abs(m)) + e * LN2 if m != 0.0 else -math.inf
            previous = math.inf  # a peak needs a rise first
        if onset >= 0 and begin < 0 and c != 0.0 and alpha * u2 >= share * b * r / c:
            begin = n
        if onset >= 0 and peak < 0:
            if n > onset and log_u < previous and begin >= 0:
                peak, peak_log = n - 1, previous
            previous = log_u
        if not (abs(c) < BLOWN and abs(b) < BLOWN and u2 < BLOWN):
            status = DIVERGED
            summary[4] = n
            break
        if n == steps:
            summary[4] = n
            gap = abs(r) + abs(c * p) + math.sqrt(alpha * u2) * abs(c)
            if gap < 1e-8 * beta and s < 2.0:
                status = CONVERGED
            break
        c_next = c + lr * (b * r - c * p * p - alpha * c * u2)
        b = b + lr * c * r
        p = (1.0 - lr * c * c) * p
        m = (1.0 - s) * m
        c = c_next
    summary[0], summary[1], summary[2], summary[3], summary[5] = onset, begin, peak, peak_log, status


@numba.njit(parallel=True, cache=True)
def descend(beta, alpha, lr, start, steps, stride, floor, share, out, summary):  # pragma: no cover - compiled
    """Run every lane: starts (lanes, 4); fills ``out`` (lanes, 5, kept) and ``summary`` (lanes, 6)."""
    for i in numba.prange(beta.shape[0]):
        _one(beta[i], alpha[i], lr[i], start[i], steps, stride, floor, share, out[i], summary[i])


def as_arrays(*values: np.ndarray) -> list[np.ndarray]:
    """Contiguous float64 copies, flattened."""
    return [np.ascontiguousarray(v, dtype=np.float64).reshape(-1) for v in values]
