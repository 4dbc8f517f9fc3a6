r"""What two groups of examples differ in: images, tables, tokens in context."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from toymodels.validation import finite

__all__ = [
    "FeatureDifference",
    "ImageSignal",
    "TokenSignal",
    "complexity",
    "describe_images",
    "describe_table",
    "describe_tokens",
    "image_statistics",
    "separation",
]


def separation(first: ArrayLike, second: ArrayLike) -> float:
    r"""Probability that a value of the first group exceeds one of the second, ties half (area under the ROC curve).

    0.5: not separated; 0 or 1: separated completely.
    """
    a, b = finite("first", first), finite("second", second)
    if min(a.size, b.size) == 0:
        raise ValueError(f"separation needs values in both groups, got {a.size} and {b.size}; pass two groups")
    ranks = rankdata(np.concatenate([a, b]))
    return float((ranks[: a.size].sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


@dataclass(frozen=True)
class FeatureDifference:
    """How one number differs between the groups.

    Args:
        name: Name of the number.
        means: Mean in the first and in the second group.
        effect: Difference of the means over the pooled standard deviation (0 where all values are equal; infinite where
            only the groups differ).
        area: `separation` of the groups.
    """

    name: str
    means: tuple[float, float]
    effect: float
    area: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; an infinite effect becomes null."""
        effect = self.effect if np.isfinite(self.effect) else None
        return {"name": self.name, "means": list(self.means), "effect": effect, "area": self.area}


def _difference(name: str, a: np.ndarray, b: np.ndarray) -> FeatureDifference:
    gap = float(a.mean() - b.mean())
    pooled = float(np.sqrt((a.size * a.var() + b.size * b.var()) / (a.size + b.size)))
    effect = gap / pooled if pooled > 0 else (0.0 if gap == 0 else float(np.copysign(np.inf, gap)))
    return FeatureDifference(name, (float(a.mean()), float(b.mean())), effect, separation(a, b))


def _strongest_first(rows: list[FeatureDifference]) -> tuple[FeatureDifference, ...]:
    return tuple(sorted(rows, key=lambda r: -abs(r.area - 0.5)))  # stable: ties keep the given order


def _groups(n: int, first: Sequence[int], second: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    groups = tuple(np.asarray(g, dtype=np.int64) for g in (first, second))
    for name, g in zip(("first", "second"), groups, strict=True):
        if g.size == 0 or g.min() < 0 or g.max() >= n:
            raise ValueError(f"{name} must hold indices in 0..{n - 1}, got {g.tolist()[:5]}; pass a pair's groups")
    return groups[0], groups[1]


def describe_table(
    table: ArrayLike, first: Sequence[int], second: Sequence[int], names: Sequence[str] | None = None
) -> tuple[FeatureDifference, ...]:
    """The features of a table that separate two groups of its rows, strongest first.

    Args:
        table: Shape (n, features).
        first, second: Rows of the groups.
        names: Names of the features.
    """
    x = finite("table", table)
    if x.ndim != 2 or (names is not None and len(names) != x.shape[1]):
        got = "none" if names is None else len(names)
        raise ValueError(f"table must have shape (n, features), got {x.shape} with {got} names; name every column")
    a, b = _groups(len(x), first, second)
    labels = [str(k) for k in range(x.shape[1])] if names is None else names
    return _strongest_first([_difference(name, x[a, k], x[b, k]) for k, name in enumerate(labels)])


# --- images -------------------------------------------------------------------------------------------


def _images(images: ArrayLike) -> np.ndarray:
    x = finite("images", images)
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or min(x.shape[1:3]) < 2:
        raise ValueError(
            f"images must have shape (n, height, width) or (n, height, width, channels), "
            f"got {x.shape}; put channels last"
        )
    return x


def _radius(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])


def complexity(image: ArrayLike) -> float:
    r"""Mean spatial frequency of an image, $\sum_f |f|\,P(f)/\sum_f P(f)$, in cycles per pixel, the mean included.

    P is the power of the Fourier transform, summed over channels. A constant image has 0, a stripe pattern its own
    frequency, a checkerboard $1/\sqrt2$, the largest. For a signal: of its mean difference image.

    Args:
        image: Shape (height, width) or (height, width, channels).
    """
    x = _images(finite("image", image)[None])[0]
    power = (np.abs(np.fft.fft2(x, axes=(0, 1))) ** 2).sum(axis=2)
    total = float(power.sum())
    return float((power * _radius(*x.shape[:2])).sum()) / total if total > 0 else 0.0


def image_statistics(images: ArrayLike) -> dict[str, np.ndarray]:
    """Numbers that tell images apart, each of shape (n,).

    Mean of every channel; brightness of the upper minus the lower half and of the rim minus the middle; contrast
    (standard deviation over pixels of the mean channel); mean spatial frequency without the image's mean.
    """
    x = _images(images)
    _, height, width, channels = x.shape
    grey = x.mean(axis=3)
    rim = np.ones((height, width), dtype=bool)
    rim[height // 4 : height - height // 4, width // 4 : width - width // 4] = False
    names = ("red", "green", "blue") if channels == 3 else tuple(f"channel {c}" for c in range(channels))
    out = {f"mean {name}" if channels > 1 else "mean": x[..., c].mean(axis=(1, 2)) for c, name in enumerate(names)}
    out["top minus bottom"] = grey[:, : height // 2].mean(axis=(1, 2)) - grey[:, -(height // 2) :].mean(axis=(1, 2))
    out["rim minus middle"] = grey[:, rim].mean(axis=1) - grey[:, ~rim].mean(axis=1)
    out["contrast"] = grey.std(axis=(1, 2))
    power = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2
    total = power.sum(axis=(1, 2))
    weighted = (power * _radius(height, width)).sum(axis=(1, 2))
    out["spatial frequency"] = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
    return out


@dataclass(frozen=True, eq=False)
class ImageSignal:
    """What two groups of images differ in.

    Args:
        mean_images: Mean of each group, shape (2, height, width, channels).
        difference: First minus second mean image.
        complexity: Mean spatial frequency of ``difference``, cycles per pixel.
        statistics: `image_statistics` that separate the groups, strongest first.
    """

    mean_images: np.ndarray
    difference: np.ndarray
    complexity: float
    statistics: tuple[FeatureDifference, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, without the images."""
        return {"complexity": self.complexity, "statistics": [s.to_dict() for s in self.statistics]}


def describe_images(images: ArrayLike, first: Sequence[int], second: Sequence[int]) -> ImageSignal:
    """What two groups of images differ in.

    Args:
        images: Shape (n, height, width) or (n, height, width, channels).
        first, second: Indices of the groups (`OpposingPair.groups`).
    """
    x = _images(images)
    a, b = _groups(len(x), first, second)
    means = np.stack([x[a].mean(axis=0), x[b].mean(axis=0)])
    one, other = image_statistics(x[a]), image_statistics(x[b])
    rows = [_difference(name, one[name], other[name]) for name in one]
    difference = means[0] - means[1]
    return ImageSignal(means, difference, complexity(difference), _strongest_first(rows))


# --- tokens -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenSignal:
    """What a group of predicted tokens has in common.

    Args:
        prefix: Longest run of tokens right before the target that at least ``share`` of the group has in common.
        prefix_share: Share of the group that has all of it.
        targets: Target tokens and their number in the group, most frequent first.
    """

    prefix: tuple[int, ...]
    prefix_share: float
    targets: tuple[tuple[int, int], ...]


def describe_tokens(contexts: Sequence[Sequence[int]], targets: Sequence[int], share: float = 0.5) -> TokenSignal:
    """The shared prefix and the targets of one group.

    Args:
        contexts: Tokens before each target, the last one next to it (`OpposingSignals.token`).
        targets: The tokens predicted.
        share: Smallest share of the group that must have the prefix, in (0, 1].
    """
    if len(contexts) != len(targets) or not contexts:
        raise ValueError(
            f"contexts must match the targets, got {len(contexts)} and {len(targets)}; pass one per target"
        )
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}; pass e.g. 0.5")
    prefix: tuple[int, ...] = ()
    have = [tuple(c) for c in contexts]
    while True:
        length = len(prefix) + 1
        longer = Counter(c[-length:] for c in have if len(c) >= length)
        if not longer:
            break
        best, count = max(longer.items(), key=lambda item: (item[1], item[0]))
        if count < share * len(contexts):
            break
        prefix, have = best, [c for c in have if c[-length:] == best]
    counted = Counter(int(t) for t in targets)
    order = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return TokenSignal(prefix, len(have) / len(contexts), tuple(order))
