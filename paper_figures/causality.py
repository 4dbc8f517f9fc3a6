"""Is the pair the cause: sharpness and loss without it, without random examples, and without the worst fitted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.effects import paired_effect
from nets.config import TrainConfig
from nets.data import images
from nets.files import read_json
from nets.forecasting import record_arrays
from nets.run import Run
from paper_figures.experiment import SHEET, config_title
from paper_figures.style import BLUE, GREY, ORANGE, PAGE_WIDTH, RED

__all__ = ["compute", "compute_pair", "plot"]

ARMS = {"control": (GREY, "-"), "random": (BLUE, "-."), "highest_loss": (ORANGE, "--"), "pair": (RED, "-")}
DONE = {
    "drop": "left out",
    "downweight": "given less weight",
    "rebalance": "rebalanced",
    "relabel": "relabelled",
    "robust": "given a robust loss",
    "blur": "blurred",
    "background": "given the mean background",
    "feature": "deprived of their common feature",
}
NAMES = {"control": "control", "random": "random\nexamples", "highest_loss": "highest\nloss", "pair": "the pair"}


def compute(directory: Path) -> dict[str, Any]:
    """Arrays of the figure from one folder of ``opposing intervene --controls``, or from all that lie within one.

    Of several, those are taken that ask the same question as the first, of the same configuration but for its seed and
    that of its generated data.

    Raises:
        ValueError: If there is none.
    """
    seeds: list[dict[str, Any]] = []
    for path in sorted(Path(directory).rglob("effects.json")):
        result = read_json(path)
        if set(result["runs"]) != set(ARMS):
            continue
        asked = {k: v for k, v in result["question"].items() if k != "parent_config"}
        setting = asked, _without_seeds(Run.open(path.parent / "control").config)
        if not seeds or setting == seeds[0]["setting"]:
            records = {name: record_arrays(Run.open(path.parent / name)) for name in ARMS}
            seeds.append(
                {"setting": setting, "asked": asked, "result": result, "records": records, "path": path.parent}
            )
    if not seeds:
        raise ValueError(
            f"{directory} must hold an intervention with its controls, got none; make one with "
            f"`opposing intervene RUN --into {directory} --controls`"
        )
    config, forecast = Run.open(seeds[0]["path"] / "control").config, _forecast(seeds[0]["path"])
    at = seeds[0]["asked"]["at"]
    rows = [[s["result"]["runs"][name] for s in seeds] for name in ARMS]
    onset = [[r["outcome"]["onset"] for r in row] for row in rows]
    return {
        "seeds": len(seeds),
        "action": seeds[0]["asked"]["action"],
        "share": seeds[0]["asked"]["share"],
        "members": len(forecast["arms"]["pair"]["first"]) + len(forecast["arms"]["pair"]["second"]),
        "critical": seeds[0]["result"]["critical"],
        "steps": config.steps,
        "at": at,
        "first": {name: 0 if name == "control" else at or 0 for name in ARMS},
        "sharpness": {name: [s["records"][name]["sharpness"] for s in seeds] for name in ARMS},
        "loss": {name: [s["records"][name]["loss"] for s in seeds] for name in ARMS},
        "ratio": {n: np.array([r["ratio"] for r in row], dtype=float) for n, row in zip(ARMS, rows, strict=True)},
        "forecast": {n: np.array([r["forecast"]["ratio"] for r in row]) for n, row in zip(ARMS, rows, strict=True)},
        "onset": {n: np.array(row, dtype=float) for n, row in zip(ARMS, onset, strict=True)},
        "title": config_title(config),
    }


def compute_pair(directory: Path) -> dict[str, Any]:
    """Pictures of the pair of one folder of ``opposing intervene``, for `experiment.plot_contact_sheet`."""
    if not (Path(directory) / "forecasts" / "intervention.json").exists():
        raise ValueError(f"{directory} must be one folder of `opposing intervene`, it is none; pass --run FOLDER")
    forecast, run = _forecast(directory), Run.open(Path(directory) / "control")
    arm = forecast["arms"]["pair"]
    groups = {"positive": arm["first"][:SHEET], "negative": arm["second"][:SHEET]}
    return {
        "made": [forecast["made_at_step"]],
        "sheet": {name: images(run.config, rows) for name, rows in groups.items()},
        "labels": {name: run.dataset.targets[rows] for name, rows in groups.items()},
        "class_names": run.dataset.class_names,
        "title": config_title(run.config),
    }


def _without_seeds(config: TrainConfig) -> str:
    """Hash of a configuration but for its seed and that of its generated data."""
    options = tuple(option for option in config.data_options if not option.startswith("seed="))
    return replace(config, seed=0, data_options=options).config_hash


def _forecast(directory: Path) -> dict[str, Any]:
    return read_json(Path(directory) / "forecasts" / "intervention.json")


def plot(data: dict[str, Any]) -> Figure:
    """Draw the figure."""
    fig, axes = plt.subplots(2, 2, figsize=(PAGE_WIDTH, 4.9), width_ratios=(1.5, 1))
    _draw_series(data, axes[0, 0], "sharpness")
    axes[0, 0].axhline(data["critical"], color="black", lw=0.8, ls=":")
    axes[0, 0].annotate("2/η", (0.005, data["critical"]), xycoords=("axes fraction", "data"), va="bottom", fontsize=7)
    axes[0, 0].set(title="a  sharpness", ylabel="largest eigenvalue")
    _draw_series(data, axes[1, 0], "loss")
    axes[1, 0].set(title="b  training loss", ylabel="loss of the arm's own data", xlabel="step")
    axes[1, 0].legend(loc="upper right")
    _draw_ratio(data, axes[0, 1])
    _draw_onset(data, axes[1, 1])
    when = "before training" if data["at"] is None else f"from step {data['at']} on"
    many = data["seeds"] > 1
    who = f"At most {100 * data['share']:g} % of the examples" if many else f"{data['members']} examples"
    seeds = f", {data['seeds']} seeds" if many else ""
    fig.suptitle(f"{who} {DONE[data['action']]} {when} ({data['title']}{seeds})", fontsize=9)
    return fig


def _draw_series(data: dict[str, Any], ax: Axes, name: str) -> None:
    top = 0.0
    for arm, (colour, style) in ARMS.items():
        series, first = data[name][arm], data["first"][arm]
        if len(series) > 1:
            for values in series:
                ax.plot(first + np.arange(len(values)), values, color=colour, lw=0.4, alpha=0.35)
        length = min(map(len, series))
        mean = np.mean([values[:length] for values in series], axis=0)
        ax.plot(first + np.arange(length), mean, color=colour, ls=style, lw=1.5, label=NAMES[arm].replace("\n", " "))
        top = max(top, float(np.nanpercentile(np.concatenate(series), 99.5)))
    ax.set_ylim(0, 1.08 * top)
    ax.set_xlim(0, data["steps"])


def _draw_ratio(data: dict[str, Any], ax: Axes) -> None:
    ax.axhline(1, color=GREY, lw=0.6)
    for k, arm in enumerate(list(ARMS)[1:]):
        values, colour = data["ratio"][arm], ARMS[arm][0]
        places = k + 0.22 * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.array([float(k)])
        ax.plot(places, data["forecast"][arm], "o", ms=4, mfc="none", mec=colour, mew=0.8, alpha=0.7)
        ax.plot(places, values, "o", ms=3.5, color=colour, mew=0)
        if len(values) > 1:
            effect = paired_effect(values, np.ones(len(values)))
            ax.errorbar(k + 0.36, 1 + effect.mean, [[effect.mean - effect.low], [effect.high - effect.mean]],
                        fmt="_", color=colour, capsize=2.5, lw=1.2, ms=7)  # fmt: skip
    ax.plot([], [], "o", ms=3.5, color=GREY, label="measured")
    ax.plot([], [], "o", ms=4, mfc="none", mec=GREY, mew=0.8, label="forecast")
    if data["seeds"] > 1:
        ax.plot([], [], "_", ms=7, color=GREY, label="mean, 95 % interval")
    ax.legend(loc="lower left")
    _name_arms(ax)
    ax.set_ylim(0, 1.15 * max(float(np.nanmax(v)) for v in (*data["ratio"].values(), *data["forecast"].values())))
    ax.set(title="c  sharpness over the control's", ylabel="ratio at the control's onset")


def _draw_onset(data: dict[str, Any], ax: Axes) -> None:
    base = data["onset"]["control"]
    for k, arm in enumerate(list(ARMS)[1:]):
        values, colour = data["onset"][arm], ARMS[arm][0]
        late = np.isnan(values)
        delay = np.where(late, data["steps"], values) - base
        places = k + 0.22 * np.linspace(-1, 1, len(values)) if len(values) > 1 else np.array([float(k)])
        ax.plot(places[~late], delay[~late], "o", ms=3.5, color=colour, mew=0)
        ax.plot(places[late], delay[late], "^", ms=5, color=colour, mew=0)
    ax.axhline(0, color=GREY, lw=0.6)
    ax.plot([], [], "^", ms=5, color=GREY, label="none before the run ends")
    if any(np.isnan(v).any() for v in data["onset"].values()):
        ax.legend(loc="upper left")
    _name_arms(ax)
    ax.set(title="d  onset after the control's", ylabel="steps")


def _name_arms(ax: Axes) -> None:
    names = [NAMES[arm] for arm in list(ARMS)[1:]]
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.5, len(names) - 0.4)
