r"""Interventions on examples as operations on arrays, and the groups that a found pair is compared with."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter

from analysis.probe import rim_mask
from toymodels.validation import finite

__all__ = [
    "Groups",
    "balancing_factors",
    "blurred",
    "common_feature",
    "example_weights",
    "highest_loss_groups",
    "random_groups",
    "strongest_groups",
    "with_mean_ground",
    "without_feature",
]


class Groups(NamedTuple):
    """The two sides of a pair, as indices of examples; strongest first where they have an order."""

    first: tuple[int, ...]
    second: tuple[int, ...]

    @property
    def members(self) -> np.ndarray:
        """All members, the first side before the second, shape (m,)."""
        return np.array(self.first + self.second, dtype=np.int64)

    @property
    def size(self) -> int:
        """Number of members m."""
        return len(self.first) + len(self.second)


# --- which examples ------------------------------------------------------------------------------------


def strongest_groups(weights: ArrayLike, members: ArrayLike, most: int) -> Groups:
    """The ``most`` members with the largest |weight|, by the sign of their weight.

    Args:
        weights: Signed weight of every example, shape (n,).
        members: Indices to choose from.
        most: Largest number of members.
    Raises:
        ValueError: If ``most`` is below 1 or there are no members.
    """
    w, chosen = finite("weights", weights), np.asarray(members, dtype=np.int64)
    if most < 1 or chosen.size == 0:
        raise ValueError(f"a group must have at least one member, got {chosen.size} members and most {most}; pass more")
    order = chosen[np.argsort(-np.abs(w[chosen]), kind="stable")][:most]
    return Groups(tuple(int(i) for i in order if w[i] > 0), tuple(int(i) for i in order if w[i] <= 0))


def random_groups(n: int, like: Groups, seed: int = 0) -> Groups:
    """As many examples on each side as ``like`` has, drawn without replacement from all others."""
    others = np.setdiff1d(np.arange(n), like.members)
    if others.size < like.size:
        raise ValueError(f"a random group of {like.size} needs as many other examples, got {others.size}; drop fewer")
    return _split(np.random.default_rng(seed).permutation(others)[: like.size], like)


def highest_loss_groups(losses: ArrayLike, like: Groups) -> Groups:
    """The examples with the highest loss, as many as ``like`` has, its members not left out; the highest are first."""
    return _split(np.argsort(-finite("losses", losses), kind="stable")[: like.size], like)


def _split(indices: np.ndarray, like: Groups) -> Groups:
    rows = [int(i) for i in indices]
    return Groups(tuple(rows[: len(like.first)]), tuple(rows[len(like.first) :]))


# --- weights -------------------------------------------------------------------------------------------


def example_weights(n: int, groups: Groups, first: float, second: float) -> np.ndarray:
    r"""Weights of mean 1, shape (n,): ``first`` and ``second`` on the sides, 1 elsewhere, times $n/\sum_i w_i$.

    So the scale of the loss stays, and a weight of 0 is the same as leaving the example out of the mean.

    Raises:
        ValueError: If no weight is positive.
    """
    w = np.ones(n)
    w[list(groups.first)], w[list(groups.second)] = first, second
    total = float(w.sum())
    if not total > 0 or w.min() < 0:
        raise ValueError(f"weights must be >= 0 and not all 0, got {first} and {second}; pass a positive one")
    return w * (n / total)


def balancing_factors(first: float, second: float) -> tuple[float, float]:
    r"""Factors that bring two totals $T_1, T_2 > 0$ to their mean: $\frac{T_1+T_2}{2T_1}, \frac{T_1+T_2}{2T_2}$."""
    if not (first > 0 and second > 0):
        raise ValueError(f"both sides must have a positive total, got {first} and {second}; rebalance a pair of groups")
    mean = 0.5 * (first + second)
    return mean / first, mean / second


# --- inputs --------------------------------------------------------------------------------------------


def blurred(images: ArrayLike, sigma: float) -> np.ndarray:
    """Images blurred by a Gaussian of standard deviation ``sigma`` pixels, edges repeated; shape and dtype kept.

    Args:
        images: Shape (n, height, width) or (n, height, width, channels).
        sigma: > 0.
    """
    x = np.asarray(images)
    return gaussian_filter(x, (0, sigma, sigma, 0)[: x.ndim], mode="nearest")


def with_mean_ground(images: ArrayLike, members: ArrayLike, rim: float = 0.25) -> np.ndarray:
    r"""The members' rims painted in the colour that the rims of all other images have on average (approximated).

    An image has no mask: its ground is taken to be the rim, its middle stays.

    Args:
        images: Shape (n, height, width) or (n, height, width, channels).
        members: Indices.
        rim: Width of the rim as a share of the side, in (0, 0.5].
    """
    x = np.array(images)
    chosen = np.asarray(members, dtype=np.int64)
    edge = rim_mask(x.shape[1], x.shape[2], rim)
    others = np.setdiff1d(np.arange(len(x)), chosen)
    if others.size == 0:
        raise ValueError(f"members must leave other images, got all {len(x)}; pass fewer")
    colour = x[others][:, edge].mean(axis=(0, 1))
    painted = x[chosen]
    painted[:, edge] = colour
    x[chosen] = painted
    return x


def common_feature(rows: ArrayLike, members: ArrayLike) -> np.ndarray:
    r"""The direction that the members' inputs share up to their signs: top right singular vector of their rows, (d,).

    Holds where one ground goes with two classes (the same sign) and where two opposite grounds go with one class. Its
    sign is such that the members' mean is not negative.

    Args:
        rows: Inputs, shape (n, d), about the data's mean.
        members: Indices, at least one with an input that is not 0.
    """
    x = finite("rows", rows)[np.asarray(members, dtype=np.int64)]
    if x.ndim != 2 or not x.any():
        raise ValueError(f"members must have inputs of shape (m, d) that are not all 0, got {x.shape}; pass others")
    q = np.linalg.svd(x, full_matrices=False)[2][0]
    return -q if float(x.mean(axis=0) @ q) < 0 else q


def without_feature(rows: ArrayLike, direction: ArrayLike, chosen: ArrayLike | None = None) -> np.ndarray:
    r"""Inputs without their part along a unit vector, $x - (x\cdot q)\,q$: all or the chosen ones; dtype kept."""
    x, q = np.array(rows), np.asarray(direction, dtype=np.float64)
    which = np.arange(len(x)) if chosen is None else np.asarray(chosen, dtype=np.int64)
    part = x[which].astype(np.float64)
    x[which] = (part - np.outer(part @ q, q)).astype(x.dtype)
    return x
