"""Is the pair the cause? Runs without it against runs without random, or the worst fitted, examples.

Rules. A run of each setting and seed is stopped where its sharpness is at 0.75 of 2/lr. The pair is read off there,
from the projections of the gradients on the top eigenvector, before anything oscillates: the strongest members, at most
5 % of the examples (an arm may ask for less). Then the whole training is repeated from step 0 with the same weights
without them. Controls: as many random examples; as many of the highest loss at that step. Settings, and nothing else,
were chosen on seeds 100 and 101; the seeds reported are 0 to 4. Sharpness is compared at the control's onset, mean of
five steps. An arm that has no onset within the run counts as having it at the end: its delay is then a lower bound.
Intervals: Student's, 95 %, over paired differences.

python benchmarks/causality.py --work DIR            all settings; a folder that holds some of the runs is gone on with
python benchmarks/causality.py --work DIR --only planted
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import row, write

from analysis.detection import detect_in_losses
from analysis.effects import paired_effect
from analysis.opposition import Overlap, overlap
from analysis.oscillation import onset_step
from analysis.projection import example_losses, project_losses
from analysis.verification import example_window
from nets.causality import Question, answer, create_arms, prepare
from nets.config import TrainConfig
from nets.forecasting import record_arrays
from nets.run import Run, create_run

SEEDS = (0, 1, 2, 3, 4)
CIFAR = {"data": "cifar10", "n_examples": 1000, "widths": (50, 50), "loss": "cross_entropy", "eig_tol": 0.05}
PLANTED = ("alpha=100.0", "n_classes=2", "p=0.04", "signal=1.0", "size=8")
SETTINGS: dict[str, dict[str, Any]] = {
    "planted": {"data": "planted", "n_examples": 1000, "widths": (32, 32), "activation": "relu", "lr": 0.1,
                "steps": 400, "eig_tol": 0.02},
    "cifar-relu": {**CIFAR, "activation": "relu", "lr": 0.07, "steps": 220},
    "cifar-tanh": {**CIFAR, "activation": "tanh", "lr": 0.05, "steps": 200},
}  # fmt: skip
#: name -> question; the first gives the control and both controls' arms
QUESTIONS = {
    "drop": Question("drop", by="projections"),
    "rebalance": Question("rebalance", by="projections", controls=False),
    "downweight": Question("downweight", by="projections", controls=False),
    "drop 2 %": Question("drop", by="projections", share=0.02, controls=False),
    "drop 1 %": Question("drop", by="projections", share=0.01, controls=False),
    "background": Question("background", by="projections", controls=False),
    # the direction that the members share, taken out of all inputs; random examples share one too: a control it needs
    "feature": Question("feature", ("everywhere=true",), by="projections"),
}
EXTRA = {
    "planted": tuple(QUESTIONS)[1:],
    "cifar-relu": (),
    "cifar-tanh": ("rebalance", "drop 2 %", "feature"),
}


def one_seed(setting: str, seed: int, work: Path) -> dict[str, dict[str, Any]]:
    """Outcomes of every arm of a setting and a seed, by name; runs that are there are gone on with."""
    options = dict(SETTINGS[setting])
    if setting == "planted":
        options["data_options"] = (*PLANTED, f"seed={seed}")
    folder = work / setting / f"seed_{seed}"
    if not (folder / "parent" / "config.json").exists():
        create_run(folder / "parent", TrainConfig(**options, seed=seed, threads=1))
    parent = Run.open(folder / "parent")
    outcomes: dict[str, dict[str, Any]] = {}
    for name in ("drop", *EXTRA[setting]):
        at = folder / name.replace(" %", "")
        forecast = prepare(parent, QUESTIONS[name], at)
        runs = create_arms(forecast, at)
        if name != "drop":
            runs["control"] = Run.open(folder / "drop" / "control")
        for run in runs.values():
            run.advance()
        rows = answer(forecast, runs, at)["runs"]
        for arm, said_of in forecast["arms"].items():
            rows[arm]["share"] = said_of["sharpness_share"]
        arms = {f"{name} {arm.replace('_', ' ')}": out for arm, out in rows.items() if arm != "control"}
        outcomes |= arms if outcomes else {"control": rows["control"], **arms}
        outcomes["control"].setdefault("members", sum(len(forecast["arms"]["pair"][s]) for s in ("first", "second")))
        if name == "drop":
            outcomes["control"]["agreement"] = agreement(runs["control"], forecast)
        print(f"{setting} seed {seed} {name}: " + ", ".join(said(k, r) for k, r in rows.items()), flush=True)
    return outcomes


def agreement(control: Run, forecast: dict[str, Any]) -> dict[str, float | None]:
    """Overlap of the pair on the top eigenvector, before onset, with the strongest pair of losses after it.

    The losses are those of the 40 steps from the first visible oscillation on (`example_window`).
    """
    record = record_arrays(control)
    onset = onset_step(record["sharpness"], control.config.lr)
    window = None if onset is None else example_window(record, onset)
    nothing = dict.fromkeys((*Overlap._fields, "p of the losses' pair"))
    if window is None or window[0] + 40 > len(record["loss"]):
        return nothing
    module, problem = control.snapshot_module(forecast["made_at_step"]), control.problem
    state = problem.initial_state()
    state.parameters = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    problem.measure(state)
    losses = example_losses(module, problem.loss, problem.inputs, problem.targets)
    weights = project_losses(losses, list(module.parameters()), state.eigenvector).double().numpy()
    pair = detect_in_losses(record["example_loss"][window[0] : window[0] + 40], window[0]).pairs[0]
    found = overlap(weights, pair.weights)._asdict() | {"p of the losses' pair": pair.p_value}
    return {k: v if np.isfinite(v) else None for k, v in found.items()}


def said(name: str, row: dict[str, Any]) -> str:
    """One arm in words."""
    return f"{name} S ratio {row['ratio'] or float('nan'):.2f} onset {row['outcome']['onset']}"


def rows_of(setting: str, seeds: dict[int, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of one setting: every seed's numbers, then effects with intervals."""
    case = f"{setting}, {len(seeds)} seeds"
    rows = []

    def add(metric: str, value: float | None, unit: str, **more: Any) -> None:
        rows.append(row("causality", case, metric, value, unit, packages=("torch", "numpy", "scipy"), **more))

    arms = list(next(iter(seeds.values())))
    steps = SETTINGS[setting]["steps"]

    def over_seeds(metric: str, missing: float = float("nan")) -> dict[str, list[float]]:
        return {a: [missing if (v := o[a]["outcome"][metric]) is None else v for o in seeds.values()] for a in arms}

    compared = (
        ("sharpness over the control's", {a: [o[a]["ratio"] for o in seeds.values()] for a in arms}, "1"),
        ("onset", over_seeds("onset", steps), "step"),
        ("largest rise of the loss", over_seeds("spike"), "loss"),
        ("accuracy on examples held out", over_seeds("held_out_accuracy"), "1"),
    )
    for seed, outcomes in seeds.items():
        for arm, out in outcomes.items():
            for metric, unit in (("sharpness", "1"), ("onset", "step"), ("spike", "loss"), ("held_out_accuracy", "1")):
                add(f"seed {seed}, {arm}: {metric}", out["outcome"][metric], unit)
            add(f"seed {seed}, {arm}: forecast ratio of sharpness", out["forecast"]["ratio"], "1",
                baseline="measured ratio", baseline_value=out["ratio"])  # fmt: skip
            add(f"seed {seed}, {arm}: share of the sharpness carried", out.get("share"), "1")
    named = [a for a in arms if a != "control"]
    errors = {
        "ratio of sharpness, forecast before training: mean error": [
            (abs(o[a]["forecast"]["ratio"] - o[a]["ratio"]), abs(1 - o[a]["ratio"]))
            for o in seeds.values()
            for a in named
        ],
        "onset, forecast before training: mean error over the measured": [
            (abs(o[a]["forecast"]["onset"] / seen - 1), abs(o["control"]["forecast"]["onset"] / seen - 1))
            for o in seeds.values()
            for a in named
            if (seen := o[a]["outcome"]["onset"]) and o[a]["forecast"]["onset"] and o["control"]["forecast"]["onset"]
        ],
    }
    for metric, pairs in errors.items():
        mean, base = np.mean(pairs, axis=0)
        add(metric, float(mean), "1", baseline="no effect", baseline_value=float(base))
    for seed, outcomes in seeds.items():
        for metric, value in outcomes["control"]["agreement"].items():
            add(f"seed {seed}, detection by losses and by projections: {metric}", value, "1")
    add("members of the pair, most", max(o["control"]["members"] for o in seeds.values()), "1")
    for arm in arms[1:]:
        own = [f"{arm.removesuffix(' pair')} {name}" for name in ("random", "highest loss")] if "pair" in arm else []
        for other in ("control", *(name for name in own if name in arms)):
            for metric, values, unit in compared:
                effect = paired_effect(values[arm], values[other])
                for name in ("mean", "low", "high", "size"):
                    value = getattr(effect, name)
                    value = value if abs(value) != float("inf") else None
                    add(f"{arm} minus {other}, {metric}: {name}", value, "1" if name == "size" else unit)
        late = sum(o[arm]["outcome"]["onset"] is None for o in seeds.values())
        add(f"{arm}: runs without onset within {steps} steps", late, "1")
    return rows


def main() -> None:
    """Run all settings, then write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder that keeps the runs; default: a temporary one")
    parser.add_argument("--only", choices=tuple(SETTINGS), help="run this setting only and write no rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work, rows = args.work or Path(scratch), []
        for setting in [args.only] if args.only else SETTINGS:
            if setting != "planted" and "OPPOSING_DATA" not in os.environ:
                print(f"{setting} needs OPPOSING_DATA, the folder that holds cifar10/: left out")
                continue
            made = rows_of(setting, {seed: one_seed(setting, seed, work) for seed in args.seeds})
            rows += made
            if not args.only:
                write("causality", made, part=made[0]["case"])
    for line in rows:
        if ": mean" in line["metric"] or "without onset" in line["metric"]:
            print(f"{line['case']:<28}{line['metric']:<80}{line['value']:.3g}")


if __name__ == "__main__":
    main()
