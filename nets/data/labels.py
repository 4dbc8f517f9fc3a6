"""Label noise, drawn example by example so that a subset keeps its labels."""

from dataclasses import replace

import numpy as np

from .dataset import DataError, Dataset

__all__ = ["with_label_noise"]


def with_label_noise(dataset: Dataset, share: float, seed: int = 0) -> Dataset:
    """Each label is replaced with probability ``share`` by another class, drawn uniformly from the other k − 1.

    The draw of an example depends on the seed and its index alone, not on how many follow. The result's ``truth``
    gains ``noisy``, shape (n,), bool.

    Args:
        dataset: Data of kind "classes".
        share: Probability in [0, 1).
        seed: Seed.
    Raises:
        DataError: If the data have no classes or the share is out of range.
    """
    if dataset.kind != "classes":
        raise DataError(f"label_noise needs classes, got data of kind {dataset.kind}; leave it out")
    if not 0 <= share < 1:
        raise DataError(f"label_noise must lie in [0, 1), got {share}; pass a probability")
    n, k = len(dataset.targets), dataset.n_classes
    noisy = np.random.default_rng([seed, 0]).random(n) < share
    shift = 1 + np.floor(np.random.default_rng([seed, 1]).random(n) * (k - 1)).astype(np.int64)
    targets = np.where(noisy, (dataset.targets + shift) % k, dataset.targets)
    return replace(dataset, targets=targets, truth={**dataset.truth, "noisy": noisy})
