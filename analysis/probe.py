r"""The pure feature as an input: if a network reads it, its class probabilities alternate with the groups' losses."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from analysis.demodulation import demodulated_blocks
from analysis.observer import evaluating
from analysis.opposition import reversal_p_values
from toymodels.validation import finite

__all__ = ["FeatureProbe", "ProbeAlternation", "constant_image", "mean_background", "probe_alternation", "rim_mask"]


def constant_image(colour: ArrayLike, height: int, width: int) -> np.ndarray:
    """An image of one colour, shape (height, width, channels)."""
    values = np.atleast_1d(finite("colour", colour))
    return np.broadcast_to(values, (height, width, values.size)).copy()


def rim_mask(height: int, width: int, rim: float = 0.25) -> np.ndarray:
    """True on the rim of an image, of the width ``rim`` in (0, 0.5] as a share of the side; shape (height, width)."""
    if not 0 < rim <= 0.5:
        raise ValueError(f"rim must lie in (0, 0.5], got {rim}; pass e.g. 0.25")
    edge = np.ones((height, width), dtype=bool)
    down, right = max(1, int(rim * height)), max(1, int(rim * width))
    edge[down : height - down, right : width - right] = False
    return edge


def mean_background(images: ArrayLike, members: ArrayLike, rim: float = 0.25) -> np.ndarray:
    """The image of one colour that is the mean of some images' rims: their ground without what stands on it.

    Args:
        images: Shape (n, height, width, channels).
        members: Images averaged.
        rim: Width of the rim as a share of the side, in (0, 0.5].
    """
    x = finite("images", images)
    if x.ndim != 4:
        raise ValueError(f"images must have shape (n, height, width, channels), got {x.shape}; add the last axis")
    height, width = x.shape[1:3]
    edge = rim_mask(height, width, rim)
    chosen = x[np.asarray(members, dtype=np.int64)]
    return constant_image(chosen[:, edge].mean(axis=(0, 1)), height, width)


class ProbeAlternation(NamedTuple):
    """How the class probabilities of a probe alternate.

    ``amplitude``: signed mean over the blocks, shape (probes, classes), positive where the probability is high at even
    steps. ``p_value``: of an alternation of one phase by chance, per probe and class. ``correlation``: of each class's
    demodulated probability with a pair's, block by block (NaN without one): 1 or −1 where they go in step.
    """

    amplitude: np.ndarray
    p_value: np.ndarray
    correlation: np.ndarray


def probe_alternation(
    probabilities: ArrayLike, first_step: int = 0, series: ArrayLike | None = None
) -> ProbeAlternation:
    """Alternation of recorded class probabilities over a window of consecutive steps.

    Args:
        probabilities: Shape (steps, probes, classes), of steps from ``first_step`` on.
        first_step: Step of the first row.
        series: A pair's ``series`` in the same window, shape (blocks,), to compare with.
    Raises:
        ValueError: If the shapes do not fit.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 3:
        raise ValueError(f"probabilities must have shape (steps, probes, classes), got {p.shape}; add the missing axis")
    _, z = demodulated_blocks(p.reshape(len(p), -1), first_step)
    shape = p.shape[1:]
    correlation = np.full(shape, np.nan)
    if series is not None:
        pair = finite("series", series)
        if pair.shape != z.shape[:1]:
            raise ValueError(f"series must hold {len(z)} blocks, got {pair.shape}; detect in the same window")
        scale = np.linalg.norm(pair) * np.linalg.norm(z, axis=0)
        # about 0, not about their means: an alternation that keeps its size is in step too
        correlation = np.divide(pair @ z, scale, out=np.full(z.shape[1], np.nan), where=scale > 0).reshape(shape)
    return ProbeAlternation(z.mean(axis=0).reshape(shape), reversal_p_values(z).reshape(shape), correlation)


class FeatureProbe:
    r"""Class probabilities of fixed inputs, taken at every step of a run.

    Args:
        model: Network whose output, or its ``logits``, is a score per class (softmax is applied). Scores per position,
            shape (probes, T, vocabulary), are read at the last one: what the model expects after the whole context.
        inputs: Probe inputs as the model takes them, shape (probes, ...).
    """

    def __init__(self, model: nn.Module, inputs: Tensor) -> None:
        self.model, self.inputs = model, inputs
        self.first_step: int | None = None
        self._rows: list[np.ndarray] = []

    def step(self, step: int | None = None) -> None:
        """Take the probabilities at the current parameters; steps must follow one another."""
        expected = None if self.first_step is None else self.first_step + len(self._rows)
        step = (expected or 0) if step is None else step
        if expected is not None and step != expected:
            raise ValueError(f"step must be {expected}, the next one, got {step}; take every step")
        if self.first_step is None:
            self.first_step = step
        with evaluating(self.model), torch.no_grad():
            outputs = self.model(self.inputs)
        scores = getattr(outputs, "logits", outputs)
        if scores.ndim not in (2, 3):
            raise ValueError(
                f"model must give scores of shape (probes, classes) or (probes, positions, classes), "
                f"got {tuple(scores.shape)}; reshape them"
            )
        scores = scores if scores.ndim == 2 else scores[:, -1]
        self._rows.append(torch.softmax(scores.double(), dim=1).cpu().numpy())

    @property
    def probabilities(self) -> np.ndarray:
        """Shape (steps, probes, classes)."""
        return np.array(self._rows)

    def alternation(self, start: int, stop: int, series: ArrayLike | None = None) -> ProbeAlternation:
        """Alternation over steps ``start`` to ``stop`` inclusive.

        Args:
            series: A pair's ``series`` in the same window, shape (blocks,), to compare with.
        """
        first = self.first_step or 0
        if not first <= start < stop < first + len(self._rows):
            raise ValueError(
                f"the window must lie in the steps taken, {first}..{first + len(self._rows) - 1}, got {start}..{stop}; "
                "take more steps"
            )
        return probe_alternation(self.probabilities[start - first : stop - first + 1], start, series)
