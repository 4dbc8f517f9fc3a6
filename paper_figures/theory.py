"""The two-layer model: closed form, gradient flow and gradient descent overlaid, with onset and spike forecasts."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, ORANGE, PAGE_WIDTH, RED
from toymodels import (
    ReducedState,
    arrow_sharpness,
    forecast_descent,
    predict_flow,
    simulate_flow,
    simulate_gd,
    solved_sharpness,
)

__all__ = ["compute", "plot"]

BETA, ALPHA, LR = 1.0, 1000.0, 0.00215
START = ReducedState(0.55, 0.05, 0.0, 1e-3)


def compute() -> dict[str, Any]:
    """Arrays of the figure: the forecast first, then everything it is compared with."""
    forecast = forecast_descent(START, BETA, ALPHA, LR)
    if forecast.onset_step is None or forecast.spike_step is None:
        raise ValueError(f"the figure needs a run that spikes, got {forecast}; raise lr")
    steps = int(1.15 * forecast.spike_step)
    n = np.arange(steps + 1)
    exact = predict_flow(START.c, START.b_par, BETA)(LR * n)
    log_u = np.log(START.u) - ALPHA * exact.clock
    flow = simulate_flow(START, BETA, ALPHA, LR * n)
    solved = simulate_flow(ReducedState(START.c, START.b_par), BETA, ALPHA, LR * n, rtol=1e-12)
    descent = simulate_gd(START, BETA, ALPHA, LR, steps).isel(run=0)
    with np.errstate(over="ignore", under="ignore"):
        u = np.exp(descent.log_abs_u.values)
    state = ReducedState(descent.c.values, descent.b_par.values, descent.b_perp.values, np.nan_to_num(u))
    return {
        "step": n,
        "edge": 2 / LR,
        "forecast": forecast,
        "onset": int(descent.onset_step),
        "spike": int(descent.spike_step),
        "loss": {
            "closed form": (BETA - exact.c * exact.b_par) ** 2 / 2,
            "gradient flow": ((BETA - flow[0] * flow[1]) ** 2 + ALPHA * (flow[0] * flow[3]) ** 2) / 2,
            "gradient descent": descent.loss.values,
        },
        "sharpness": {
            "closed form": solved_sharpness(exact, BETA, ALPHA),
            "gradient flow": arrow_sharpness(ReducedState(*flow[:2], np.abs(flow[2]), flow[3]), BETA, ALPHA),
            "gradient descent": arrow_sharpness(state, BETA, ALPHA),
        },
        "c": {"closed form": exact.c, "gradient flow": flow[0], "gradient descent": descent.c.values},
        "log10_u": {
            "closed form": log_u / np.log(10),
            "gradient descent": descent.log_abs_u.values / np.log(10),
        },
        # the closed form's own domain is u = 0; in the panels the flow starts from the same u as the descent
        "flow_error": float(max(np.abs(exact.c - solved[0]).max(), np.abs(exact.b_par - solved[1]).max())),
    }


LOOKS = {
    "gradient descent": {"color": BLUE, "lw": 1.1},
    "gradient flow": {"color": ORANGE, "lw": 3.0, "alpha": 0.55},
    "closed form": {"color": "black", "lw": 0.9, "ls": (0, (4, 3))},
}


def plot(data: dict[str, Any]) -> Figure:
    """Draw the figure."""
    fig, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.4), sharex=True)
    panels = (
        ("loss", "a  loss: the spike comes long after onset", "loss"),
        ("sharpness", "b  sharpness passes 2/η", "largest eigenvalue S"),
        ("c", "c  second layer", "c"),
        ("log10_u", "d  opposing weight, far below underflow", "log₁₀ |u|"),
    )
    for ax, (name, title, label) in zip(axes.ravel(), panels, strict=True):
        for key in ("gradient flow", "gradient descent", "closed form"):
            if key in data[name]:
                ax.plot(data["step"], data[name][key], label=key, **LOOKS[key])
        ax.axvline(data["forecast"].onset_step, color=GREEN, lw=0.9, ls=":")
        ax.axvline(data["forecast"].spike_step, color=RED, lw=0.9, ls=":")
        ax.set(title=title, ylabel=label)
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylim(1e-5, 30)
    axes[0, 1].axhline(data["edge"], color=GREY, lw=0.9, ls="--")
    axes[0, 1].text(0, data["edge"], "2/η", color=GREY, fontsize=7, va="bottom")
    ceiling = 1.25 * max(float(np.max(data["sharpness"]["closed form"])), data["edge"])
    axes[0, 1].set_ylim(0.5 * float(np.min(data["sharpness"]["closed form"])), ceiling)
    axes[1, 1].axhline(np.log10(np.finfo(float).smallest_subnormal), color=GREY, lw=0.8, ls="--")
    lowest = float(np.min(data["log10_u"]["gradient descent"]))
    axes[1, 1].set_ylim(1.6 * lowest, -0.1 * lowest)
    smallest = np.log10(np.finfo(float).smallest_subnormal)
    axes[1, 1].text(
        0.82 * data["step"][-1], smallest, "float64 ends here", color=GREY, fontsize=7, ha="right", va="top"
    )
    top = axes[0, 0]
    transform = top.get_xaxis_transform()
    for step, text, colour in (
        (data["forecast"].onset_step, " onset,\n forecast", GREEN),
        (data["forecast"].spike_step, "spike, \nforecast ", RED),
    ):
        side = "left" if colour == GREEN else "right"
        top.text(step, 0.98, text, transform=transform, color=colour, fontsize=7, ha=side, va="top")
    axes[1, 0].legend(loc=(0.3, 0.06))
    for ax in axes[1]:
        ax.set_xlabel("step")
    fig.suptitle(
        f"Two-layer model: onset forecast {data['forecast'].onset_step}, simulated {data['onset']}; "
        f"spike forecast {data['forecast'].spike_step}, simulated {data['spike']}",
        fontsize=9,
    )
    return fig
