"""The state of a run as one safetensors file, replaced in one step: the commit point of the run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .descent import State
from .files import RunError, write_atomic

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint", "state_hash"]

TENSORS = ("parameters", "gradient", "previous_gradient", "eigenvector", "rng_state")
SPARSE = ("gradient", "previous_gradient", "eigenvector")  # empty in the file where they are all zero
OPTIONAL = ("batch_rng", "losses")  # left out where they are empty
OPTIMIZER = "optimizer."  # prefix of the optimizer's own tensors, which may be none


def save_checkpoint(path: Path, state: State, config_hash: str, threads: int, data_hash: str) -> None:
    """Write the state; metadata hold the hash of the configuration, the data and the thread count."""
    tensors = {name: getattr(state, name).contiguous() for name in TENSORS}
    tensors |= {name: tensors[name][:0] for name in SPARSE if not _any(tensors[name])}
    tensors |= {name: getattr(state, name) for name in OPTIONAL if getattr(state, name).numel()}
    tensors |= {OPTIMIZER + name: value.contiguous() for name, value in state.optimizer.items()}
    flags = [state.step, int(state.logged), int(state.diverged)]
    tensors["step_logged_diverged"] = torch.tensor(flags, dtype=torch.int64)
    # one metadata entry: safetensors does not fix the order of several, and the bytes must be reproducible
    about = {"config_hash": config_hash, "data_hash": data_hash, "threads": threads}
    write_atomic(path, save(tensors, {"run": json.dumps(about, sort_keys=True)}))


def load_checkpoint(path: Path) -> tuple[State, dict]:
    """The state and the metadata {config_hash, data_hash, threads}.

    Raises:
        RunError: If the file is missing or broken.
    """
    tensors, about = _read(path)
    try:
        step, logged, diverged = tensors["step_logged_diverged"].tolist()
        theta = tensors["parameters"]
        tensors |= {name: torch.zeros_like(theta) for name in SPARSE if not tensors[name].numel()}
        _, gradient, previous, eigenvector, rng = (tensors[name] for name in TENSORS)
        state = State(step, bool(logged), bool(diverged), theta, gradient, previous, eigenvector, rng)
        for name in OPTIONAL:
            setattr(state, name, tensors.get(name, getattr(state, name)))
        state.optimizer = {
            name.removeprefix(OPTIMIZER): value for name, value in tensors.items() if name.startswith(OPTIMIZER)
        }
        return state, about
    except (KeyError, ValueError) as error:
        raise RunError(f"{path} must be a checkpoint of a run, lacks {error}; restore it") from error


def _any(vector: Tensor) -> bool:
    """Whether it is not all zero; by numpy, whose one thread leaves the others to the run."""
    return bool(vector.any()) if vector.is_cuda else bool(np.any(vector.numpy()))


def load_weights(path: Path) -> Tensor:
    """Flat parameters (P,) of a checkpoint or a snapshot.

    Raises:
        RunError: If the file is missing or broken.
    """
    tensors, _ = _read(path)
    if "parameters" not in tensors:
        raise RunError(f"{path} must hold the tensor `parameters`; pass a snapshot of a run")
    return tensors["parameters"]


def state_hash(state: State, config_hash: str) -> str:
    """SHA-256 of parameters, step and configuration: names the point a forecast was made at."""
    digest = hashlib.sha256(state.parameters.contiguous().cpu().numpy().tobytes())
    digest.update(f"step {state.step} config {config_hash}".encode())
    return digest.hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["run"])
            return {name: file.get_tensor(name).clone() for name in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"{path} must be a whole safetensors file of a run ({type(error).__name__}); restore it"
        ) from error
