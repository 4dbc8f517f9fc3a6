r"""Images with a planted opposing background: natural-looking noise, class templates, and who carries what."""

import numpy as np

from .dataset import DataError, Dataset

__all__ = ["background", "natural_images", "natural_variance", "planted"]

LUMINANCE_SHARE = 0.9  # of a pixel's variance that its channels have in common, as in natural images


def spectrum(size: int) -> np.ndarray:
    r"""Amplitudes $\propto 1/f$ of the half-plane ``rfft2`` of a size² image; 0 at f = 0, pixels of variance 1."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    full = np.divide(1.0, f, out=np.zeros_like(f), where=f > 0)
    full /= np.sqrt((full**2).mean())
    return full[:, : size // 2 + 1]


def natural_images(n: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    r"""Gaussian images whose amplitude spectrum falls as 1/f, (n, size, size, channels), each pixel of variance 1.

    Any two channels are correlated 0.9. The first images do not depend on how many follow.
    """
    white = rng.standard_normal((n, channels + 1, size, size))
    fields = np.fft.irfft2(np.fft.rfft2(white) * spectrum(size), s=(size, size))
    mixed = np.sqrt(LUMINANCE_SHARE) * fields[:, :1] + np.sqrt(1 - LUMINANCE_SHARE) * fields[:, 1:]
    return np.moveaxis(mixed, 1, 3)


def natural_variance(pattern: np.ndarray) -> float:
    r"""Variance of $q^\top x$ for `natural_images` x and a pattern q, (size, size, channels): derived.

    With $Q_c$ the discrete Fourier transform of channel c and A the amplitudes of `spectrum` on the full plane,
    $\frac1N\sum_k A_k^2\,(0.9\,|\sum_c Q_{c,k}|^2 + 0.1\sum_c|Q_{c,k}|^2)$, N = size².
    """
    size = pattern.shape[0]
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    power = np.divide(1.0, f**2, out=np.zeros_like(f), where=f > 0)
    power /= power.mean()
    q = np.fft.fft2(pattern, axes=(0, 1))
    common, own = np.abs(q.sum(axis=2)) ** 2, (np.abs(q) ** 2).sum(axis=2)
    return float((power * (LUMINANCE_SHARE * common + (1 - LUMINANCE_SHARE) * own)).sum() / size**2)


def background(size: int, channels: int) -> np.ndarray:
    """The planted feature, of norm 1: bright above and dark below, strongest in the last channel, like a sky."""
    height = np.tanh(4 * (0.5 - (np.arange(size) + 0.5) / size))
    colour = np.linspace(0.5, 1.0, channels) if channels > 1 else np.ones(1)
    pattern = np.broadcast_to(height[:, None, None] * colour, (size, size, channels))
    return pattern / np.linalg.norm(pattern)


def planted(
    n_examples: int,
    *,
    alpha: float = 100.0,
    p: float = 0.1,
    delta: float = 0.0,
    opposed_by: str = "label",
    size: int = 32,
    channels: int = 3,
    n_classes: int = 10,
    signal: float = 3.0,
    seed: int = 0,
) -> Dataset:
    r"""Images $x = \text{noise} + \text{signal}\cdot t_y + a_i\,q$ of class y with an opposing background q.

    The noise is `natural_images`, $t_y$ a fixed random template of class y, a natural image scaled to norm 1, and q is
    `background`. With probability p an example is a carrier, with sign s = ±1, $P(s = 1) = (1+\delta)/2$, and
    $|a_i| = \sqrt{\alpha/p}$, so that $E a_i^2 = \alpha$ and q adds the eigenvalue α to the second moments.

    - ``opposed_by`` "label": $a_i > 0$ for all; carriers with s = 1 have class 0 and those with s = −1 have class 1
      (one sky, planes and birds): gradients along q oppose each other because the labels do.
    - "sign": $a_i = s\sqrt{\alpha/p}$ and all carriers have class 0, as in the two-layer model, where the target
      depends on $|x_o|$ alone: gradients along q oppose each other because the features do.

    All other labels are uniform. An example depends on the seed and its index alone, not on how many follow.

    Args:
        n_examples: Number of images.
        alpha: Strength α > 0, in units of a squared pixel deviation of the noise.
        p: Share of carriers, in (0, 1].
        delta: Imbalance of the two groups, in [−1, 1].
        opposed_by: "label" or "sign".
        size: Side of the images in pixels, ≥ 2.
        channels: Number of channels.
        n_classes: Number of classes, ≥ 2.
        signal: Norm of the class template in an image.
        seed: Seed.
    Returns:
        Float64 data, rows of layout (size, size, channels); ``truth`` has ``carrier`` (n,) bool, ``sign`` (n,) int8
        (0 for others), ``pattern``, q as a row (d,), and ``pure``, the feature without noise or template, shape (1, d):
        $\sqrt{\alpha/p}\,q$.
    Raises:
        DataError: If an argument is out of range.
    """
    checks = (
        ("alpha", alpha, alpha > 0 and np.isfinite(alpha), "positive"),
        ("p", p, 0 < p <= 1, "in (0, 1]"),
        ("delta", delta, -1 <= delta <= 1, "in [-1, 1]"),
        ("opposed_by", opposed_by, opposed_by in ("label", "sign"), "label or sign"),
        ("size", size, size >= 2, "at least 2"),
        ("channels", channels, channels >= 1, "at least 1"),
        ("n_classes", n_classes, n_classes >= 2, "at least 2"),
        ("signal", signal, signal >= 0 and np.isfinite(signal), ">= 0"),
    )
    for name, value, good, requirement in checks:
        if not good:
            raise DataError(f"{name} must be {requirement}, got {value!r}; pass another {name}")
    streams = [np.random.default_rng([seed, k]) for k in range(4)]
    templates = natural_images(n_classes, size, channels, streams[0]).reshape(n_classes, -1)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    draws = streams[1].random((n_examples, 2))
    carrier = draws[:, 0] < p
    sign = np.where(carrier, np.where(draws[:, 1] < (1 + delta) / 2, 1, -1), 0).astype(np.int8)
    labels = np.floor(streams[2].random(n_examples) * n_classes).astype(np.int64)
    labels = np.where(carrier, (sign < 0) if opposed_by == "label" else 0, labels).astype(np.int64)
    amplitude = np.sqrt(alpha / p) * (carrier if opposed_by == "label" else sign)
    pattern = background(size, channels).reshape(-1)
    inputs = natural_images(n_examples, size, channels, streams[3]).reshape(n_examples, -1)
    inputs += signal * templates[labels]
    inputs += amplitude[:, None] * pattern
    truth = {"carrier": carrier, "sign": sign, "pattern": pattern, "pure": np.sqrt(alpha / p) * pattern[None]}
    names = tuple(str(k) for k in range(n_classes))
    shape = (size, size, channels) if channels > 1 else (size, size)
    return Dataset(inputs, labels, n_classes, shape, "planted", names, truth=truth)
