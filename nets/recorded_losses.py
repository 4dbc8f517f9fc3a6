"""What the record keeps of the examples' losses, by ``TrainConfig.record_losses``; see there for the four choices."""

import numpy as np
import xarray as xr
from torch import Tensor, from_numpy

from analysis.moves import Moves

from .config import TrainConfig
from .files import RunError

__all__ = [
    "QUANTILES",
    "ArraySpec",
    "all_losses",
    "known_losses",
    "loss_arrays",
    "loss_row",
    "loss_sizes",
    "losses_kept",
]

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

#: dtype (None: the run's own), dimensions, units, description
ArraySpec = tuple[str | None, tuple[str, ...], str, str]

_TOP = "of the examples whose loss moved most since the step before (at step 0: the largest), largest move first"
_ARRAYS: dict[str, dict[str, ArraySpec]] = {
    "full": {"example_loss": (None, ("step", "example"), "loss", "loss of each example")},
    "float16": {"example_loss": ("float16", ("step", "example"), "loss", "loss of each example, to 2^-11")},
    "top_k": {
        "top_example": ("int32", ("step", "rank"), "1", f"indices {_TOP}"),
        "top_loss": (None, ("step", "rank"), "loss", f"losses {_TOP}"),
        "top_loss_before": (None, ("step", "rank"), "loss", f"losses at the step before {_TOP}"),
        "loss_quantile": (None, ("step", "quantile"), "loss", "quantiles of the losses over all examples"),
        "move_quantile": (None, ("step", "quantile"), "loss", "quantiles of |loss - loss at the step before|"),
    },
    "none": {},
}


def loss_arrays(config: TrainConfig) -> dict[str, ArraySpec]:
    """The arrays that hold losses of examples, by name."""
    return _ARRAYS[config.record_losses]


def loss_sizes(config: TrainConfig) -> dict[str, int]:
    """Sizes of the dimensions that these arrays alone have, by name."""
    return {"rank": config.record_k, "quantile": len(QUANTILES)} if config.record_losses == "top_k" else {}


def loss_row(config: TrainConfig, losses: np.ndarray, before: Tensor) -> dict[str, np.ndarray]:
    r"""What is kept of one step's losses.

    "top_k": the k largest $|\ell_i(n) - \ell_i(n-1)|$ with both losses, so that a move is known whole. Why moves and
    not losses: `analysis.moves`.

    Args:
        config: Configuration.
        losses: $\ell_i(n)$, shape (n,).
        before: $\ell_i(n-1)$, shape (n,); empty at step 0.
    """
    if config.record_losses == "none":
        return {}
    if config.record_losses != "top_k":
        return {"example_loss": losses}
    known = before.numpy() if before.numel() else np.full_like(losses, np.nan)
    with np.errstate(invalid="ignore"):  # a run may diverge: inf - inf
        size = np.abs(losses - known) if before.numel() else losses
        kept = np.argpartition(-size, config.record_k - 1)[: config.record_k]
        kept = kept[np.argsort(-size[kept], kind="stable")]
        quantiles, moves = np.quantile(losses, QUANTILES), np.quantile(np.abs(losses - known), QUANTILES)
    return {
        "top_example": kept,
        "top_loss": losses[kept],
        "top_loss_before": known[kept],
        "loss_quantile": quantiles,
        "move_quantile": moves,
    }


def losses_kept(config: TrainConfig, losses: np.ndarray) -> Tensor:
    """What the next step must know of these losses: all of them for "top_k", else nothing."""
    return from_numpy(losses if config.record_losses == "top_k" else losses[:0])


def all_losses(config: TrainConfig, history: xr.Dataset, purpose: str) -> np.ndarray:
    """The loss of every example at every step, shape (steps, n).

    Args:
        config: Configuration of the run.
        history: Its record.
        purpose: What they are for, for the message.
    Raises:
        RunError: If the record does not hold them.
    """
    if not config.records_all_losses:
        raise RunError(
            f"record_losses must be full or float16 to {purpose}, got {config.record_losses}; "
            "train the run anew with one of them"
        )
    return history["example_loss"].values


def known_losses(config: TrainConfig, history: xr.Dataset, first: int = 0) -> np.ndarray | Moves:
    """The losses as `analysis.timeline.find_signals` takes them, from step ``first`` on: all, or the largest moves.

    Raises:
        RunError: If the record holds none.
    """
    if config.record_losses != "top_k":
        return all_losses(config, history, "find signals")[first:]
    history = history.isel(step=slice(first, None))
    return Moves(
        examples=history["top_example"].values,
        losses=history["top_loss"].values,
        before=history["top_loss_before"].values,
        median_move=history["move_quantile"].values[:, QUANTILES.index(0.5)],
        n=history["target"].shape[0],
        first_step=first,
    )
