"""Large steps: the orbit diagram and its Lyapunov exponent, and the boundary between catapult and divergence."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from paper_figures.style import BLUE, GREEN, GREY, PAGE_WIDTH, RED
from toymodels.basins import OUTCOMES, basin
from toymodels.gd_dynamics import BALANCED_LANDMARKS, balanced_cycle, boundary_level, catapult_level
from toymodels.orbits import balanced_line, lyapunov_exponents, orbit_diagram
from toymodels.symbolic import two_layer

__all__ = ["compute", "plot"]

BETA = 1.0
START = {"c": 0.7, "b_par": 0.7, "b_perp": 0.0, "u": 0.0}
PLANE_LR = 0.9  # of the plane (c, b_par)
OPPOSING_LR, OPPOSING_ALPHA = 0.05, 20.0  # of the plane (c, u)


def compute(columns: int = 700, samples: int = 160, pixels: int = 160) -> dict[str, Any]:
    """Arrays of the figure.

    Args:
        columns: Step sizes of the diagram.
        samples: Points of the attractor for each.
        pixels: Starts along either side of a plane; even, so that none lies on an axis, where nothing catapults.
    """
    g = np.linspace(0.35, 2.0, columns)
    lr = xr.DataArray(g / BETA, dims="g")
    parameters = {"beta": BETA, "alpha": 0.5}
    diagram = orbit_diagram(two_layer(), lr, start=START, parameters=parameters, samples=samples)
    # on the line itself: the plane's other direction has exponents of its own, and minima a neutral one
    exponent = lyapunov_exponents(
        balanced_line(), lr, start={"x": START["c"]}, parameters={"beta": BETA}, steps=4000, transient=2000
    )
    fine = np.linspace(1, np.sqrt(5) - 1, 200)
    c = xr.DataArray(np.linspace(-2.9, 2.9, pixels), dims="c")
    b = xr.DataArray(np.linspace(-2.9, 2.9, pixels), dims="b_par")
    u = xr.DataArray(np.linspace(-2.6, 2.6, pixels), dims="u")
    plane = basin(
        two_layer(), PLANE_LR, start={"c": c, "b_par": b, "b_perp": 0.0, "u": 0.0}, parameters=parameters, steps=1000
    )
    across = basin(
        two_layer(),
        OPPOSING_LR,
        start={"c": c * 2.6 / 2.9, "b_par": 0.0, "b_perp": 0.0, "u": u},
        parameters={"beta": BETA, "alpha": OPPOSING_ALPHA},
        steps=30_000,  # starts near c = b = 0 with large u leave that saddle slowly
    )
    return {
        "g": g,
        "samples": diagram.c.transpose("sample", "g").values,
        "exponent": exponent.exponent.values[:, 0],
        "landmarks": BALANCED_LANDMARKS,
        "cycle_g": fine,
        "cycle": balanced_cycle(fine / BETA, BETA, 0.5)[0].c,
        "escape": np.sqrt((2 + g) / (g / BETA)),
        "c": c.values,
        "b_par": b.values,
        "u": u.values,
        "plane": plane.outcome.transpose("b_par", "c").values,
        "level": boundary_level(c.values, b.values[:, None], 0.0, PLANE_LR, BETA),
        "across": across.outcome.transpose("u", "c").values,
        "across_c": c.values * 2.6 / 2.9,
        "circle": catapult_level(c.values * 2.6 / 2.9, u.values[:, None], OPPOSING_LR, OPPOSING_ALPHA),
    }


COLOURS = {"bounded": GREY, "converged": "#FFFFFF", "catapulted": "#9CCBE8", "diverged": "#F3CFA0"}
CMAP = ListedColormap([COLOURS[name] for name in OUTCOMES])


def plot(data: dict[str, Any]) -> Figure:
    """Draw the figure."""
    fig = plt.figure(figsize=(PAGE_WIDTH, 6.6))
    grid = fig.add_gridspec(3, 2, height_ratios=(1.5, 0.8, 2.1))
    top, middle = fig.add_subplot(grid[0, :]), fig.add_subplot(grid[1, :])
    middle.sharex(top)
    _diagram(top, middle, data)
    left, right = fig.add_subplot(grid[2, 0]), fig.add_subplot(grid[2, 1])
    _planes(left, right, data)
    return fig


def _diagram(top: Any, middle: Any, data: dict[str, Any]) -> None:
    x = np.broadcast_to(data["g"], data["samples"].shape)
    top.plot(x.ravel(), data["samples"].ravel(), ",", color="black", alpha=0.25, rasterized=True)
    top.plot(data["cycle_g"], data["cycle"].T, color=BLUE, lw=2.2, alpha=0.7)
    for sign in (1, -1):
        top.plot(data["g"], sign * data["escape"], color=RED, lw=1, ls="--")
    top.set(title="a  larger steps: rest, then two-cycle, chaos, escape", ylabel="weights c = b∥")
    top.set_ylim(-2.35, 2.35)
    top.text(0.98, 2.0, "beyond: divergence", color=RED, fontsize=7, ha="right")
    middle.plot(data["g"], data["exponent"], color="black", lw=0.6)
    middle.axhline(0, color=GREY, lw=0.7)
    middle.plot(2, np.log(3), "o", color=RED, ms=4, clip_on=False)
    middle.text(1.995, 0.3, "log 3", color=RED, fontsize=7, ha="right", va="center")
    middle.set(title="b  the Lyapunov exponent ends at log 3", xlabel="step size η‖β‖", ylabel="1/step", ylim=(-3, 1.3))
    middle.set_xlim(data["g"][0], data["g"][-1])
    top.tick_params(labelbottom=False)
    names = {
        "flip to the two-cycle": "1: two-cycle",
        "flip to the four-cycle": "√5−1: four-cycle",
        "both signs merge": "3√3/2−1: signs merge",
    }
    for key, text in names.items():
        for ax in (top, middle):
            ax.axvline(data["landmarks"][key], color=GREEN, lw=0.9, ls=":")
        top.text(data["landmarks"][key] + 0.008, -2.2, text, color=GREEN, fontsize=7, va="bottom")


def _planes(left: Any, right: Any, data: dict[str, Any]) -> None:
    for ax, values, x, y in (
        (left, data["plane"], data["c"], data["b_par"]),
        (right, data["across"], data["across_c"], data["u"]),
    ):
        ax.pcolormesh(x, y, values, cmap=CMAP, vmin=-0.5, vmax=3.5, shading="nearest", rasterized=True)
        ax.set_aspect("equal")
    left.contour(data["c"], data["b_par"], data["level"], [4.0], colors=RED, linewidths=1.2, linestyles="--")
    for sign in (1, -1):
        c = sign * np.linspace(BETA / data["b_par"][-1], data["c"][-1], 200)
        left.plot(c, BETA / c, color=GREEN, lw=1.2)
    left.set(title="c  no start inside the ellipse diverges", xlabel="c at the start", ylabel="b∥ at the start")
    right.contour(data["across_c"], data["u"], data["circle"], [4.0], colors=RED, linewidths=1.2, linestyles="--")
    right.set(title="d  opposing weight: the same, a circle", xlabel="c at the start", ylabel="u at the start")
    left.text(-2.75, 2.6, f"η‖β‖ = {PLANE_LR:g}, u = 0", fontsize=7, va="top", color="black")
    right.text(-2.47, 2.33, f"η‖β‖ = {OPPOSING_LR:g}, α = {OPPOSING_ALPHA:g}, b∥ = 0", fontsize=7, va="top")
    right.text(0, -2.45, "circle: exact as β → 0", fontsize=7, ha="center")
    handles = [
        Patch(facecolor=COLOURS["converged"], edgecolor=GREY, label="converges"),
        Patch(facecolor=COLOURS["catapulted"], label="catapults, then converges"),
        Patch(facecolor=COLOURS["diverged"], label="diverges"),
        Line2D([], [], color=RED, ls="--", label="boundary, derived"),
        Line2D([], [], color=GREEN, label="minima"),
    ]
    left.figure.legend(handles=handles, loc="outside lower center", ncols=5, columnspacing=1.2, handlelength=1.6)
