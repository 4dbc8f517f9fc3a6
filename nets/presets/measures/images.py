"""Measures of what the groups of a pair look like."""

import numpy as np
from scipy.stats import spearmanr

from analysis.demodulation import STRIDE
from analysis.detection import detect_in_losses
from analysis.signals import describe_images
from nets.presets.measure import measure
from nets.presets.outcomes import Outcome

from .groups import Pair, group_sets

__all__ = ["complexity_trend"]

NAN = float("nan")
LEAST_WINDOWS = 5


def _complexity(images: np.ndarray, sets: tuple[np.ndarray, np.ndarray]) -> float:
    first, second = (group.tolist() for group in sets)
    return describe_images(images, first, second).complexity


@measure(needs=("losses",))
def complexity_trend(run: Outcome, groups: str = "pair", window: int = 40, hop: int = 20, level: float = 0.05) -> float:
    r"""Rank correlation with time of the spatial frequency that tells the groups of the leading pair apart.

    Of every window that shows a pair: `analysis.signals.complexity` of the difference of the groups' mean images, over
    its mean for random groups of the same sizes, since small groups differ in fine detail whatever they are. NaN with
    fewer than five such windows.

    Args:
        run: A run on images.
        groups: "pair", or one draw of "random" groups in its place.
        window, hop: Steps of a window and between windows.
        level: Family-wise level of a pair.
    """
    data = run.trained.dataset
    if data.image_shape is None:
        raise ValueError(f"this measure is of images, {run.name} has none; choose another measure")
    if groups not in ("pair", "random"):
        raise ValueError(f'groups must be "pair" or "random", got {groups!r}; choose one of them')
    images = data.inputs.reshape(len(data.inputs), *data.image_shape)
    times, ratios = [], []
    begin = -(-run.first_step // STRIDE) * STRIDE
    for start in range(begin, len(run.loss) - window + 1, hop):
        losses = run.losses[start - run.first_step :][:window]
        if not np.isfinite(losses).all():
            break
        strong = [p for p in detect_in_losses(losses, start).significant(level) if all(p.groups)]
        if not strong:
            continue
        first, second = (np.array(g, dtype=np.int64) for g in strong[0].groups)
        pair = Pair(first, second, start + window, start + window)
        drawn = group_sets(pair, losses[-1], "random", seed=start)
        mine = drawn.pop() if groups == "random" else (pair.first, pair.second)
        usual = np.mean([_complexity(images, sets) for sets in drawn])
        times.append(start)
        ratios.append(_complexity(images, mine) / usual)
    return float(np.asarray(spearmanr(times, ratios))[0]) if len(times) >= LEAST_WINDOWS else NAN
