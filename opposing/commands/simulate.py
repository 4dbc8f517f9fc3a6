"""``opposing simulate``: an optimizer on the two-layer model; gradient descent beside its forecast."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from opposing.parsing import parser

__all__ = ["SimulateCommand", "parse", "run"]


@dataclass(frozen=True)
class SimulateCommand:
    """Simulate training of the two-layer model; gradient descent beside the forecast made from its start.

    Attributes:
        beta: Norm of the true signal.
        alpha: Variance of the opposing feature.
        lr: Step sizes, one run each.
        c: Second-layer weight at the start.
        b_par: First layer along the signal at the start.
        b_perp: Norm of the first layer across the signal at the start.
        u: First layer along the opposing direction at the start.
        steps: Updates to make.
        stride: Keep every so manieth step of the trajectories.
        noise_floor: Least |u|; 0 is exact arithmetic.
        optimizer: gd, heavy_ball, nesterov, ema, sam, adam, split_sgd, or flow (gradient flow, time lr * step).
        hyper: Hyperparameters of the optimizer, e.g. --hyper momentum 0.5.
        out: A new .zarr folder for the trajectories.
    """

    beta: float = 1.0
    alpha: float = 1000.0
    lr: tuple[float, ...] = (0.0018, 0.00215, 0.0025)
    c: float = 0.55
    b_par: float = 0.05
    b_perp: float = 0.0
    u: float = 1e-3
    steps: int = 6000
    stride: int = 10
    noise_floor: float = 0.0
    optimizer: str = "gd"
    hyper: dict[str, float] = field(default_factory=dict)
    out: Path | None = None


parse = parser(SimulateCommand, "simulate", "opposing simulate --alpha 500 --lr 0.004 0.005 --out runs/toy.zarr")


def run(command: SimulateCommand) -> int:
    """Forecast first, then simulate; print both."""
    from rich.table import Table

    from opposing.progress import stdout
    from toymodels import ReducedState, forecast_descent, simulate
    from toymodels.simulation import status_names
    from toymodels.symbolic import two_layer

    if command.out is not None and command.out.exists():
        raise ValueError(f"out must be new, but {command.out} exists; choose another name")
    if not command.lr:
        raise ValueError("lr must hold at least one step size, got none; pass --lr 0.002")
    start = ReducedState(command.c, command.b_par, command.b_perp, command.u)
    optimizer = _optimizer(command)
    forecasts: list[Any] = [None] * len(command.lr)
    if command.optimizer == "gd" and not any(command.hyper.values()):
        forecasts = [
            forecast_descent(start, command.beta, command.alpha, lr, horizon=command.steps) for lr in command.lr
        ]
    data = simulate(
        two_layer(),
        optimizer,
        command.lr,
        command.steps,
        start=start,
        parameters={"beta": command.beta, "alpha": command.alpha},
        stride=command.stride,
        noise_floor=command.noise_floor,
    )
    steps = "step: forecast / simulated" if forecasts[0] is not None else "step simulated"
    table = Table(title=f"{command.optimizer} on the two-layer model ({steps})", title_justify="left")
    for heading in ("lr", "onset", "spike begins", "peak", "lowest log |u|", "status"):
        table.add_column(heading)

    def shown(one: Any, forecast: Any, name: str) -> str:
        seen = int(one[name]) if name in one and int(one[name]) >= 0 else None
        expected = [] if forecast is None else [getattr(forecast, name)]
        return " / ".join("–" if value is None else str(value) for value in (*expected, seen))

    for i, (lr, forecast) in enumerate(zip(command.lr, forecasts, strict=True)):
        one = data.isel(run=i)
        table.add_row(
            f"{lr:g}",
            *(shown(one, forecast, name) for name in ("onset_step", "spike_step", "peak_step")),
            f"{float(one.log_abs_u.min()):.1f}",
            str(status_names(one)),
        )
    stdout.print(table)
    if command.out is not None:
        data.to_zarr(command.out, mode="w-", consolidated=False)
        print(f"written to {command.out}")
    return 0


def _optimizer(command: SimulateCommand) -> Any:
    from toymodels.optimizers import make_optimizer

    if command.optimizer == "flow":
        if command.hyper:
            raise ValueError(f"hyper must be empty for flow, got {', '.join(command.hyper)}; leave it out")
        return "flow"
    kind = type(make_optimizer(command.optimizer))
    known = [f.name for f in fields(kind)]
    for name in command.hyper:
        if name not in known:
            raise ValueError(f"hyper of {command.optimizer} must be of {', '.join(known)}; got {name!r}")
    return kind(**command.hyper)
