"""Forecasts of the onset from 0.5 ... 0.9 of the critical sharpness, every method on the same runs, scored.

Rules. 200 of the 8x8 digits (for cross-entropy with 40 % of the labels redrawn: without, the sharpness falls), MLP
64-32-32-10, gradient descent, ``CASES``, sharpness of every step. A run ends at its onset or after ``STEPS`` steps. A
forecast gets the record and the weights up to its moment, the first step at the given share, and looks ahead to step
``STEPS``; a run without an onset counts as "not reached" there. Errors and CRPS are shares of the true lead (of the
steps looked ahead where there was no onset); the error of the median is over runs with an onset. Skill: of the mean
CRPS, against the baseline that was best on these very runs, which favours the baseline. Constants of the methods were
chosen on seeds from 100 on, with ``--seeds 100 101 --dry``; the table is of seeds 0, 1, 2, 3.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from rows import row, write

from analysis import onset as forecasting
from analysis.curvature import CurvatureTracker, LossCurvature
from analysis.oscillation import onset_step
from analysis.probability_scores import alarm_rates, auroc, coverage, quantile_crps, skill
from nets.architectures import mlp
from nets.config import TrainConfig
from nets.data import load_data
from nets.losses import per_example_loss

STEPS = 400
SHARES = (0.5, 0.65, 0.75, 0.9)
ALARM = 30  # steps: an alarm is a median at most so far ahead
CASES = {
    ("tanh", "squared"): (0.4, 0.5),
    ("relu", "squared"): (0.35, 0.45),
    ("tanh", "cross_entropy"): (0.4, 0.6),
    ("relu", "cross_entropy"): (0.3, 0.5),
}
BASELINES: tuple[forecasting.OnsetMethod, ...] = (
    forecasting.Persistence(),
    forecasting.Line(),
    forecasting.Parabola(),
    forecasting.DampedLine(),
)
METHODS: tuple[forecasting.OnsetMethod, ...] = (*BASELINES, forecasting.Logistic(), forecasting.Rehearsal())
PACKAGES = ("torch", "numpy", "scipy")


@dataclass
class Recorded:
    """One run: its record, the weights of every step, its onset."""

    name: str
    lr: float
    operator: LossCurvature
    sharpness: list[float] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)
    vectors: list[torch.Tensor] = field(default_factory=list)

    @property
    def onset(self) -> int | None:
        """Its step."""
        return onset_step(self.sharpness, self.lr)

    def point(self, share: float) -> forecasting.OnsetPoint | None:
        """The run as it is known when it first has the share of the critical sharpness; None: it never has."""
        critical = 2 / self.lr
        step = onset_step(self.sharpness, self.lr, share)
        if step is None or self.sharpness[step] >= critical:
            return None
        kept = dict(enumerate(self.weights))
        return forecasting.OnsetPoint.at(
            step, np.array(self.sharpness), critical, self.lr, self.operator, kept, self.vectors[step]
        )


def train(activation: str, loss: str, lr: float, seed: int) -> Recorded:
    """Gradient descent to the onset."""
    noise = ("label_noise=0.4",) if loss == "cross_entropy" else ()
    data = load_data(TrainConfig(n_examples=200, data_options=noise))
    net = mlp(64, (32, 32), 10, activation=activation, seed=seed, dtype=torch.float32)
    operator = LossCurvature(net, per_example_loss(loss), *data.tensors(torch.float32))
    run = Recorded(f"{activation}, {loss}, lr {lr:g}, seed {seed}", lr, operator)
    tracker, theta = CurvatureTracker(1, tol=1e-3), operator.point()
    for _ in range(STEPS):
        _, gradient, product = operator.linearise(theta)
        found = tracker.measure(product, torch.zeros_like(theta))
        run.sharpness.append(found.top)
        run.weights.append(theta)
        run.vectors.append(found.vectors[0])
        if run.onset is not None:
            break
        theta = theta - lr * gradient
    return run


@dataclass(frozen=True)
class Case:
    """A forecast and what came."""

    run: str
    share: float
    forecast: forecasting.StepForecast
    onset: int | None

    @property
    def outcome(self) -> int:
        """The onset, or the end of the horizon."""
        return STEPS if self.onset is None else self.onset

    @property
    def error(self) -> float:
        """Of the median, as a share of the lead; "not reached" counts as the end of the horizon."""
        middle = self.forecast.censored[len(forecasting.LEVELS) // 2]
        return abs(middle - self.outcome) / (self.outcome - self.forecast.made_at)

    @property
    def crps(self) -> float:
        """As a share of the lead."""
        value = quantile_crps(forecasting.LEVELS, self.forecast.censored, self.outcome)
        return float(value) / (self.outcome - self.forecast.made_at)


def forecasts(run: Recorded, methods: Sequence[forecasting.OnsetMethod] = METHODS) -> dict[str, list[Case]]:
    """Every method from every share."""
    found: dict[str, list[Case]] = {m.name: [] for m in methods}
    for share in SHARES:
        point = run.point(share)
        if point is None or point.step >= STEPS - 1:
            continue
        for method in methods:
            forecast = method.forecast(point, STEPS - point.step)
            found[method.name].append(Case(run.name, share, forecast, run.onset))
    return found


def covered(cases: list[Case], level: float):
    """Rate of outcomes inside; an end beyond the horizon holds "not reached"."""
    low, high = np.array([c.forecast.interval(level) for c in cases]).T
    outcome = [np.inf if c.onset is None else c.onset for c in cases]
    return coverage(low, high, outcome)


def entry(case: str, metric: str, value: float | None, unit: str = "1", **options):
    """A row; NaN is null."""
    value = None if value is None or not np.isfinite(value) else float(value)
    return row("onset", case, metric, value, unit, packages=PACKAGES, **options)


def scores(cases: dict[str, list[Case]], label: str) -> list[dict]:
    """Rows of all methods at one lead."""
    means = {name: float(np.mean([c.crps for c in found])) for name, found in cases.items()}
    best = min((m.name for m in BASELINES if m.name in means), key=lambda name: means[name])
    rows = []
    print(f"\n{label}: {len(cases[best])} runs, best baseline {best}")
    for name, found in cases.items():
        case = f"{label}, {name}"
        reached = [c for c in found if c.onset is not None]
        error = float(np.median([c.error for c in reached])) if reached else float("nan")
        gain = skill([c.crps for c in found], [c.crps for c in cases[best]])
        half, most = covered(found, 0.5), covered(found, 0.9)
        cost = float(np.median([c.forecast.gradients for c in found]))
        ahead = float(np.median([c.outcome - c.forecast.made_at for c in found]))
        rows += [
            entry(case, "runs", len(found)),
            entry(case, "runs with an onset", len(reached)),
            entry(
                case,
                "lead, or steps looked ahead without an onset, median",
                ahead,
                "steps",
            ),
            entry(case, "error of the median as share of the lead, median", error),
            entry(case, "CRPS as share of the lead, mean", means[name], baseline=best, baseline_value=means[best]),
            entry(case, f"skill against {best}", gain.value),
            entry(case, f"skill against {best}, 95 % from", gain.low),
            entry(case, f"skill against {best}, 95 % to", gain.high),
            entry(case, "cost", cost, "gradients"),
        ]
        for word, rate in (("50 %", half), ("90 %", most)):
            rows += [
                entry(case, f"coverage of {word} intervals", rate.value),
                entry(case, f"coverage of {word} intervals, 95 % from", rate.low),
                entry(case, f"coverage of {word} intervals, 95 % to", rate.high),
            ]
        print(
            f"  {name:<14} error {error:6.3f}  CRPS {means[name]:6.3f}  skill {gain.value:6.2f} "
            f"({gain.low:.2f} to {gain.high:.2f})  covers {half.value:.2f} {most.value:.2f}  gradients {cost:.0f}"
        )
    return rows


def decisions(cases: dict[str, list[Case]], label: str) -> list[dict]:
    """Rows of alarms, and of telling runs without an onset, over all leads."""
    rows = []
    print(f"\n{label}: onset within {ALARM} steps; no onset at all")
    for name, found in cases.items():
        near = np.array([c.onset is not None and c.onset - c.forecast.made_at <= ALARM for c in found])
        medians = [c.forecast.median for c in found]
        alarm = np.array(
            [m is not None and m - c.forecast.made_at <= ALARM for m, c in zip(medians, found, strict=True)]
        )
        hit, false = alarm_rates(alarm, near)
        area = auroc([c.forecast.never for c in found], np.array([c.onset is None for c in found]))
        rows += [
            entry(f"{label}, {name}", f"hit rate, onset within {ALARM} steps", hit.value),
            entry(f"{label}, {name}", f"false-alarm rate, onset within {ALARM} steps", false.value),
            entry(f"{label}, {name}", "AUROC of the probability that there is no onset", area),
        ]
        print(f"  {name:<14} hits {hit.value:.2f} of {hit.n}  false {false.value:.2f} of {false.n}  AUROC {area:.2f}")
    return rows


def table(found: list[dict[str, list[Case]]], shares: Sequence[float] = SHARES) -> list[dict]:
    """All rows of some runs: every lead, all nets and each of them, then the decisions."""
    pooled = {name: [c for f in found for c in f[name]] for name in found[0]}
    rows = []
    for net in ("all", "tanh", "relu"):
        for share in shares:
            at = {n: [c for c in v if c.share == share and net in ("all", c.run[:4])] for n, v in pooled.items()}
            if len(next(iter(at.values()))) >= 2:
                rows += scores(at, f"{net} nets, from {share:g} of the critical sharpness")
    return rows + decisions(pooled, "all nets, all leads")


def main() -> None:
    """Train, forecast, print; write the rows unless ``--dry``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--dry", action="store_true", help="write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for (activation, loss), lrs in CASES.items():
        for lr in lrs:
            for seed in args.seeds:
                run = train(activation, loss, lr, seed)
                found.append(forecasts(run))
                moments = [c.forecast.made_at for c in found[-1][METHODS[0].name]]
                print(f"{run.name:<40} forecast at {moments}, onset {run.onset}", flush=True)
    rows = table(found)
    if not args.dry:
        write("onset", rows)


if __name__ == "__main__":
    main()
