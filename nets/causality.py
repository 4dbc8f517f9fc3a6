r"""Is a pair the cause? The same run without it, beside a run without as many random, or the worst fitted, examples.

A folder holds the control (the parent run made anew, to the same bits), one run per arm, and the forecast, written and
registered while the control stands at the step that it was made at and before any arm is trained::

    control/ pair/ random/ highest_loss/  forecasts/intervention.json  effects.json
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.curvature import attribute
from analysis.detection import OpposingPair, detect_in_projections
from analysis.effects import Outcome, crossing_forecast, measure_outcome
from analysis.interventions import (
    Groups,
    balancing_factors,
    highest_loss_groups,
    random_groups,
    strongest_groups,
)
from analysis.oscillation import onset_step
from analysis.prediction import APPROACH
from analysis.projection import project_losses
from analysis.timeline import find_signals

from .config import TrainConfig
from .data import Dataset, held_out
from .data.interventions import intervene
from .descent import Problem, StepState
from .files import RunError, read_json, write_json
from .forecasting import run_losses, stop_at_sharpness
from .forecasts import add_forecast, forecast_registration
from .losses import correct
from .options import INTERVENTIONS, Option, OptionError, parse_options
from .recorded_losses import known_losses
from .run import Run, build_run, create_run

__all__ = ["ACTIONS", "Question", "answer", "create_arms", "prepare"]

#: action -> its options; an action is an intervention of ``nets.options`` or one of two ways to weigh
ACTIONS: dict[str, dict[str, Option]] = {
    **{k: {o: v for o, v in t.items() if o not in ("first", "second")} for k, t in INTERVENTIONS.items()},
    "downweight": {"weight": Option(0.1, least=0.0, below=1.0)},
    "rebalance": {"total": Option("gradient", choices=("gradient", "members"))},
}
del ACTIONS["none"], ACTIONS["weight"]
SOURCES = ("losses", "projections")


@dataclass(frozen=True)
class Question:
    """What is asked.

    Args:
        action: "drop", "downweight", "rebalance", "relabel", "robust", "blur", "background" or "feature".
        options: Of the action, as name=value.
        group: Numbers of the pairs, in the order of `find_signals` on the parent's record (``by`` "losses"); with
            "projections" 0, the pair on the top eigenvector at the step of the forecast.
        by: "losses" or "projections".
        share: Most members, as a share of the examples; the strongest are taken.
        at: Step from whose parameters the arms start, which is also that of the forecast; None: they start at step 0,
            and the forecast is made where the sharpness is at 0.75 of its critical value.
        controls: Whether random examples and those of the highest loss at that step get the same intervention.
        steps: Length of the runs; None: as the parent.
        seed: Of the random examples.
    """

    action: str = "drop"
    options: tuple[str, ...] = ()
    group: tuple[int, ...] = (0,)
    by: str = "losses"
    share: float = 0.05
    at: int | None = None
    controls: bool = True
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("action", tuple(ACTIONS)), ("by", SOURCES)):
            if getattr(self, name) not in allowed:
                raise RunError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}; choose one")
        if not 0 < self.share < 1:
            raise RunError(f"share must lie between 0 and 1, got {self.share}; pass e.g. 0.05")
        if not self.group or min(self.group) < 0 or len(set(self.group)) < len(self.group):
            raise RunError(f"group must hold different numbers >= 0, got {self.group}; pass e.g. 0")
        if self.by == "projections" and self.group != (0,):
            raise RunError(
                f"group must be 0 by projections, got {self.group}; there is one pair on the top eigenvector"
            )
        if self.at is not None and self.at < 2:
            raise RunError(f"at must be at least 2, got {self.at}; a forecast needs three recorded steps")
        try:
            parse_options("options", self.options, ACTIONS[self.action], self.action)
        except OptionError as error:
            raise RunError(str(error)) from None

    @property
    def settings(self) -> dict[str, Any]:
        """Options of the action with their values."""
        return parse_options("options", self.options, ACTIONS[self.action], self.action)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def prepare(parent: Run, question: Question, directory: Path | str, advance: Any = None) -> dict[str, Any]:
    """Bring the control to the step of the forecast, and write the forecast; one that is there is checked and returned.

    Args:
        parent: The run asked about; its folder is not touched.
        question: What is asked.
        directory: New folder, or one in which the same question was begun.
        advance: Called as advance(run, until, label) in place of ``run.advance(until)``.
    Raises:
        RunError: If the folder belongs to another question, or the question does not fit the run.
    """
    directory = Path(directory)
    asked = question.to_dict() | {"parent_config": parent.config.config_hash}
    path = directory / "forecasts" / "intervention.json"
    config = _control_config(parent, question)
    by_losses = _pair(parent, question) if question.by == "losses" and not path.exists() else None
    control = _control(config, directory)
    if not path.exists():
        _to_moment(control, question, advance)
        forecast = _forecast(control, question, by_losses) | {"question": asked}
        path.parent.mkdir(exist_ok=True)
        write_json(path, forecast)
    forecast = read_json(path)
    if forecast.get("question") != asked:
        raise RunError(f"{directory} holds another intervention; repeat its options or choose another folder")
    made = forecast["made_at_step"]
    if control.step == made and control.rows == made + 1:
        add_forecast(directory, path, step=control.step, rows=control.rows, state_hash=control.state_hash())
        control.snapshot()
    forecast_registration(directory, path)
    return forecast


def create_arms(forecast: Mapping[str, Any], directory: Path | str) -> dict[str, Run]:
    """The control and the arms of a forecast, created where they are not there yet, by name."""
    directory = Path(directory)
    control = Run.open(directory / "control")
    runs = {"control": control}
    at = forecast["question"]["at"]
    for name, arm in forecast["arms"].items():
        folder = directory / name
        if not (folder / "config.json").exists():
            config = TrainConfig.from_dict(arm["config"])
            problem = Problem(config, _intervened(control, config))
            state = problem.initial_state()
            if at is not None:
                module = control.snapshot_module(at)
                state.parameters = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
            about = {"step": at, "state_hash": forecast["state_hash"], "config_hash": control.config.config_hash}
            build_run(folder, problem, state, control.threads, {} if at is None else {"parent": about})
        runs[name] = Run.open(folder)
    return runs


def answer(forecast: Mapping[str, Any], runs: Mapping[str, Run], directory: Path | str) -> dict[str, Any]:
    """Outcome of every run beside its forecast; written to effects.json.

    All runs are measured from the step where the arms start. The sharpness is compared at the control's onset, or where
    it has none from there on, at the end of the shortest run.
    """
    at = forecast["question"]["at"] or 0
    control = runs["control"]
    critical = control.config.critical_sharpness
    records = {name: _series(run) for name, run in runs.items()}
    records["control"] = {name: values[at:] for name, values in records["control"].items()}
    known = measure_outcome(records["control"], critical, at, first_step=at)
    shortest = min(len(r["loss"]) for r in records.values()) + at
    compared = shortest - 1 if known.onset is None else min(known.onset, shortest - 1)
    rows: dict[str, Any] = {}
    n = len(control.dataset.inputs)
    plain, longer = control.dataset, held_out(control.config, (n, n // 2, n // 4))
    for name, run in runs.items():
        seen, unseen = _accuracy(run, plain), None if longer is None else _accuracy(run, longer)
        outcome = measure_outcome(records[name], critical, compared, seen, unseen, at)
        rows[name] = {"outcome": outcome.to_dict(), "status": run.status.status, "forecast": _said(forecast, name)}
        rows[name]["ratio"] = _ratio(outcome, rows["control"]["outcome"]["sharpness"])
    result = {"compared_at_step": compared, "critical": critical, "question": forecast["question"], "runs": rows}
    write_json(Path(directory) / "effects.json", result)
    return result


def _series(run: Run) -> dict[str, np.ndarray]:
    history = run.history()
    return {name: history[name].values for name in ("loss", "sharpness")}


def _said(forecast: Mapping[str, Any], name: str) -> dict[str, Any]:
    said = forecast["control"] if name == "control" else forecast["arms"][name]
    return {k: said[k] for k in ("ratio", "onset")}


def _ratio(outcome: Outcome, base: float | None) -> float | None:
    return outcome.sharpness / base if outcome.sharpness is not None and base else None


# --- steps of the work -----------------------------------------------------------------------------------


def _control_config(parent: Run, question: Question) -> TrainConfig:
    """The parent's configuration at the length asked for, if the question fits it."""
    config = parent.config if question.steps is None else replace(parent.config, steps=question.steps)
    config = replace(config, threads=parent.threads)
    if question.at is None and config.critical_sharpness is None:
        raise RunError(
            f"optimizer {config.optimizer} has no constant critical sharpness to make the forecast at; "
            "intervene in a run of gradient descent"
        )
    if parent.first_step:
        raise RunError(f"{parent.directory} must begin at step 0, it is a fork at {parent.first_step}; take its parent")
    if config.intervention != "none":
        raise RunError(f"{parent.directory} must have no intervention, it has {config.intervention}; take its parent")
    if question.at is not None and not (config.plain_descent and question.at < config.steps - 1):
        raise RunError(
            f"at must be a step below {config.steps - 1} of a run of gradient descent on all rows, got {question.at} "
            f"and {config.optimizer}; leave it out to start at step 0"
        )
    if not config.eig_every:
        raise RunError(f"{parent.directory} must measure the sharpness, its eig_every is 0; take a run that does")
    if question.at is not None and question.at % config.eig_every:
        raise RunError(
            f"at must be a multiple of eig_every {config.eig_every}, got {question.at}; the sharpness is measured there"
        )
    return config


def _control(config: TrainConfig, directory: Path) -> Run:
    folder = directory / "control"
    if not (folder / "config.json").exists():
        create_run(folder, config)
    control = Run.open(folder)
    if control.config.config_hash != config.config_hash:
        raise RunError(f"{directory} holds the control of another run; choose another folder")
    return control


def _to_moment(control: Run, question: Question, advance: Any) -> None:
    """Advance the control to the step of the forecast, and no further."""
    at = question.at
    if _moment(control, question) is None:
        until = stop_at_sharpness(control, APPROACH) if at is None else lambda state: state.step >= at
        advance(control, until, "control") if advance else control.advance(until)
        if _moment(control, question) is None or control.status.status == "diverged":
            where = f"reach {APPROACH:g} of its critical value" if at is None else f"be recorded at {at}"
            raise RunError(f"the sharpness must {where}, the run ended before; pass --at STEP or train longer")
    if not _stands(control, question):
        raise RunError(
            f"{control.directory} must stand at step {_moment(control, question)} to be forecast there, it has gone on "
            f"to step {control.step}; choose another folder"
        )


def _moment(control: Run, question: Question) -> int | None:
    """The step of the forecast, once the control has recorded it."""
    if question.at is not None:
        return question.at if control.rows > question.at else None
    critical = control.config.critical_sharpness
    if critical is None or not control.rows:
        return None
    return onset_step(_series(control)["sharpness"], 2.0 / critical, APPROACH)


def _stands(control: Run, question: Question) -> bool:
    """Whether the control has recorded the step of the forecast and not made its update."""
    return control.rows == control.step + 1 and control.step == _moment(control, question)


def _forecast(control: Run, question: Question, by_losses: Groups | None) -> dict[str, Any]:
    losses, params = run_losses(control), [p.detach() for p in control.parameters().parameters()]
    vector = control.eigenvector()
    projection = project_losses(losses, params, vector).double().cpu().numpy()
    attribution = attribute(losses, params, vector)
    s = _series(control)["sharpness"].astype(np.float64)
    critical = control.config.critical_sharpness
    groups = {"pair": by_losses or _strongest(detect_in_projections(projection).pairs, question, len(projection))}
    if question.controls:
        groups["random"] = random_groups(len(projection), groups["pair"], question.seed)
        groups["highest_loss"] = highest_loss_groups(losses(params).detach().cpu(), groups["pair"])
    intervention, options = _spelled(question, groups["pair"], projection)
    arms = {}
    for name, g in groups.items():
        sides = tuple(f"{side}={','.join(map(str, rows))}" for side, rows in zip(g._fields, g, strict=True) if rows)
        config = replace(control.config, intervention=intervention, intervention_options=(*options, *sides))
        if question.at is not None:
            config = replace(config, steps=config.steps - question.at)
        problem = Problem(config, _intervened(control, config))
        after = _measured_at(problem, control.parameters(), vector)
        ratio = after.sharpness / float(s[-1])
        arms[name] = {
            "first": list(g.first),
            "second": list(g.second),
            "config": config.to_dict(),
            "config_hash": config.config_hash,
            "sharpness_share": attribution.share(torch.from_numpy(g.members).to(vector.device)),
            "ratio": ratio,
            "ratio_converged": after.converged,
            "ratio_residual": after.sharpness_residual,
            "onset": crossing_forecast(s, critical, ratio) if critical and ratio > 0 else None,
        }
    return {
        "kind": "intervention",
        "made_at_step": control.step,
        "state_hash": control.state_hash(),
        "sharpness": float(s[-1]),
        "critical": critical,
        "assumptions": [
            "ratio: sharpness after the intervention over that before it, at the parameters of this step (measured)",
            "it stays what it is here, all along the run",
            "onset: straight line through the sharpness so far, times the ratio",
        ],
        "control": {"ratio": 1.0, "onset": crossing_forecast(s, critical) if critical else None},
        "arms": arms,
    }


def _pair(parent: Run, question: Question) -> Groups:
    """The pairs asked for, as `opposing signals` lists them."""
    losses = known_losses(parent.config, parent.history(), parent.first_step)
    pairs = [signal.pair for signal in find_signals(losses, parent.first_step, outliers=False).signals]
    return _strongest(pairs, question, parent.dataset.n_losses)


def _strongest(pairs: Sequence[OpposingPair], question: Question, n: int) -> Groups:
    most = max(1, int(question.share * n))
    first: dict[int, None] = {}
    second: dict[int, None] = {}
    for k in question.group:
        if k >= len(pairs):
            raise RunError(f"group must be below the {len(pairs)} pairs found, got {k}; see `opposing signals RUN`")
        if not pairs[k].members:
            raise RunError(f"group must be a pair with outliers, {k} has none; choose another or --by projections")
        found = strongest_groups(pairs[k].weights, pairs[k].members, max(1, most // len(question.group)))
        first |= {i: None for i in found.first if i not in second}
        second |= {i: None for i in found.second if i not in first}
    return Groups(tuple(first), tuple(second))


def _spelled(question: Question, pair: Groups, projection: np.ndarray) -> tuple[str, tuple[str, ...]]:
    """The intervention of ``nets.options`` and its options, but for the groups; the same weights in every arm."""
    settings = question.settings
    if question.action == "downweight":
        factors = (settings["weight"], settings["weight"])
    elif question.action == "rebalance":
        if settings["total"] == "gradient":
            factors = balancing_factors(*(abs(float(projection[list(side)].sum())) for side in pair))
        else:
            factors = balancing_factors(*map(len, pair))
    else:
        return question.action, question.options
    return "weight", (f"first_weight={factors[0]!r}", f"second_weight={factors[1]!r}")


def _intervened(control: Run, config: TrainConfig) -> Dataset:
    """The data of ``config``, made from the control's, which are loaded already."""
    return intervene(control.dataset, config.intervention, **config.intervention_settings)


def _measured_at(problem: Problem, module: torch.nn.Module, vector: Tensor) -> StepState:
    """What `Problem.measure` gives at the parameters of ``module``, from the first guess ``vector``."""
    state = problem.initial_state()
    state.parameters = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    state.eigenvector = vector
    return problem.measure(state)[0]


def _accuracy(run: Run, data: Dataset) -> float | None:
    """Share of ``data`` that the final parameters classify correctly; None for regression and diverged runs."""
    if data.kind == "regression" or run.status.status == "diverged":
        return None
    module = run.parameters()
    with torch.no_grad():
        x, y = data.tensors(getattr(torch, run.config.dtype), next(module.parameters()).device)
        return float(correct(module(x), y).double().mean())
