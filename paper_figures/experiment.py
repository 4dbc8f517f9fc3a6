"""A trained network: loss, sharpness at 2/η, the two opposing groups, and the forecasts beside the outcome."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.oscillation import demodulated_change, first_spike, onset_step
from analysis.prediction import APPROACH, read_forecast
from analysis.reduced_map import iterate_reduced_map
from analysis.scoring import precision_at, rank_correlation
from analysis.verification import example_window
from nets.data import images
from nets.forecasting import record_arrays
from nets.forecasts import forecast_rows
from nets.run import Run
from paper_figures.style import BLUE, GREEN, GREY, ORANGE, PAGE_WIDTH, RED

__all__ = ["SHEET", "compute", "config_title", "plot", "plot_contact_sheet"]

NAMES = {
    "digits": "digits",
    "cifar10": "CIFAR-10",
    "relu": "ReLU",
    "tanh": "tanh",
    "squared": "squared loss",
    "cross_entropy": "cross-entropy",
}
MEMBERS = 20  # examples averaged in a group's loss
SHEET = 12  # pictures of a group in the contact sheet


def compute(directory: Path) -> dict[str, Any]:
    """Arrays of the figure from a run with registered forecasts.

    Raises:
        ValueError: If the run has no forecast made before onset, or no oscillation after it.
    """
    run = Run.open(directory)
    record = record_arrays(run)
    lr = run.config.lr
    rows = sorted(forecast_rows(directory), key=lambda r: r["at_step"])
    forecasts = [read_forecast(Path(directory) / "forecasts" / row["file"]) for row in rows]
    onset = onset_step(record["sharpness"], lr)
    window = None if onset is None else example_window(record, onset)
    if not forecasts or window is None or onset is None:
        raise ValueError(
            f"{directory} must hold a forecast and an oscillation after it, got {len(forecasts)} forecasts and onset "
            f"{onset}; forecast the run before onset and train it to its end"
        )
    first = forecasts[0]
    s = np.array(first["examples"]["projection"])
    change = demodulated_change(record["example_loss"], *window)
    change = change * np.sign(np.sum(s * change))  # one sign common to all is not forecast
    order = np.argsort(s, kind="stable")
    groups = {"positive": order[::-1][:MEMBERS], "negative": order[:MEMBERS]}
    spike = first_spike(record["oscillation"], record["sharpness"], record["loss"], onset)
    data: dict[str, Any] = {
        "lr": lr,
        "record": record,
        "onset": onset,
        "made": [f["made_at_step"] for f in forecasts],
        "window": window,
        "spike": None if spike is None else spike.peak,
        "projection": s,
        "change": change,
        "rank_correlation": rank_correlation(s, change),
        "precision": precision_at(first["examples"]["k"], s, change),
        "k": first["examples"]["k"],
        "group_loss": {n: record["example_loss"][:, g].mean(axis=1) for n, g in groups.items()},
        "sheet": {n: images(run.config, [int(i) for i in g[:SHEET]]) for n, g in groups.items()},
        "labels": {n: run.dataset.targets[g[:SHEET]] for n, g in groups.items()},
        "class_names": run.dataset.class_names,
        "title": config_title(run.config),
        "path": None,
    }
    if "spike" in forecasts[-1]:
        out = forecasts[-1]
        c = out["spike"]["coefficients"]
        path = iterate_reduced_map(c["amplitude"], c["excess"], lr, c["progressive"], c["restoring"], 2000)
        data["path"] = (out["made_at_step"] + np.arange(path.amplitude.size), path.amplitude)
        data["forecast_spike"] = out["spike"]["peak_step"]
    return data


def config_title(config: Any) -> str:
    """Data, model and loss of a run in words."""
    model = f"{NAMES[config.activation]} MLP" if config.model == "mlp" else config.model
    return f"{NAMES.get(config.data, config.data)}, {model}, {NAMES[config.loss]}"


def plot(data: dict[str, Any]) -> Figure:
    """Draw the figure."""
    fig, axes = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 4.3))
    _draw_loss(data, axes[0, 0])
    _draw_sharpness(data, axes[0, 1])
    _draw_amplitude(data, axes[0, 2])
    _draw_groups(data, axes[1, 0])
    _draw_pair(data, axes[1, 1])
    _draw_examples(data, axes[1, 2])
    fig.suptitle(f"Opposing signals, forecast before they oscillate ({data['title']}, lr {data['lr']:g})", fontsize=9)
    return fig


def _mark(data: dict[str, Any], ax: Axes) -> None:
    ax.axvline(data["onset"], color=GREY, lw=0.8, ls=":")
    ax.set_xlabel("step")


def _draw_loss(data: dict[str, Any], ax: Axes) -> None:
    ax.plot(data["record"]["loss"], color=BLUE)
    ax.set_ylim(0, None)
    _mark(data, ax)
    ax.text(data["onset"], 0.99, " onset", color=GREY, fontsize=7, transform=ax.get_xaxis_transform(), va="top")
    ax.set(title="a  training loss", ylabel="loss")


def _draw_sharpness(data: dict[str, Any], ax: Axes) -> None:
    s, edge = data["record"]["sharpness"], 2 / data["lr"]
    ax.plot(s, color=BLUE)
    ax.axhline(edge, color=RED, lw=0.9, ls="--")
    ax.text(0, edge, "2/η", color=RED, va="bottom", fontsize=7)
    ax.set_ylim(0, min(float(np.nanmax(s)), 2.2 * edge) * 1.08)
    for step in data["made"]:
        ax.plot(step, s[step], "o", ms=4.5, mfc="white", mec=ORANGE, mew=1.3)
    ax.plot([], [], "o", ms=4.5, mfc="white", mec=ORANGE, mew=1.3, ls="none", label="forecast made")
    ax.legend(loc="lower right")
    _mark(data, ax)
    ax.set(title="b  sharpness rises to 2/η", ylabel="largest eigenvalue")


def _draw_amplitude(data: dict[str, Any], ax: Axes) -> None:
    x = np.abs(data["record"]["oscillation"])
    ax.semilogy(x, color=BLUE, lw=0.9, label="measured |x|")
    if data["path"] is not None:
        ax.semilogy(*data["path"], color=ORANGE, ls="--", label="forecast at onset")
        if data["forecast_spike"] is not None:
            ax.axvline(data["forecast_spike"], color=ORANGE, lw=0.8, ls="--")
    _mark(data, ax)
    ax.set_ylim(max(np.nanmin(x[x > 0]), 1e-12) / 3, np.nanmax(x) * 1e4)
    ax.legend(loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=1.0)
    ax.set(title="c  oscillation, spike", ylabel="|x| along eigenvector v")


def _span(data: dict[str, Any]) -> slice:
    end = data["spike"] if data["spike"] is not None else data["window"][1]
    start = min(data["onset"], data["window"][0]) - 10
    return slice(max(start, 0), min(end + 30, len(data["record"]["loss"])))


def _lines(data: dict[str, Any], ax: Axes, span: slice, marker: str | None = None) -> None:
    steps = np.arange(len(data["record"]["loss"]))[span]
    names = (("positive", BLUE, "-"), ("negative", RED, "--"))
    for name, colour, style in names:
        ax.plot(steps, data["group_loss"][name][span], color=colour, ls=style, lw=1, marker=marker, ms=2.5, label=name)
    ax.set_xlabel("step")


def _draw_groups(data: dict[str, Any], ax: Axes) -> None:
    _lines(data, ax, _span(data))
    ax.axvline(data["onset"], color=GREY, lw=0.8, ls=":")
    ax.legend(title=f"forecast group ({MEMBERS} examples)", title_fontsize=7, loc="upper left")
    top = max(float(np.nanmax(v[_span(data)])) for v in data["group_loss"].values())
    ax.set_ylim(0, 1.65 * top)
    ax.set(title="d  the pair's losses part", ylabel="mean loss of the group")


def _draw_pair(data: dict[str, Any], ax: Axes) -> None:
    start, stop = data["window"]
    _lines(data, ax, slice(start, stop + 1), marker="o")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    ax.set_xlabel("step (the compared window)")
    ax.set(title="e  they alternate each step", ylabel="mean loss of the group")


def _draw_examples(data: dict[str, Any], ax: Axes) -> None:
    ax.axhline(0, color=GREY, lw=0.5)
    ax.axvline(0, color=GREY, lw=0.5)
    ax.plot(data["projection"], data["change"], ".", ms=2.5, color=GREEN, alpha=0.6, mew=0)
    text = f"rank corr. {data['rank_correlation']:.2f}\nprecision@{data['k']} {data['precision']:.2f}"
    ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=7)
    first = data["made"][0]
    ax.set(
        title="f  all examples, forecast",
        xlabel=f"∇ℓᵢ·v at step {first} ({APPROACH:g} of 2/η)",
        ylabel="alternation of ℓᵢ",
    )


def plot_contact_sheet(data: dict[str, Any]) -> Figure:
    """The strongest examples of both forecast groups, with their classes."""
    columns = SHEET // 2
    fig = plt.figure(figsize=(PAGE_WIDTH, 5.6))
    halves: Any = fig.subfigures(2, 1, hspace=0.03)
    for half, name, colour in zip(halves, ("positive", "negative"), (BLUE, RED), strict=True):
        half.suptitle(f"{name} group", fontsize=8.5, fontweight="bold", color=colour)
        pictures, labels = data["sheet"][name], data["labels"][name]
        for i, ax in enumerate(half.subplots(2, columns).ravel()):
            ax.set_axis_off()
            if i < len(pictures):
                ax.imshow(pictures[i], cmap="gray_r" if pictures[i].ndim == 2 else None, vmin=0, vmax=255)
                label = data["class_names"][int(labels[i])]
                ax.set_title(label, loc="center", fontsize=7, fontweight="normal", pad=2)
    title = f"The two groups forecast at step {data['made'][0]} to oscillate against each other ({data['title']})"
    fig.suptitle(title, fontsize=9)
    return fig
