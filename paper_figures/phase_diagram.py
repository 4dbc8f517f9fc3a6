"""Where gradient descent on the two-layer model settles, crosses the edge, spikes or diverges, over (η, α)."""

import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from paper_figures.style import GREY, ORANGE
from toymodels.phase import compute_phase, open_phase, outcome, phase_boundaries
from toymodels.phase_config import PhaseConfig

__all__ = ["compute", "load", "plot"]

DEFAULT = PhaseConfig(lrs=700, alphas=500)
NARROW = 3.5  # inches, one column


def compute(config: PhaseConfig = DEFAULT) -> dict[str, Any]:
    """Arrays of the figure, computed anew."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "phase.zarr"
        compute_phase(path, config)
        return load(path, config)


def load(path: Path, config: PhaseConfig) -> dict[str, Any]:
    """Arrays of the figure from a stored diagram."""
    data = open_phase(path)
    code = outcome(data, config)
    spike = data.spike_step.values
    return {
        "lr_alpha": config.lr_alpha,
        "alpha": config.alpha,
        "code": code,
        # a run that spikes at the start counts as step 1 on the logarithmic scale
        "spike": np.where(code == 3, np.maximum(spike, 1), np.nan),
        "boundaries": phase_boundaries(config),
        "steps": config.steps,
    }


def plot(data: dict[str, Any]) -> Figure:
    """Draw the figure."""
    fig, ax = plt.subplots(figsize=(NARROW * 1.35, 3.4))
    ground = ListedColormap(["#f2f2f2", "#dcdcdc", ORANGE, "#ffffff", "#3a3a3a"])
    axes = (data["lr_alpha"], data["alpha"])
    ax.pcolormesh(*axes, data["code"], cmap=ground, vmin=-0.5, vmax=4.5, shading="nearest", rasterized=True)
    mesh = ax.pcolormesh(
        *axes, data["spike"], cmap="viridis", norm=LogNorm(3, data["steps"]), shading="nearest", rasterized=True
    )
    bar = fig.colorbar(mesh, ax=ax, pad=0.02)
    bar.set_label("step at which the spike begins")
    edge, start = data["boundaries"]["edge"], data["boundaries"]["start"]
    ax.plot(edge, data["alpha"], color="black", lw=1.2, ls=(0, (4, 2)))
    ax.plot(start, data["alpha"], color="white", lw=1.0, ls=(0, (1, 2)))
    ax.set(
        yscale="log",
        xlim=(data["lr_alpha"][0], data["lr_alpha"][-1]),
        ylim=(data["alpha"][0], data["alpha"][-1]),
        xlabel="step size, ηα",
        ylabel="variance of the opposing feature, α",
        title="A spike needs an edge to cross,\nand comes later the stronger the feature",
    )
    ax.annotate(
        "derived: ηα = 2α/S∞", (float(edge[-1]), data["alpha"][0] * 1.3), xytext=(-4, 0),
        textcoords="offset points", fontsize=6.5, color="black", rotation=90, va="bottom", ha="right",
    )  # fmt: skip
    ax.annotate(
        "starts beyond 2/η", (float(start[0]), data["alpha"][0] * 1.3), xytext=(-3, 0), textcoords="offset points",
        fontsize=6.5, color="white", rotation=90, va="bottom", ha="right",
    )  # fmt: skip
    handles = [
        Patch(facecolor="#f2f2f2", edgecolor=GREY, lw=0.5, label="stays below the edge"),
        Patch(facecolor=ORANGE, label=f"crossed, still asleep at {data['steps']:,}"),
        Patch(facecolor="#3a3a3a", label="diverges"),
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.1, columnspacing=1.0, fontsize=6.5)
    return fig
