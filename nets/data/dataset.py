"""What a data set is: arrays, and what its numbers mean."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["KINDS", "DataError", "Dataset"]

KINDS = ("classes", "regression", "tokens")


class DataError(ValueError):
    """Data that cannot be found or read; the message says what was required and what to do."""


@dataclass(frozen=True)
class Dataset:
    """Examples ready for a network.

    Args:
        inputs: Standardised inputs, shape (n, d), float32 (generated data: float64); tokens: (n, T), int64.
        targets: ``kind`` "classes": class indices (n,), int64; "regression": (n, k), float; "tokens": the token that
            follows each input token, (n, T), int64.
        n_classes: Number of outputs k: classes, target dimensions, or the size of the vocabulary.
        image_shape: Layout of one input row, e.g. (32, 32, 3); None where inputs are not images.
        name: Name of the data set.
        class_names: Names of the k classes or tokens.
        kind: "classes", "regression" or "tokens".
        vocabulary: Number of different input tokens where inputs are tokens, else None.
        weights: Weight of each per-example loss, shape (n_losses,), of mean 1; None: all 1.
        bounds: Loss beyond which an example's loss grows as a root only (``nets.losses.bounded``), shape (n_losses,),
            inf where it does not; None: nowhere.
        truth: What a generator knows about the examples, by name; arrays whose first axis is the example, and others.
    """

    inputs: np.ndarray
    targets: np.ndarray
    n_classes: int
    image_shape: tuple[int, ...] | None
    name: str
    class_names: tuple[str, ...]
    kind: str = "classes"
    vocabulary: int | None = None
    weights: np.ndarray | None = None
    bounds: np.ndarray | None = None
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_losses(self) -> int:
        """Number of per-example losses: rows, or for "tokens" all tokens that are predicted."""
        return self.targets.size if self.kind == "tokens" else len(self.targets)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of inputs, targets, weights and bounds: equal where the data are equal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.inputs).tobytes())
        digest.update(np.ascontiguousarray(self.targets).tobytes())
        for name in ("weights", "bounds"):
            values = getattr(self, name)
            if values is not None:
                digest.update(name.encode() + np.ascontiguousarray(values, dtype=np.float64).tobytes())
        return digest.hexdigest()

    def tensors(
        self, dtype: "torch.dtype", device: "str | torch.device" = "cpu"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Inputs and targets on a device; numbers as ``dtype``, class indices and tokens as int64.

        Copied into torch's own memory, aligned the same way in every process: sums depend on alignment.
        """
        import torch

        def move(array: np.ndarray) -> torch.Tensor:
            kind = dtype if array.dtype.kind == "f" else torch.int64
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=kind, copy=True)

        return move(self.inputs), move(self.targets)

    def emphasis(
        self, dtype: "torch.dtype", device: "str | torch.device" = "cpu"
    ) -> "tuple[torch.Tensor | None, torch.Tensor | None]":
        """Weights and bounds, one per target, on a device; None where there are none."""
        import torch

        shape = self.targets.shape if self.kind == "tokens" else (len(self.targets),)
        weights, bounds = (
            None if values is None else torch.tensor(values.reshape(shape), dtype=dtype, device=device)
            for values in (self.weights, self.bounds)
        )
        return weights, bounds
