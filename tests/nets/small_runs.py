"""Small runs and the comparison of run directories, byte by byte."""

from pathlib import Path

import torch

from nets.config import TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.optimizers import make_optimizer

EXEMPT = {"status.json", "provenance.json", "lock"}  # dates, process display; not results


def small(**changes) -> TrainConfig:
    """A run of milliseconds a step."""
    options = {
        "n_examples": 40,
        "widths": (8,),
        "lr": 0.1,
        "steps": 23,
        "checkpoint_every": 5,
        "threads": 1,
    }
    return TrainConfig(**{**options, **changes})


def contents(directory: Path) -> dict[str, bytes]:
    """Every result file of a run directory with its bytes."""
    files = (p for p in sorted(Path(directory).rglob("*")) if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in files if p.name not in EXEMPT}


def assert_same_run(a: Path, b: Path, losses: bool = True) -> None:
    """All result files are identical; ``losses``: among them those of the examples."""
    first, second = contents(a), contents(b)
    assert sorted(first) == sorted(second)
    different = [name for name in first if first[name] != second[name]]
    assert not different, f"files differ: {different}"
    assert any(name.startswith(f"record.zarr/{'example_loss' if losses else 'loss'}/c/") for name in first)
    assert "checkpoint.safetensors" in first


def plain_losses(config: TrainConfig, steps: int, switch: tuple[int, float] | None = None) -> list[float]:
    """Losses of every step by a plain PyTorch loop over the network's own tensors, batches by hand.

    ``switch``: from this step on the step size is this one.
    """
    problem = Problem(config, load_data(config))
    net, (x, y) = problem.new_module(), load_data(config).tensors(problem.dtype)
    optimizer = make_optimizer(config.optimizer, net.parameters(), config.lr, **config.optimizer_settings)
    generator = torch.Generator().manual_seed(config.seed)
    losses, order = [], torch.arange(len(x))
    per_epoch = -(-len(x) // config.batch_size) if config.batch_size else 1
    for n in range(steps):
        if switch is not None and n == switch[0]:
            optimizer.param_groups[0]["lr"] = switch[1]
        with torch.no_grad():
            losses.append(float(problem.loss(net(x), y).mean()))
        if config.batch_size and n % per_epoch == 0:
            order = torch.randperm(len(x), generator=generator)
        start = n % per_epoch * config.batch_size
        rows = order[start : start + config.batch_size] if config.batch_size else order

        def closure(rows=rows):
            optimizer.zero_grad()
            loss = problem.loss(net(x[rows]), y[rows]).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    return losses
