"""The idea in one picture: a valley that narrows as training goes along it, and descent that starts to bounce in it."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from paper_figures.style import BLUE, GREEN, GREY, PAGE_WIDTH, PURPLE, RED
from toymodels.valley import across_curvature, valley_path, valley_surface

__all__ = ["compute", "plot"]

BETA, ALPHA, LR, DEPTH = 1.0, 16.0, 0.17, 2
START = (0.6, 0.4)  # along the floor, across it
STEPS = 40
DEPTHS = (1, 2, 3, 4)
PHASES = (
    (BLUE, "the valley is wide enough: down to the floor and along it"),
    (RED, "too narrow: from wall to wall, each bounce wider than the last"),
    (GREEN, "thrown back to where it is wide: it settles again"),
)
CUTS = (0.5, 0.9, 1.3)  # along the floor


def compute() -> dict[str, Any]:
    """Arrays of the figure, all from the generated model."""
    z, x = np.linspace(0.4, 1.5, 240), np.linspace(-0.76, 0.54, 261)
    surface = valley_surface(z, x, BETA, ALPHA, DEPTH)
    path = valley_path(*START, BETA, ALPHA, DEPTH, LR, STEPS)
    share = np.linspace(0, 1, 101)
    curvature = path.stability.values / LR
    steep = curvature > 2 / LR
    first = int(np.argmax(steep))
    last = first + int(np.argmax(~steep[first:]))
    return {
        "z": z,
        "x": x,
        "loss": surface.loss.values,
        "cuts": CUTS,
        "walls": valley_surface(CUTS, x, BETA, ALPHA, DEPTH).pipe(lambda d: (d.loss - d.floor_loss).values),
        "path_z": path.z.values,
        "path_x": path.x.values,
        "path_loss": path.loss.values,
        "path_curvature": curvature,
        # before, within and after the stretch that is too narrow for the step
        "phase": np.digitize(np.arange(len(steep)), [first, last]),
        "limit": float(np.interp(2 / LR, surface.across_curvature, z)),
        "share": share,
        "curvature": {d: across_curvature(share, BETA, ALPHA, d) for d in DEPTHS},
        "edge": 2 / LR,
    }


def plot(data: dict[str, Any]) -> Figure:
    """Draw the figure."""
    fig = plt.figure(figsize=(PAGE_WIDTH, 5.4))
    grid = fig.add_gridspec(2, 3, height_ratios=(1.45, 1))
    _valley(fig.add_subplot(grid[0, :]), data)
    _cuts(fig.add_subplot(grid[1, 0]), data)
    _depths(fig.add_subplot(grid[1, 1]), data)
    _loss(fig.add_subplot(grid[1, 2]), data)
    return fig


def _valley(ax: Any, data: dict[str, Any]) -> None:
    levels = np.geomspace(2e-3, float(data["loss"].max()), 18)
    height = np.log(np.maximum(data["loss"], levels[0]))
    ax.contourf(data["z"], data["x"], height, np.log(levels), cmap="Greys", alpha=0.4, extend="min")
    ax.axvline(data["limit"], color=RED, lw=0.9, ls="--")
    ax.text(data["limit"] + 0.01, -0.73, "too narrow for\nthis step size", color=RED, fontsize=7, va="bottom")
    points = np.stack([data["path_z"], data["path_x"]], -1)
    lines = LineCollection(np.stack([points[:-1], points[1:]], 1).tolist(), colors="black", linewidths=0.7)
    ax.add_collection(lines)
    for phase, (colour, text) in enumerate(PHASES):
        ax.plot(*points[data["phase"] == phase].T, "o", color=colour, ms=3.8, label=text)
    ax.text(points[0, 0] + 0.012, points[0, 1] + 0.03, "start", fontsize=7.5)
    ax.set(
        title="a  Seen from above: the valley narrows, and descent begins to bounce between its walls",
        xlabel="position along the valley floor: what has been learned  →",
        ylabel="position across",
        xlim=(data["z"][0], data["z"][-1]),
        ylim=(data["x"][0], data["x"][-1]),
    )
    ax.legend(
        loc="lower left",
        frameon=True,
        framealpha=0.85,
        edgecolor="none",
        title="each dot is a step; darker ground, higher loss",
        title_fontsize=7,
    )


def _cuts(ax: Any, data: dict[str, Any]) -> None:
    for name, wall, style in zip(("early", "midway", "late"), data["walls"].T, (":", "--", "-"), strict=True):
        ax.plot(data["x"], wall, color="black", ls=style, lw=1.2, label=name)
    ax.set(
        title="b  Cut across: steeper later", xlabel="position across", ylabel="loss above the floor", ylim=(0, 1.25)
    )
    ax.set_xlim(-0.54, 0.54)
    ax.legend(loc="upper center")


def _depths(ax: Any, data: dict[str, Any]) -> None:
    colours = (GREY, BLUE, GREEN, PURPLE)
    for (depth, values), colour, style in zip(data["curvature"].items(), colours, (":", "-", "--", "-."), strict=True):
        label = "1 layer" if depth == 1 else f"{depth} layers"
        ax.plot(100 * data["share"], values, color=colour, ls=style, label=label)
    ax.axhline(data["edge"], color=RED, lw=0.9, ls="--")
    ax.text(3, data["edge"] + 0.3, "too steep for the step", color=RED, fontsize=7, va="bottom")
    ax.set(
        title="c  Only depth steepens it", xlabel="signal learned (%)", ylabel="steepness of the walls", ylim=(0, 18)
    )
    ax.legend(loc="lower right", labelspacing=0.25)


def _loss(ax: Any, data: dict[str, Any]) -> None:
    steps = np.arange(len(data["path_loss"]))
    ax.plot(steps, data["path_loss"], color="black", lw=0.7)
    for phase, (colour, _) in enumerate(PHASES):
        here = data["phase"] == phase
        ax.plot(steps[here], data["path_loss"][here], "o", color=colour, ms=2.4)
    ax.set(title="d  The loss spikes", xlabel="step", ylabel="loss", yscale="log")
