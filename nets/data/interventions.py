r"""Interventions on two groups of a run's examples, as a change of its data that is part of its configuration.

``TrainConfig.intervention`` names one, ``TrainConfig.intervention_options`` its groups and options: a run with an
intervention is a run like any other, hashed, described and resumed. Indices are those of the data set before the
intervention; for text they count tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from analysis.interventions import (
    Groups,
    blurred,
    common_feature,
    example_weights,
    with_mean_ground,
    without_feature,
)

from .dataset import DataError, Dataset

__all__ = ["ACTIONS", "intervene", "kept_rows"]


def intervene(
    dataset: Dataset, action: str, *, first: Sequence[int] = (), second: Sequence[int] = (), **options: float
) -> Dataset:
    r"""The data after an intervention on the groups ``first`` and ``second``.

    - "drop": without the members. Text keeps the tokens as context and gives them the weight 0.
    - "weight": $w_i$ = ``first_weight``, ``second_weight`` on the sides, then scaled to mean 1; the loss is
      $\frac1n\sum_i w_i\ell_i$. One number below 1 takes weight away, two that equalise the sides rebalance them.
    - "relabel": all members get the class ``label``; −1: the commonest among them (the lowest of several).
    - "robust": the members' losses are $\rho(\ell)$ = ℓ up to ``bound``, $2\sqrt{c\ell} - c$ beyond (Huber).
    - "blur": the members' images, by a Gaussian of ``sigma`` pixels.
    - "background": the members' rims get the mean colour of the other images' rims (`with_mean_ground`).
    - "feature": the direction that the members share (`common_feature`) is projected out of them, or with
      ``everywhere`` out of all inputs.

    Args:
        dataset: Data before the intervention.
        action: "none" returns the data as they are.
        first, second: Indices of the sides in [0, n), without repetition; at least one member.
        options: As listed; defaults and ranges in ``nets.options``.
    Raises:
        DataError: If the groups or the action do not fit the data.
    """
    if action == "none":
        return dataset
    if action not in ACTIONS:
        raise DataError(f"intervention must be one of none, {', '.join(ACTIONS)}, got {action!r}; choose one of them")
    groups = Groups(tuple(first), tuple(second))
    _check(dataset, groups)
    try:
        return ACTIONS[action](dataset, groups, **options)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"intervention {action}: {error}") from error


def kept_rows(n: int, action: str, *, first: Sequence[int] = (), second: Sequence[int] = (), **_: float) -> np.ndarray:
    """Indices before the intervention of the rows that are left, of n."""
    return np.setdiff1d(np.arange(n), [*first, *second]) if action == "drop" else np.arange(n)


def _check(dataset: Dataset, groups: Groups) -> None:
    members, n = groups.members, dataset.n_losses
    if members.size == 0:
        raise DataError("an intervention must have a group, got no members; pass first=INDICES or second=INDICES")
    if members.min() < 0 or members.max() >= n:
        wrong = members.min() if members.min() < 0 else members.max()
        raise DataError(f"members of a group must lie in [0, {n}), got {wrong}; pass indices of the data")
    values, counts = np.unique(members, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"members of a group must be different, got {values[counts > 1][0]} twice; leave one out")


def _drop(dataset: Dataset, groups: Groups) -> Dataset:
    n = dataset.n_losses
    if dataset.kind == "tokens":
        return _weight(dataset, groups, 0.0, 0.0)
    keep = kept_rows(n, "drop", first=groups.first, second=groups.second)
    if keep.size < 2:
        raise DataError(f"drop must leave at least 2 examples, got {keep.size} of {n}; drop fewer")
    truth = {k: v[keep] if v.shape[:1] == (n,) else v for k, v in dataset.truth.items()}
    return replace(dataset, inputs=dataset.inputs[keep], targets=dataset.targets[keep], truth={**truth, "row": keep})


def _weight(dataset: Dataset, groups: Groups, first_weight: float = 1.0, second_weight: float = 1.0) -> Dataset:
    return replace(dataset, weights=example_weights(dataset.n_losses, groups, first_weight, second_weight))


def _relabel(dataset: Dataset, groups: Groups, label: int = -1) -> Dataset:
    if dataset.kind == "regression":
        raise DataError("relabel needs classes or tokens, got data of kind regression; choose another intervention")
    if label >= dataset.n_classes:
        raise DataError(f"label must be below the {dataset.n_classes} classes, got {label}; pass a class or -1")
    targets = dataset.targets.reshape(-1).copy()
    targets[groups.members] = np.bincount(targets[groups.members]).argmax() if label < 0 else label
    return replace(dataset, targets=targets.reshape(dataset.targets.shape))


def _robust(dataset: Dataset, groups: Groups, bound: float = 0.1) -> Dataset:
    bounds = np.full(dataset.n_losses, np.inf)
    bounds[groups.members] = bound
    return replace(dataset, bounds=bounds)


def _images(dataset: Dataset, action: str) -> np.ndarray:
    if dataset.image_shape is None:
        raise DataError(f"{action} needs images, {dataset.name} has none; choose data with images or another action")
    return dataset.inputs.reshape(-1, *dataset.image_shape)


def _blur(dataset: Dataset, groups: Groups, sigma: float = 2.0) -> Dataset:
    images = _images(dataset, "blur").copy()
    images[groups.members] = blurred(images[groups.members], sigma)
    return replace(dataset, inputs=images.reshape(dataset.inputs.shape))


def _background(dataset: Dataset, groups: Groups, rim: float = 0.25) -> Dataset:
    images = with_mean_ground(_images(dataset, "background"), groups.members, rim)
    return replace(dataset, inputs=images.reshape(dataset.inputs.shape))


def _feature(dataset: Dataset, groups: Groups, everywhere: bool = False) -> Dataset:
    if dataset.inputs.dtype.kind != "f" or dataset.inputs.ndim != 2:
        raise DataError(f"feature needs inputs of shape (n, d), {dataset.name} has tokens; choose another intervention")
    direction = common_feature(dataset.inputs, groups.members)
    inputs = without_feature(dataset.inputs, direction, None if everywhere else groups.members)
    return replace(dataset, inputs=inputs)


#: action -> the data after it; options as in nets.options.INTERVENTIONS
ACTIONS: dict[str, Callable[..., Dataset]] = {
    "drop": _drop,
    "weight": _weight,
    "relabel": _relabel,
    "robust": _robust,
    "blur": _blur,
    "background": _background,
    "feature": _feature,
}
