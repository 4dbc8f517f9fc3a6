"""The configuration of one training run: the single truth for its options and its record."""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from toymodels.thresholds import critical_sharpness

from .importing import is_import_path
from .options import (
    DATA,
    INTERVENTIONS,
    MODELS,
    OBSERVERS,
    OPTIMIZERS,
    Option,
    OptionError,
    canonical,
    parse_observer,
    parse_options,
    show_observer,
)

__all__ = ["ACTIVATIONS", "DTYPES", "LOSSES", "PRECISIONS", "ConfigError", "TrainConfig"]

ACTIVATIONS = ("tanh", "relu")
LOSSES = ("squared", "cross_entropy")
DTYPES = ("float32", "float64")
KERNELS = ("exact", "fused", "compiled")
RECORDED = ("full", "float16", "top_k", "none")
PRECISIONS = ("full", "tf32", "bf16")
NOT_HASHED = ("data_path",)  # where the data lie; what they hold is fingerprinted in the run instead
# hashed only where they differ from their default, so that runs made before they existed keep their hash
ADDED = (
    "model",
    "model_options",
    "data_options",
    "optimizer",
    "optimizer_options",
    "label_smoothing",
    "batch_size",
    "record_losses",
    "record_k",
    "kernels",
    "device",
    "precision",
    "deterministic",
    "eig_every",
    "observers",
    "snapshot_every",
    "chunk_size",
    "intervention",
    "intervention_options",
)
_TABLES = {"data": DATA, "model": MODELS, "optimizer": OPTIMIZERS, "intervention": INTERVENTIONS}
_USERS = ("data", "model")  # may be a user's function


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the option, its requirement and the value."""


@dataclass(frozen=True)
class TrainConfig:
    r"""Training of a network, by default full-batch gradient descent on an MLP; every step is recorded.

    Full-batch gradient descent is $\theta_{n+1} = \theta_n - \eta\,\nabla L(\theta_n)$. Whatever the optimizer and the
    batches, what is recorded is the loss, gradient and Hessian of all examples at $\theta_n$. Options of the form
    ``name=value`` are listed in ``nets.options``.

    Args:
        data: "digits" (8×8 images shipped with scikit-learn), "cifar10", "chebyshev", "text", "modular", "planted",
            "gaussian", or a function of yours, ``package.module:function``.
        data_path: For cifar10: the parquet file or its folder. None: the folder ``cifar10`` under the
            environment variable ``OPPOSING_DATA``, else a cached download. For text: a file, else the language
            reference that ships with Python.
        data_options: Options of the data as name=value, e.g. ``classes=0,1 label_noise=0.1``.
        intervention: What is done to two groups of the examples before training: "none", "drop", "weight", "relabel",
            "robust", "blur", "background" or "feature" (``nets.data.interventions``).
        intervention_options: Its groups and options as name=value, e.g. ``first=3,17 second=5``.
        n_examples: The first so many rows of the data set (for text: windows); the seed does not change the selection.
        seed: Seed of the initial weights, of the batches and of the eigen-solver.
        model: "mlp", "linear2", "vgg11", "resnet18", "vit", "gpt", or a function of yours, ``package.module:factory``.
        model_options: Options of the model as name=value, e.g. ``norm=group width=0.25``.
        widths: Hidden widths of the MLP.
        activation: Of the MLP: "tanh" or "relu".
        loss: "squared" (½‖f − onehot‖² per example) or "cross_entropy"; the loss is the mean over examples.
        label_smoothing: Share ε in [0, 1) of the target that is spread evenly over all classes.
        optimizer: "gd", "sgd", "heavy_ball", "nesterov", "adam", "adamw", "rmsprop", "split_sgd" or "sam".
        optimizer_options: Options of the optimizer as name=value, e.g. ``momentum=0.9``.
        lr: Step size η > 0; time = lr * step.
        batch_size: Rows per step, drawn without replacement and reshuffled every epoch, the last batch of an epoch
            being what is left; 0: all rows.
        chunk_size: Most rows that are computed at a time, which bounds the memory; 0: all. What is computed stays the
            same up to rounding, except for BatchNorm: it then normalises every chunk by itself (ghost batches).
        steps: Number of steps recorded.
        dtype: "float32" or "float64"; both start from the same weights.
        record_losses: What the record keeps of the examples' losses. "full": all, in ``dtype``. "float16": all, to a
            relative 2⁻¹¹ (beyond 65,504: inf). "top_k": of each step the ``record_k`` examples whose loss moved most
            since the step before, with both losses, and quantiles over all examples. "none": only their mean.
        record_k: Examples per step of "top_k"; the size per step is that of 3 k numbers whatever the data.
        device: Where the run computes: "cpu", "cuda" or "cuda:1". The initial weights are the same everywhere.
        precision: How products are rounded: "full" (as dtype says), "tf32" (matrix products and convolutions on
            CUDA with 10 bits of mantissa), "bf16" (the forward pass and what is differentiated from it with 7 bits,
            weights and losses in float32). Sharpness and oscillation are then those of the rounded network.
        deterministic: Ask torch for deterministic algorithms while the run computes; needed on CUDA for the same bits
            again. An operation that has none ends the run with torch's message.
        checkpoint_every: Steps between checkpoints, which is also the chunk length of the record.
        eig_tol: Relative residual ‖Hv − λv‖/|λ| asked of the sharpness.
        max_products: Most Hessian-vector products per step.
        eig_every: The sharpness is measured at steps divisible by this and is NaN in the record between; 0: never.
        kernels: For losses and gradients of all rows at the steps without sharpness. "exact": as with it. "fused":
            PyTorch's own normalisations and attention, which lack higher derivatives. "compiled": the same through
            ``torch.compile`` (needs a C++ compiler). The results of the last two differ from "exact" by rounding;
            whether they pay depends on network and compiler. Gradients of a minibatch, and those an optimizer asks for
            beyond the first of a step (SAM's second), are always "exact".
        observers: What else is measured and how often, each "NAME option=value ...", e.g. "eigenvalues every=200 k=5";
            "eigenvalues", "density", "groups", "moves", "probes", or a function of yours, ``package.module:factory``.
        snapshot_every: The state is kept at steps divisible by this, for ``opposing fork``; 0: never.
        threads: CPU threads; 0 means all cores, under torchrun a process's part of them. The number used is fixed when
            the run is created, since the bits of the result depend on it.
    Raises:
        ConfigError: If a value is out of its range.
    """

    data: str = "digits"
    data_path: str | None = None
    data_options: tuple[str, ...] = ()
    intervention: str = "none"
    intervention_options: tuple[str, ...] = ()
    n_examples: int = 1000
    seed: int = 0
    model: str = "mlp"
    model_options: tuple[str, ...] = ()
    widths: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    loss: str = "squared"
    label_smoothing: float = 0.0
    optimizer: str = "gd"
    optimizer_options: tuple[str, ...] = ()
    lr: float = 0.4
    batch_size: int = 0
    chunk_size: int = 0
    steps: int = 320
    dtype: str = "float32"
    record_losses: str = "full"
    record_k: int = 100
    checkpoint_every: int = 50
    eig_tol: float = 1e-2
    max_products: int = 60
    threads: int = 0
    kernels: str = "exact"
    device: str = "cpu"
    precision: str = "full"
    deterministic: bool = False
    eig_every: int = 1
    observers: tuple[str, ...] = ()
    snapshot_every: int = 0

    def __post_init__(self) -> None:
        for name, tables in _TABLES.items():
            self._check_options(name, tables)
        _one_of("activation", self.activation, ACTIVATIONS)
        _one_of("loss", self.loss, LOSSES)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("record_losses", self.record_losses, RECORDED)
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
        _integer("batch_size", self.batch_size, 0)
        _integer("record_k", self.record_k, 1)
        _one_of("kernels", self.kernels, KERNELS)
        _integer("eig_every", self.eig_every, 0)
        _integer("snapshot_every", self.snapshot_every, 0)
        self._check_numerics()
        self._check_observers()
        _integer("chunk_size", self.chunk_size, 0)
        _positive("lr", self.lr)
        _positive("eig_tol", self.eig_tol)
        _share("label_smoothing", self.label_smoothing)
        for name in ("lr", "eig_tol", "label_smoothing"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("widths", "activation"):
            default = TrainConfig.__dataclass_fields__[name].default
            if self.model != "mlp" and getattr(self, name) != default:
                value = getattr(self, name)
                raise ConfigError(f"{name} belongs to model mlp, got {value!r} for {self.model}; use model_options")
        if self.batch_size > self.n_examples:
            raise ConfigError(
                f"batch_size must be at most n_examples = {self.n_examples}, got {self.batch_size}; pass 0 for all rows"
            )
        if self.batch_size and self.optimizer == "gd":
            raise ConfigError(f"batch_size must be 0 for optimizer gd, got {self.batch_size}; choose optimizer sgd")

        if self.record_losses != "top_k" and self.record_k != TrainConfig.record_k:
            raise ConfigError(
                f"record_k belongs to record_losses top_k, got {self.record_k} for {self.record_losses}; leave it out"
            )

    def _check_options(self, name: str, tables: dict[str, dict[str, Option]]) -> None:
        owner, key = getattr(self, name), f"{name}_options"
        if not (isinstance(owner, str) and (owner in tables or (name in _USERS and is_import_path(owner)))):
            known = (*tables, "package.module:function") if name in _USERS else tuple(tables)
            raise ConfigError(f"{name} must be one of {', '.join(known)}, got {owner!r}; choose one of them")
        given = getattr(self, key)
        if not isinstance(given, str | list | tuple):
            raise ConfigError(f"{key} must be a list of name=value, got {given!r}; pass e.g. []")
        try:
            values = parse_options(key, given, tables.get(owner), owner)
        except OptionError as error:
            raise ConfigError(str(error)) from None
        object.__setattr__(self, key, canonical(given, values, tables.get(owner)))

    def _check_numerics(self) -> None:
        if not (isinstance(self.device, str) and re.fullmatch(r"cpu|cuda(:\d+)?", self.device)):
            raise ConfigError(f"device must be cpu, cuda or cuda:N, got {self.device!r}; pass e.g. cuda:1")
        _one_of("precision", self.precision, PRECISIONS)
        if self.precision != "full" and self.dtype != "float32":
            raise ConfigError(
                f"precision must be full for dtype {self.dtype}, got {self.precision}; choose dtype float32"
            )
        if self.precision == "tf32" and self.device == "cpu":
            raise ConfigError("precision must be full or bf16 on the cpu, got tf32; choose device cuda")
        if not isinstance(self.deterministic, bool):
            raise ConfigError(f"deterministic must be true or false, got {self.deterministic!r}; pass one of them")

    def _check_observers(self) -> None:
        if isinstance(self.observers, str) or not hasattr(self.observers, "__iter__"):
            raise ConfigError(f"observers must be a list, got {self.observers!r}; pass e.g. ['density every=200']")
        try:
            parsed = [parse_observer(text) for text in self.observers]
        except OptionError as error:
            raise ConfigError(str(error)) from None
        names = [name for name, _ in parsed]
        for name in names:
            if name not in OBSERVERS and not is_import_path(name):
                known = ", ".join((*OBSERVERS, "package.module:factory"))
                raise ConfigError(f"observers must be among {known}, got {name!r}; choose one of them")
            if names.count(name) > 1:
                raise ConfigError(f"observers must be given once each, got {name} twice; leave one out")
        object.__setattr__(self, "observers", tuple(show_observer(*pair) for pair in parsed))

    @property
    def data_settings(self) -> dict[str, Any]:
        """All options of the data set with their values."""
        return parse_options("data_options", self.data_options, DATA.get(self.data), self.data)

    @property
    def model_settings(self) -> dict[str, Any]:
        """All options of the model with their values."""
        return parse_options("model_options", self.model_options, MODELS.get(self.model), self.model)

    @property
    def optimizer_settings(self) -> dict[str, Any]:
        """All options of the optimizer with their values."""
        return parse_options("optimizer_options", self.optimizer_options, OPTIMIZERS[self.optimizer], self.optimizer)

    @property
    def intervention_settings(self) -> dict[str, Any]:
        """All options of the intervention with their values."""
        table = INTERVENTIONS[self.intervention]
        return parse_options("intervention_options", self.intervention_options, table, self.intervention)

    @property
    def plain_descent(self) -> bool:
        """Whether the step is $-\\eta\\nabla L$ of all examples and nothing else."""
        return self.optimizer == "gd" and not self.optimizer_options

    @property
    def records_all_losses(self) -> bool:
        """Whether the record holds the loss of every example at every step."""
        return self.record_losses in ("full", "float16")

    @property
    def critical_sharpness(self) -> float | None:
        r"""Sharpness above which the optimizer oscillates along the top eigenvector; $2/\eta$ for gradient descent.

        Closed forms of ``toymodels.thresholds``, less the weight decay, which adds to every curvature. None where
        there is no constant one: with batches, for preconditioned optimizers, SAM with momentum or normalised, and
        where gradients are clipped.
        """
        o, name = self.optimizer_settings, self.optimizer
        if self.batch_size or o["clip_norm"] or name in ("adam", "adamw", "rmsprop"):
            return None
        if name == "sam":
            if o["normalised"] or o["momentum"] or o["rho"] == 0 or o["weight_decay"]:
                return None
            return critical_sharpness("sam", self.lr, o["rho"])
        if name in ("heavy_ball", "nesterov"):
            critical = critical_sharpness(name, self.lr, o["momentum"])
        elif name == "sgd":
            critical = critical_sharpness("heavy_ball", self.lr * (1 - o["dampening"]), o["momentum"])
        else:  # split_sgd: plain steps while the momentum is below its threshold
            critical = 2.0 / self.lr
        return critical - o["weight_decay"]

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
        defaults = {f.name: f.default for f in fields(self)}
        plain = {k: v for k, v in plain.items() if k not in ADDED or getattr(self, k) != defaults[k]}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}; choose one of them")


def _integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be an integer >= {least}, got {value!r}; pass {name} >= {least}")


def _share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{name} must lie in [0, 1), got {value!r}; pass e.g. 0.1")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be positive and finite, got {value!r}; pass {name} > 0")
