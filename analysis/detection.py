r"""Finding opposing signals: from a window of per-example losses, from gradients projected on eigenvectors, or both.

All need arrays alone, so that a stored record will do; `with_gradients` adds what only a model can tell.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from analysis.curvature import flatten
from analysis.curvature.attribution import attribute
from analysis.decomposition import MAD_TO_DEVIATION, distinct_components
from analysis.demodulation import BLOCK, STRIDE, demodulated_blocks
from analysis.opposition import (
    OUTLIER,
    Overlap,
    TailIndex,
    balance,
    cancellation_p_value,
    gradient_opposition,
    hill_tail_index,
    outlier_members,
    outlier_p_value,
    overlap,
    reversal_p_values,
    sharpness_share,
)
from analysis.projection import ExampleLosses
from toymodels.validation import finite

__all__ = [
    "Detection",
    "OpposingPair",
    "detect_in_blocks",
    "detect_in_both",
    "detect_in_losses",
    "detect_in_projections",
    "with_gradients",
]

LEAST_BLOCKS = 3
NAN = float("nan")


@dataclass(frozen=True, eq=False)
class OpposingPair:
    r"""Two groups of examples whose losses take turns, or are about to.

    Args:
        weights: Signed weight of every example, shape (n,). From losses: root mean square of its alternation over the
            window, in loss units, positive where the loss is high at even steps. From projections:
            $\nabla\ell_i\cdot v$.
        members: Examples that stand out, strongest first; ``signs``: their group, 1 or −1.
        p_value: Of "no opposing signal": the larger of the next two, since it takes both.
        p_signs: From losses: of an alternation of one phase by chance (`reversal_p_values`). From projections: of a
            cancellation by chance (`cancellation_p_value`). From both: the larger.
        p_outliers: Of weights without outliers (`outlier_p_value`). A run at the edge of stability oscillates with or
            without them.
        opposition: In [0, 1]; ``opposition_from`` tells of what. "gradients": $\max(0,-\cos(g_+,g_-))$ of the groups'
            mean gradients. "weights": $1 - |\sum w|/\sum|w|$ over the members, the sign structure alone.
        amplitude: Mean |weight| of the members, loss units (NaN from projections, or without members).
        growth_rate: Least-squares slope of the logarithm of the amplitude, per step (fitted; NaN from projections).
        tail: Hill's tail index of |weights| and its standard error (fitted).
        outlier_fraction: Share of examples beyond 3.5 robust deviations; 0.0005 for normal weights.
        energy_share: Part of the window's demodulated sum of squares that this component holds (NaN from projections).
        sharpness_share: Part of $\sum_i v^\top H_i v$ that the members carry; None where it was not measured.
        series: Signed amplitude in each block, shape (B,): size of the component, loss units times $\sqrt n$.
    """

    weights: np.ndarray
    members: tuple[int, ...]
    signs: tuple[int, ...]
    p_value: float
    p_signs: float
    p_outliers: float
    opposition: float
    opposition_from: str
    amplitude: float
    growth_rate: float
    tail: TailIndex
    outlier_fraction: float
    energy_share: float
    sharpness_share: float | None
    series: np.ndarray

    @property
    def groups(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Members of sign 1 and of sign −1, strongest first."""
        pairs = list(zip(self.members, self.signs, strict=True))
        return tuple(i for i, s in pairs if s > 0), tuple(i for i, s in pairs if s < 0)

    def to_dict(self, weights: bool = False) -> dict[str, Any]:
        """JSON-ready form; numbers that are not finite become null."""
        row: dict[str, Any] = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("weights", "series", "tail", "members", "signs")
        }
        row |= {"tail_index": self.tail.index, "tail_index_error": self.tail.error}
        row = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
        row |= {"members": list(self.members), "signs": list(self.signs), "series": [float(a) for a in self.series]}
        if weights:
            row["weights"] = [float(w) for w in self.weights]
        return row


@dataclass(frozen=True, eq=False)
class Detection:
    """The pairs of one window or one step, strongest first.

    Args:
        source: "losses", "projections" or "both".
        n_examples: n.
        first_step, last_step: Steps that were used; equal for projections.
        pairs: At least one unless nothing moved at all; look at their p-values.
    """

    source: str
    n_examples: int
    first_step: int
    last_step: int
    pairs: tuple[OpposingPair, ...]

    @property
    def p_value(self) -> float:
        """p-value of "no pair at all", corrected for the number of pairs looked at (Bonferroni); 1 without pairs."""
        return min([1.0, *(len(self.pairs) * p.p_value for p in self.pairs)])

    def significant(self, level: float = 0.05, outliers: bool = True) -> tuple[OpposingPair, ...]:
        """Pairs that remain at a family-wise level, by Holm's correction, strongest first.

        Args:
            level: In (0, 1).
            outliers: Judge ``p_value``; without it ``p_signs`` alone, whoever it is that oscillates.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}; pass e.g. 0.05")
        p_values = [p.p_value if outliers else p.p_signs for p in self.pairs]
        order = sorted(range(len(self.pairs)), key=lambda k: p_values[k])
        kept = set()
        for rank, k in enumerate(order):
            if p_values[k] > level / (len(self.pairs) - rank):
                break
            kept.add(k)
        return tuple(p for k, p in enumerate(self.pairs) if k in kept)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "source": self.source,
            "n_examples": self.n_examples,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "p_value": self.p_value,
            "pairs": [p.to_dict() for p in self.pairs],
        }


def membership(weights: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """What a pair says of its members, strongest first: they, their signs, their opposition and amplitude by weight."""
    return {
        "members": tuple(int(i) for i in members),
        "signs": tuple(1 if weights[i] > 0 else -1 for i in members),
        "opposition": balance(weights[members]) if members.size else 0.0,
        "amplitude": float(np.abs(weights[members]).mean()) if members.size else NAN,
    }


def make_pair(weights: np.ndarray, p_signs: float, seed: int, **measured: Any) -> OpposingPair:
    """A pair from its weights: its membership and what else follows from them; ``measured`` goes first."""
    size = np.abs(weights)
    p_outliers = outlier_p_value(weights, seed=seed)
    defaults: dict[str, Any] = {
        "growth_rate": NAN,
        "energy_share": NAN,
        "sharpness_share": None,
        "series": np.empty(0),
        "opposition_from": "weights",
    }
    held = membership(weights, outlier_members(weights))
    return OpposingPair(
        weights=weights,
        p_value=max(p_signs, p_outliers),
        p_signs=p_signs,
        p_outliers=p_outliers,
        tail=hill_tail_index(weights),
        outlier_fraction=float(np.mean(size > OUTLIER * MAD_TO_DEVIATION * np.median(size))),
        **(defaults | held | measured),
    )


def _growth(starts: np.ndarray, series: np.ndarray) -> float:
    size = np.abs(series)
    good = size > 0
    return float(np.polyfit(starts[good], np.log(size[good]), 1)[0]) if good.sum() > 1 else NAN


def detect_in_blocks(starts: ArrayLike, blocks: ArrayLike, max_pairs: int = 4, seed: int = 0) -> Detection:
    r"""Pairs in demodulated losses, one per oscillating direction (measured).

    The matrix of blocks × examples is split by `distinct_components`, one component per oscillating direction.

    Args:
        starts: First step of each block, shape (B,).
        blocks: z, shape (B, n), from `demodulated_blocks` or `RunningDemodulation`.
        max_pairs: Most pairs returned.
        seed: Of the random sign patterns.
    Raises:
        ValueError: If there are fewer than 3 blocks or 2 examples.
    """
    starts, z = np.asarray(starts, dtype=np.int64), finite("blocks", blocks)
    if z.ndim != 2 or starts.shape != z.shape[:1]:
        raise ValueError(
            f"blocks must have shape (blocks, examples), got {z.shape} for {starts.size} starts; match them"
        )
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}; pass e.g. 4")
    if z.shape[0] < LEAST_BLOCKS or z.shape[1] < 2:
        raise ValueError(
            f"a detection needs {LEAST_BLOCKS} blocks of finite losses and 2 examples, got {z.shape[0]} and "
            f"{z.shape[1]}; widen the window (a block takes {STRIDE} steps)"
        )
    about = ("losses", z.shape[1], int(starts[0]), int(starts[-1]) + BLOCK - 1)
    scale = float(np.abs(z).max())
    if scale == 0:
        return Detection(*about, ())
    amplitudes, vectors = distinct_components(z / scale, max_pairs, seed=seed)
    p_values = reversal_p_values(amplitudes, seed=seed)
    total = float(((z / scale) ** 2).sum())
    pairs = []
    for k in range(amplitudes.shape[1]):
        series = amplitudes[:, k]
        if not (series != 0).any():
            continue
        phase = 1.0 if np.sign(series) @ np.sqrt(np.abs(series)) >= 0 else -1.0
        weights = scale * phase * float(np.sqrt(np.mean(series**2))) * vectors[:, k]
        pairs.append(
            make_pair(
                weights,
                float(p_values[k]),
                seed,
                growth_rate=_growth(starts, series),
                energy_share=float((series**2).sum()) / total,
                series=scale * phase * series,
            )
        )
    return Detection(*about, tuple(pairs))


def detect_in_losses(losses: ArrayLike, first_step: int = 0, max_pairs: int = 4, seed: int = 0) -> Detection:
    """Pairs in a window of per-example losses, shape (steps, n), of consecutive steps from ``first_step``.

    40 steps hold 8 blocks, enough for p-values down to 1/128. See `detect_in_blocks`.
    """
    starts, blocks = demodulated_blocks(losses, first_step)
    return detect_in_blocks(starts, blocks, max_pairs, seed)


def detect_in_projections(
    projections: ArrayLike, step: int = 0, curvature: ArrayLike | None = None, seed: int = 0
) -> Detection:
    r"""Pairs in the gradients' projections on the top eigenvectors, before anything oscillates (first order).

    A move $x v_k$ of the parameters changes $\ell_i$ by $x\,\nabla\ell_i\cdot v_k$, so the projections are the weights.

    Args:
        projections: $\nabla\ell_i\cdot v_k$, shape (n,) or (n, K), one column per eigenvector (`project_losses`).
        step: Step of the parameters.
        curvature: $v_k^\top H_i v_k$ in the same shape (`analysis.curvature.attribution`), for the shares.
    """
    s = finite("projections", projections)
    s = s[:, None] if s.ndim == 1 else s
    if s.ndim != 2 or s.shape[0] < 2:
        raise ValueError(f"projections must have shape (n,) or (n, K), got {s.shape}; pass one row per example")
    q = None if curvature is None else finite("curvature", curvature).reshape(len(s), -1)
    if q is not None and q.shape != s.shape:
        raise ValueError(f"curvature must have the projections' shape {s.shape}, got {q.shape}; use the same vectors")
    pairs = []
    for k in range(s.shape[1]):
        if not (s[:, k] != 0).any():
            continue
        pair = make_pair(s[:, k].copy(), cancellation_p_value(s[:, k], seed=seed), seed, amplitude=NAN)
        share = None if q is None else sharpness_share(q[:, k], pair.members)
        pairs.append(dataclasses.replace(pair, sharpness_share=share))
    return Detection("projections", s.shape[0], step, step, tuple(pairs))


def detect_in_both(
    by_losses: Detection, by_projections: Detection, least: float = 0.3, seed: int = 0
) -> tuple[Detection, tuple[Overlap, ...]]:
    r"""Pairs that losses and projections both show, and how far the two agree on each.

    Pairs are matched one to one, the largest |cosine| of weights first, down to ``least``. The joint weights are the
    mean of the two unit vectors, in the size of the losses' one.

    Args:
        by_losses, by_projections: Detections on the same examples.
        least: Smallest |cosine| of a match.
    """
    if by_losses.n_examples != by_projections.n_examples:
        raise ValueError(
            f"both detections must be on the same examples, got {by_losses.n_examples} and "
            f"{by_projections.n_examples}; use one data set"
        )
    agreements = {
        (i, j): overlap(a.weights, b.weights)
        for i, a in enumerate(by_losses.pairs)
        for j, b in enumerate(by_projections.pairs)
    }
    pairs, overlaps = [], []
    while agreements:
        (i, j), best = max(agreements.items(), key=lambda item: item[1].cosine)
        if best.cosine < least:
            break
        a, b = by_losses.pairs[i], by_projections.pairs[j]
        size = float(np.linalg.norm(a.weights))
        sign = 1.0 if a.weights @ b.weights >= 0 else -1.0
        joint = 0.5 * (a.weights + sign * size / float(np.linalg.norm(b.weights)) * b.weights)
        pair = make_pair(
            joint,
            max(a.p_signs, b.p_signs),
            seed,
            amplitude=a.amplitude,
            growth_rate=a.growth_rate,
            energy_share=a.energy_share,
            sharpness_share=b.sharpness_share,
            series=a.series,
        )
        pairs.append(pair)
        overlaps.append(best)
        agreements = {key: v for key, v in agreements.items() if key[0] != i and key[1] != j}
    about = ("both", by_losses.n_examples, by_losses.first_step, by_losses.last_step)
    return Detection(*about, tuple(pairs)), tuple(overlaps)


def with_gradients(
    detection: Detection, losses: ExampleLosses, params: Sequence[Tensor], vectors: Tensor | None = None
) -> Detection:
    r"""The detection with opposition measured on gradients and, given eigenvectors, shares of the sharpness.

    Opposition is exact, the shares as exact as ``analysis.curvature.attribute``.

    Args:
        losses: $\theta \mapsto (\ell_1,\dots,\ell_n)$ on the detection's examples.
        params: θ.
        vectors: Top eigenvectors, shape (P,) or (K, P). Each pair's share is along the one whose
            $|v\cdot\sum_i w_i \nabla\ell_i|$ is largest, w the pair's weights.
    """
    points = [p.detach().requires_grad_() for p in params]
    values = losses(points)
    if values.shape != (detection.n_examples,):
        raise ValueError(
            f"losses must give {detection.n_examples} values, got shape {tuple(values.shape)}; use the same examples"
        )
    basis = None if vectors is None else vectors.reshape(-1, vectors.shape[-1])
    curvature = [] if basis is None else [attribute(losses, params, v).curvatures.detach().cpu().numpy() for v in basis]
    pairs = []
    for pair in detection.pairs:
        opposition = gradient_opposition(losses, params, pair.members, pair.signs)
        share = pair.sharpness_share
        if basis is not None:
            weights = torch.as_tensor(pair.weights, dtype=values.dtype, device=values.device)
            along = basis @ flatten(torch.autograd.grad(values @ weights, points, retain_graph=True))
            share = sharpness_share(curvature[int(along.abs().argmax())], pair.members)
        pairs.append(
            dataclasses.replace(pair, opposition=opposition, opposition_from="gradients", sharpness_share=share)
        )
    return dataclasses.replace(detection, pairs=tuple(pairs))
