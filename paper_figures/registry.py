"""Figures by id: what each shows, what it needs, and how it is drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from paper_figures import causality, experiment, orbit_diagram, phase_diagram, theory, toy_valley
from paper_figures.style import figure_style

__all__ = ["FIGURES", "FigureEntry", "draw"]


@dataclass(frozen=True)
class FigureEntry:
    """A figure.

    Args:
        id: Name, also of the file.
        claim: What it shows, one sentence.
        needs: What it is drawn from: "" nothing, "run" a run directory with forecasts, "intervention" a folder of
            ``opposing intervene``.
        compute: Returns the arrays; takes the run directory where one is needed.
        plot: Draws them.
    """

    id: str
    claim: str
    needs: str
    compute: Callable[..., dict[str, Any]]
    plot: Callable[[dict[str, Any]], Figure]


_ENTRIES = (
    FigureEntry(
        "toy_valley",
        "the idea: depth narrows the valley, descent bounces in it, spikes, and settles where it is wide",
        "",
        toy_valley.compute,
        toy_valley.plot,
    ),
    FigureEntry(
        "theory",
        "closed form, flow and descent of the two-layer model agree; the spike comes long after onset",
        "",
        theory.compute,
        theory.plot,
    ),
    FigureEntry(
        "phase_diagram",
        "over step size and opposing variance: where descent settles, crosses the edge, spikes or diverges",
        "",
        phase_diagram.compute,
        phase_diagram.plot,
    ),
    FigureEntry(
        "orbit_diagram",
        "large steps: two-cycle, chaos and escape where derived, and the boundary between catapult and divergence",
        "",
        orbit_diagram.compute,
        orbit_diagram.plot,
    ),
    FigureEntry(
        "experiment",
        "opposing groups, oscillation and spike of a trained network, forecast before they come",
        "run",
        experiment.compute,
        experiment.plot,
    ),
    FigureEntry(
        "groups",
        "contact sheet of the two groups forecast to oscillate against each other",
        "run",
        experiment.compute,
        experiment.plot_contact_sheet,
    ),
    FigureEntry(
        "causality",
        "sharpness, loss and onset without the pair, beside without random and without ill-fitted examples",
        "intervention",
        causality.compute,
        causality.plot,
    ),
    FigureEntry(
        "pair",
        "contact sheet of the pair that an intervention was about",
        "intervention",
        causality.compute_pair,
        experiment.plot_contact_sheet,
    ),
)
FIGURES = {entry.id: entry for entry in _ENTRIES}


def draw(name: str, out: Path, run: Path | None = None, formats: tuple[str, ...] = ("png", "pdf")) -> list[Path]:
    """Compute, draw and save one figure; returns the files.

    Raises:
        ValueError: If there is no figure of that id, or it needs a run and none is given.
    """
    if name not in FIGURES:
        raise ValueError(f"figure must be one of {', '.join(FIGURES)}; got {name!r}")
    entry = FIGURES[name]
    if entry.needs and run is None:
        what = {"run": "a run with forecasts", "intervention": "a folder of `opposing intervene`"}[entry.needs]
        raise ValueError(f"figure {name} needs {what}, got none; pass --run DIR")
    data = entry.compute(run) if entry.needs else entry.compute()
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"{name}.{suffix}" for suffix in formats]
    with figure_style():
        figure = entry.plot(data)
        for file in files:
            partial = file.with_name(f".{file.name}")
            figure.savefig(partial, format=file.suffix[1:])
            partial.replace(file)
        plt.close(figure)
    return files
