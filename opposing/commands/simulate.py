"""``opposing simulate``: gradient descent on the two-layer model beside its forecast."""

from dataclasses import dataclass
from pathlib import Path

from opposing.parsing import parser

__all__ = ["SimulateCommand", "parse", "run"]


@dataclass(frozen=True)
class SimulateCommand:
    """Simulate gradient descent on the two-layer model, beside the forecast made from its start.

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
    out: Path | None = None


parse = parser(SimulateCommand, "simulate", "opposing simulate --alpha 500 --lr 0.004 0.005 --out runs/toy.zarr")


def run(command: SimulateCommand) -> int:
    """Forecast first, then simulate; print both."""
    from rich.table import Table

    from opposing.progress import stdout
    from toymodels import ReducedState, forecast_descent, simulate_gd
    from toymodels.simulate import status_names

    if command.out is not None and command.out.exists():
        raise ValueError(f"out must be new, but {command.out} exists; choose another name")
    if not command.lr:
        raise ValueError("lr must hold at least one step size, got none; pass --lr 0.002")
    start = ReducedState(command.c, command.b_par, command.b_perp, command.u)
    forecasts = [forecast_descent(start, command.beta, command.alpha, lr, horizon=command.steps) for lr in command.lr]
    data = simulate_gd(
        start,
        command.beta,
        command.alpha,
        command.lr,
        command.steps,
        stride=command.stride,
        noise_floor=command.noise_floor,
    )
    table = Table(title="Gradient descent on the two-layer model (step: forecast / simulated)", title_justify="left")
    for heading in ("lr", "onset", "spike begins", "peak", "lowest log |u|", "status"):
        table.add_column(heading)
    for i, (lr, forecast) in enumerate(zip(command.lr, forecasts, strict=True)):
        one = data.isel(run=i)

        def pair(expected: int | None, seen: int) -> str:
            return f"{'–' if expected is None else expected} / {seen if seen >= 0 else '–'}"

        table.add_row(
            f"{lr:g}",
            pair(forecast.onset_step, int(one.onset_step)),
            pair(forecast.spike_step, int(one.spike_step)),
            pair(forecast.peak_step, int(one.peak_step)),
            f"{float(one.log_abs_u.min()):.1f}",
            str(status_names(one)),
        )
    stdout.print(table)
    if command.out is not None:
        data.to_zarr(command.out, mode="w-", consolidated=False)
        print(f"written to {command.out}")
    return 0
