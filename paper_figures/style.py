"""One style for all figures: readable in print and in greyscale, colour-blind-safe (Okabe & Ito 2008)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PAGE_WIDTH", "PURPLE", "RED", "STYLE", "figure_style"]

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#6F6F6F"
PAGE_WIDTH = 7.0  # inches

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "savefig.dpi": 200,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the project's style, whatever the caller's settings."""
    with plt.rc_context(STYLE):
        yield
