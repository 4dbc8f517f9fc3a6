"""Modular addition, the task on which networks grok (Power et al. 2022)."""

import numpy as np

from .dataset import DataError, Dataset

__all__ = ["modular"]

ENCODINGS = ("onehot", "tokens")


def modular(n_examples: int, *, modulus: int = 97, encoding: str = "onehot", seed: int = 0) -> Dataset:
    r"""$a + b \bmod q$ for the first ``n_examples`` of all $q^2$ pairs in a random order.

    The rest of the pairs, the test set of grokking, are the rows from ``n_examples`` on of the set with all q² rows.

    Args:
        n_examples: Number of pairs, at most q².
        modulus: q ≥ 2.
        encoding: "onehot": inputs (n, 2q), a and b one-hot one after the other. "tokens": inputs (n, 3), the tokens
            a, b and q (which stands for "="); the answer is asked at the last.
        seed: Seed of the order of the pairs.
    Raises:
        DataError: If an argument is out of range.
    """
    if encoding not in ENCODINGS:
        raise DataError(f"encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r}; choose one of them")
    if modulus < 2:
        raise DataError(f"modulus must be an integer >= 2, got {modulus}; pass e.g. 97")
    if not 1 <= n_examples <= modulus**2:
        raise DataError(f"n_examples must lie in 1..{modulus**2}, the pairs of {modulus}; got {n_examples}")
    order = np.random.default_rng(seed).permutation(modulus**2)[:n_examples]
    a, b = np.divmod(order, modulus)
    names = tuple(str(k) for k in range(modulus))
    targets = ((a + b) % modulus).astype(np.int64)
    if encoding == "tokens":
        tokens = np.stack([a, b, np.full(n_examples, modulus)], axis=1).astype(np.int64)
        return Dataset(tokens, targets, modulus, None, "modular", names, vocabulary=modulus + 1)
    rows = np.eye(modulus, dtype=np.float32)
    return Dataset(np.concatenate([rows[a], rows[b]], axis=1), targets, modulus, None, "modular", names)
