r"""Evidence that a weighted set of examples is an opposing signal: tests, scores, tails, share of the sharpness."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import hypergeom
from torch import Tensor

from analysis.decomposition import MAD_TO_DEVIATION
from analysis.projection import ExampleLosses, group_gradient
from toymodels.validation import finite

__all__ = [
    "Overlap",
    "TailIndex",
    "balance",
    "cancellation_p_value",
    "cosine",
    "gradient_opposition",
    "hill_tail_index",
    "outlier_members",
    "outlier_p_value",
    "overlap",
    "reversal_p_values",
    "sharpness_share",
]

ENUMERATED = 12  # up to so many blocks all sign patterns are gone through
OUTLIER = 3.5  # robust deviations of an outlier


class TailIndex(NamedTuple):
    """Hill's estimate of a tail index and its standard error; NaN where there is nothing to estimate from."""

    index: float
    error: float


def reversal_p_values(amplitudes: ArrayLike, draws: int = 4095, seed: int = 0) -> np.ndarray:
    r"""p-values of "the losses alternate with one phase throughout the window", one per component (exact).

    Null: within each block of four steps the losses of all examples, whatever they have to do with each other, are as
    likely backwards as forwards in time, independently from block to block. (Noise that is exchangeable in time, and
    random walks with symmetric increments, about a drift of second order at most.) A block read backwards has its
    demodulated losses negated, so all $2^B$ sign patterns of the blocks are equally likely, given the absolute values;
    each example keeps its values, and all keep their dependence on each other. The example vectors do not change with
    the signs, hence need no correction for having been found on the same data. Statistic:
    $T = |\sum_b \mathrm{sgn}(a_b)\sqrt{|a_b|}|$, the root so that a growing oscillation is not judged by its last block
    alone; the choice affects the power and not the level.

    The smallest p is $2^{1-B}$: 7 blocks can fall below 0.02. Not covered by the null: noise with a memory of
    period 2, which is an oscillation, and SGD noise that is skewed in time.

    Args:
        amplitudes: $a_b$, shape (B, K).
        draws: Random patterns where B > 12; up to 12 all patterns are gone through.
        seed: Of the random patterns.
    Returns:
        Shape (K,).
    """
    a = finite("amplitudes", amplitudes)
    if a.ndim != 2 or a.shape[0] < 1:
        raise ValueError(f"amplitudes must have shape (blocks, components), got {a.shape}; pass at least one block")
    blocks = a.shape[0]
    if blocks <= ENUMERATED:
        codes = np.arange(2 ** (blocks - 1))
        signs = 1.0 - 2.0 * ((codes[:, None] >> np.arange(blocks)) & 1)
    else:
        rng = np.random.default_rng(seed)
        signs = np.ones((draws + 1, blocks))
        signs[1:] = 1.0 - 2.0 * rng.integers(0, 2, (draws, blocks))
    rooted = np.sign(a) * np.sqrt(np.abs(a))
    statistics = np.abs(signs @ rooted)  # row 0 is the pattern seen
    tolerance = 1e-12 * np.abs(rooted).sum(axis=0)  # equal patterns must count as equal after rounding
    return (statistics >= statistics[0] - tolerance).mean(axis=0)


def cancellation_p_value(projections: ArrayLike, draws: int = 4095, seed: int = 0) -> float:
    r"""p-value of "the gradients along v cancel better than signs by chance": of $|\sum_i s_i| \ll \sqrt{\sum s_i^2}$.

    Null: given $|s_i|$ the signs are fair and independent. At the floor of a valley $\sum_i s_i = n\,\nabla L\cdot v$
    is near 0 while the $s_i$ are not. It says that opposing examples balance, and not that they are outliers.

    Args:
        projections: $s_i = \nabla\ell_i\cdot v$, shape (n,).
    """
    s = finite("projections", projections)
    rng = np.random.default_rng(seed)
    signs = 1.0 - 2.0 * rng.integers(0, 2, (draws, s.size))
    return float((1 + (np.abs(signs @ s) <= abs(s.sum())).sum()) / (draws + 1))


def _member_energy(weights: np.ndarray) -> float:
    square = (weights / np.abs(weights).max()) ** 2
    return float(square[outlier_members(weights)].sum() / square.sum())


@functools.lru_cache(maxsize=32)
def _energies_without_outliers(n: int, draws: int, seed: int) -> tuple[float, ...]:
    rng = np.random.default_rng(seed)
    return tuple(_member_energy(rng.standard_normal(n) * rng.standard_normal(n)) for _ in range(draws))


def outlier_p_value(weights: ArrayLike, draws: int = 399, seed: int = 0) -> float:
    r"""p-value of "no outliers" (Monte Carlo, exact under its null).

    Null: each weight is the product of two independent normal numbers, as $\nabla\ell_i\cdot v$ is the product of an
    error and of the output's slope along v where neither has outliers. That is heavier-tailed than a normal
    distribution, under which the test is conservative. Statistic: the share of $\sum w^2$ that `outlier_members` hold.
    """
    w = finite("weights", weights)
    if not (w != 0).any():
        return 1.0
    null = np.array(_energies_without_outliers(w.size, draws, seed))
    return float((1 + (null >= _member_energy(w)).sum()) / (draws + 1))


def balance(weights: ArrayLike) -> float:
    r"""$1 - |\sum w_i| / \sum |w_i|$, in [0, 1]: 1 where rising and falling weigh the same, 0 where all go one way."""
    w = finite("weights", weights)
    total = float(np.abs(w).sum())
    return 1.0 - abs(float(w.sum())) / total if total > 0 else 0.0


def gradient_opposition(losses: ExampleLosses, params: Sequence[Tensor], members: ArrayLike, signs: ArrayLike) -> float:
    r"""$\max(0, -\cos(g_+, g_-))$ of the mean gradients of the members with sign + and −, in [0, 1].

    Two backward passes. 0 where one of the groups is empty: nothing is opposed.
    """
    members, signs = np.asarray(members, dtype=np.int64), np.asarray(signs)
    groups = [members[signs > 0], members[signs < 0]]
    if min(map(len, groups)) == 0:
        return 0.0
    up, down = (group_gradient(losses, params, torch.as_tensor(g.copy())).double() for g in groups)
    scale = float(up.norm() * down.norm())
    return min(1.0, max(0.0, -float(up @ down) / scale)) if scale > 0 else 0.0


def outlier_members(weights: ArrayLike) -> np.ndarray:
    r"""Examples that stand out by $|w_i|$, strongest first, shape (m,).

    Two conditions: beyond 3.5 robust deviations (1.4826 median |w|) of the bulk, and in the upper of the two classes
    that split $\sqrt{|w|}$ with the largest variance between them (Otsu 1979). The root was chosen on small networks
    with one planted signal; the bar of the first condition is the usual one. A group of half of the examples or more
    is the bulk, hence not found.
    """
    size = np.abs(finite("weights", weights))
    n = size.size
    order = np.argsort(-size, kind="stable")
    root = np.sqrt(size[order])
    if n < 2 or root[0] == root[-1]:
        return order[:0]
    k = np.arange(1, n)
    above = np.cumsum(root)[:-1]
    below = root.sum() - above
    between = k * (n - k) * (above / k - below / (n - k)) ** 2
    upper = order[: int(np.argmax(between)) + 1]
    return upper[size[upper] > OUTLIER * MAD_TO_DEVIATION * np.median(size)]


def hill_tail_index(values: ArrayLike, top: int | None = None) -> TailIndex:
    r"""Hill's estimate of the tail index α of $P(|x| > t) \propto t^{-\alpha}$ (fitted), error $\alpha/\sqrt{k}$.

    $1/\hat\alpha = \frac1k \sum_{j\le k} \log(x_{(j)}/x_{(k+1)})$ over the k largest absolute values.

    Args:
        values: Shape (n,); zeros are no part of the tail.
        top: k; by default a twentieth of the values, at least 10.
    References: Hill (1975).
    """
    size = np.abs(finite("values", values))
    size = np.sort(size[size > 0])[::-1]
    k = max(10, size.size // 20) if top is None else top
    if k < 1:
        raise ValueError(f"top must be at least 1, got {k}; pass e.g. 20")
    if size.size <= k or size[0] == size[k]:
        return TailIndex(float("nan"), float("nan"))
    index = 1.0 / float(np.mean(np.log(size[:k] / size[k])))
    return TailIndex(index, index / float(np.sqrt(k)))


def sharpness_share(curvature: ArrayLike, members: ArrayLike) -> float:
    r"""$\sum_{i\in\text{members}} v^\top H_i v \,/\, \sum_i v^\top H_i v$: the members' part of the sharpness.

    Above 1 where the others curve the other way; NaN where the whole is not positive.
    """
    q = finite("curvature", curvature)
    total = float(q.sum())
    return float(q[np.asarray(members, dtype=np.int64)].sum()) / total if total > 0 else float("nan")


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """|cosine| of two vectors, in [0, 1]; 0 where one of them is 0."""
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return min(1.0, abs(float(first @ second)) / scale) if scale > 0 else 0.0


class Overlap(NamedTuple):
    """How far two detections name the same signal; all up to one common sign.

    ``cosine``: of the weights, in [0, 1]. ``jaccard``: shared members / all members. ``signs``: share of the common
    members whose signs agree, in [0.5, 1] (NaN without any). ``p_value``: of at least so many common members by chance.
    """

    cosine: float
    jaccard: float
    signs: float
    p_value: float


def overlap(first: ArrayLike, second: ArrayLike) -> Overlap:
    """Agreement of two weight vectors, shape (n,), and of the members they name.

    The chance is hypergeometric: members drawn at random with the same numbers.
    """
    a, b = finite("first", first), finite("second", second)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"overlap needs two vectors of one length, got {a.shape} and {b.shape}; use the same examples")
    members = [set(outlier_members(x).tolist()) for x in (a, b)]
    common = sorted(members[0] & members[1])
    union = len(members[0] | members[1])
    agree = float(np.mean(np.sign(a[common]) == np.sign(b[common]))) if common else float("nan")
    chance = float(hypergeom.sf(len(common) - 1, a.size, len(members[0]), len(members[1])))
    return Overlap(cosine(a, b), len(common) / union if union else 0.0, max(agree, 1 - agree), chance)
