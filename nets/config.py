"""The configuration of one full-batch training run: the single truth for its options and its record."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["ACTIVATIONS", "DATASETS", "DTYPES", "LOSSES", "ConfigError", "TrainConfig"]

DATASETS = ("digits", "cifar10")
ACTIVATIONS = ("tanh", "relu")
LOSSES = ("squared", "cross_entropy")
DTYPES = ("float32", "float64")
NOT_HASHED = ("data_path",)  # where the data lie; what they hold is fingerprinted in the run instead


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the option, its requirement and the value."""


@dataclass(frozen=True)
class TrainConfig:
    r"""Full-batch gradient descent $\theta_{n+1} = \theta_n - \eta\,\nabla L(\theta_n)$ on an MLP.

    Args:
        data: "digits" (8×8 images shipped with scikit-learn) or "cifar10".
        data_path: For cifar10: the parquet file or its folder. None: the folder ``cifar10`` under the
            environment variable ``OPPOSING_DATA``, else a cached download.
        n_examples: The first so many rows of the data set; the seed does not change the selection.
        seed: Seed of the initial weights and of the eigen-solver.
        widths: Hidden widths.
        activation: "tanh" or "relu".
        loss: "squared" (½‖f − onehot‖² per example) or "cross_entropy"; the loss is the mean over examples.
        lr: Step size η > 0; time = lr * step.
        steps: Number of steps recorded.
        dtype: "float32" or "float64"; both start from the same weights.
        checkpoint_every: Steps between checkpoints, which is also the chunk length of the record.
        eig_tol: Relative residual ‖Hv − λv‖/|λ| asked of the sharpness.
        max_products: Most Hessian-vector products per step.
        threads: CPU threads; 0 means all cores. The number used is fixed when the run is created, since
            the bits of the result depend on it.
    Raises:
        ConfigError: If a value is out of its range.
    """

    data: str = "digits"
    data_path: str | None = None
    n_examples: int = 1000
    seed: int = 0
    widths: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    loss: str = "squared"
    lr: float = 0.4
    steps: int = 320
    dtype: str = "float32"
    checkpoint_every: int = 50
    eig_tol: float = 1e-2
    max_products: int = 60
    threads: int = 0

    def __post_init__(self) -> None:
        _one_of("data", self.data, DATASETS)
        _one_of("activation", self.activation, ACTIVATIONS)
        _one_of("loss", self.loss, LOSSES)
        _one_of("dtype", self.dtype, DTYPES)
        if self.data_path is not None:
            object.__setattr__(self, "data_path", str(self.data_path))
        if isinstance(self.widths, str) or not hasattr(self.widths, "__iter__"):
            raise ConfigError(f"widths must be a list of integers, got {self.widths!r}; pass e.g. [64, 64]")
        object.__setattr__(self, "widths", tuple(self.widths))
        for width in self.widths:
            _integer("widths", width, 1)
        _integer("n_examples", self.n_examples, 1)
        _integer("seed", self.seed, 0)
        _integer("steps", self.steps, 1)
        _integer("checkpoint_every", self.checkpoint_every, 1)
        _integer("max_products", self.max_products, 2)
        _integer("threads", self.threads, 0)
        _positive("lr", self.lr)
        _positive("eig_tol", self.eig_tol)
        object.__setattr__(self, "lr", float(self.lr))
        object.__setattr__(self, "eig_tol", float(self.eig_tol))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for TOML or JSON: lists for tuples, an option that is None left out."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in plain.items() if v is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainConfig":
        """The configuration written by `to_dict`; options left out take their defaults.

        Raises:
            ConfigError: If an option is unknown or out of range.
        """
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ConfigError(f"options must be among {', '.join(names)}; got {', '.join(unknown)}; remove it")
        return cls(**values)

    @property
    def config_hash(self) -> str:
        """SHA-256 of every option but ``data_path``, as 64 hexadecimal digits."""
        plain = {k: v for k, v in self.to_dict().items() if k not in NOT_HASHED}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}; choose one of them")


def _integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be an integer >= {least}, got {value!r}; pass {name} >= {least}")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be positive and finite, got {value!r}; pass {name} > 0")
