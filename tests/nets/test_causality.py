"""The causal experiment on a planted pair: what is forecast before, what is found, and what is refused."""

import json

import numpy as np
import pytest
from small_runs import assert_same_run

from analysis.effects import loss_spike
from nets.causality import ACTIONS, Question, answer, create_arms, prepare
from nets.config import TrainConfig
from nets.files import RunError
from nets.forecasts import ForecastError
from nets.run import Run, create_run

PLANTED = ("alpha=100.0", "channels=1", "n_classes=2", "p=0.05", "signal=1.0", "size=6")


def parent_run(path, **changes):
    options = {"data": "planted", "data_options": PLANTED, "n_examples": 300, "widths": (16,), "activation": "relu"}
    config = TrainConfig(**{**options, "lr": 0.1, "steps": 130, "eig_tol": 0.02, "threads": 1, **changes})
    create_run(path, config)
    return Run.open(path)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A parent that has not been trained at all, and the experiment on it: the control is made anew."""
    folder = tmp_path_factory.mktemp("causality")
    parent = parent_run(folder / "parent")
    forecast = prepare(parent, Question(by="projections"), folder / "into")
    runs = create_arms(forecast, folder / "into")
    written = json.loads((folder / "into" / "forecasts" / "intervention.json").read_text())
    before = {name: run.rows for name, run in runs.items()}
    for run in runs.values():
        run.advance()
    return folder, forecast, written, before, answer(forecast, runs, folder / "into")


def test_the_forecast_is_written_before_any_arm_is_trained(experiment):
    folder, forecast, written, before, _ = experiment
    made = forecast["made_at_step"]
    assert written == forecast
    assert before == {"control": made + 1, "pair": 0, "random": 0, "highest_loss": 0}
    control = Run.open(folder / "into" / "control").history().sharpness.values
    level = 0.75 * 2 / 0.1
    assert control[made] >= level > control[made - 1]


def test_the_planted_pair_is_found_and_is_the_cause(experiment):
    folder, forecast, _, _, result = experiment
    arms, runs = forecast["arms"], result["runs"]
    carrier = Run.open(folder / "parent").dataset.truth["carrier"]
    sides = {name: [*arm["first"], *arm["second"]] for name, arm in arms.items()}
    assert all(len(rows) == len(sides["pair"]) <= 15 for rows in sides.values())
    assert carrier[sides["pair"]].mean() > 0.8
    assert carrier[sides["random"]].mean() < 0.2
    # the carriers hold nearly all of the second moment along the planted feature: alpha = 100 against a noise of 1
    assert runs["pair"]["ratio"] < 0.7 < min(runs["random"]["ratio"], runs["highest_loss"]["ratio"])
    onsets = {name: row["outcome"]["onset"] for name, row in runs.items()}
    assert onsets["pair"] is None or onsets["pair"] > 1.2 * onsets["control"]
    assert runs["control"]["ratio"] == 1
    assert result["compared_at_step"] == onsets["control"]


def test_forecast_ratio_is_the_sharpness_without_the_pair_at_the_same_weights(experiment):
    """Against the dense Hessian of the loss of the rows that are left, in float64."""
    import torch

    folder, forecast, *_ = experiment
    run = Run.open(folder / "into" / "control")
    module = run.snapshot_module(forecast["made_at_step"]).double()
    data = run.dataset
    x, y = torch.from_numpy(data.inputs).double(), torch.eye(2, dtype=torch.float64)[torch.from_numpy(data.targets)]
    names, shapes = zip(*[(n, p.shape) for n, p in module.named_parameters()], strict=True)
    theta = torch.nn.utils.parameters_to_vector(module.parameters()).detach()

    def top(rows):
        def loss(flat):
            parts = torch.split(flat, [s.numel() for s in shapes])
            weights = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
            out = torch.func.functional_call(module, weights, (x[rows],))
            return 0.5 * (out - y[rows]).square().sum(1).mean()

        return float(torch.linalg.eigvalsh(torch.func.hessian(loss)(theta))[-1])

    whole = top(np.arange(300))
    for arm in forecast["arms"].values():
        kept = np.setdiff1d(np.arange(300), [*arm["first"], *arm["second"]])
        assert arm["ratio"] == pytest.approx(top(kept) / whole, rel=5e-3)  # twice eig_tol squared, and float32


def test_an_interrupted_experiment_goes_on_to_the_same_bits(experiment, tmp_path):
    folder, forecast, *_ = experiment
    question, parent = Question(by="projections"), Run.open(folder / "parent")
    for _ in range(2):
        again = prepare(parent, question, tmp_path)
        for run in create_arms(again, tmp_path).values():
            run.advance(max_steps=40)
    runs = create_arms(prepare(parent, question, tmp_path), tmp_path)
    for run in runs.values():
        run.advance()
    assert again == forecast
    for name in runs:
        assert_same_run(tmp_path / name, folder / "into" / name)


def test_another_question_or_an_edited_forecast_is_refused(experiment):
    folder, *_ = experiment
    parent, into = Run.open(folder / "parent"), folder / "into"
    with pytest.raises(RunError, match="holds another intervention"):
        prepare(parent, Question("blur", by="projections"), into)
    path = into / "forecasts" / "intervention.json"
    text = path.read_text()
    path.write_text(text.replace('"kind": "intervention"', '"kind": "Intervention"'))
    with pytest.raises(ForecastError, match="must be unchanged since registration"):
        prepare(parent, Question(by="projections"), into)
    path.write_text(text)


@pytest.mark.parametrize("at", [None, 20])
def test_an_intervention_that_changes_nothing_gives_the_control(tmp_path, at):
    """A bound that no loss reaches: the arm is the control's own continuation, from step 0 or from ``at``."""
    parent = parent_run(tmp_path / "parent", steps=120)
    question = Question("robust", ("bound=1e9",), by="projections", at=at, controls=False)
    forecast = prepare(parent, question, tmp_path / "into")
    runs = create_arms(forecast, tmp_path / "into")
    for run in runs.values():
        run.advance()
    result = answer(forecast, runs, tmp_path / "into")["runs"]
    loss = {name: run.history().loss.values for name, run in runs.items()}
    np.testing.assert_array_equal(loss["pair"], loss["control"][at or 0 :])
    assert result["pair"]["ratio"] == pytest.approx(1, abs=0.01)
    assert result["pair"]["outcome"]["onset"] == pytest.approx(result["control"]["outcome"]["onset"], abs=1)
    assert forecast["arms"]["pair"]["ratio"] == pytest.approx(1, abs=2e-3)
    for name in ("final_loss", "accuracy", "held_out_accuracy"):
        assert result["pair"]["outcome"][name] == result["control"]["outcome"][name]


def test_arms_that_start_after_the_onset_are_measured_over_their_own_steps(tmp_path, experiment):
    """An intervention that changes nothing again: whatever is measured must be the control's over the same steps."""
    folder, _, _, _, done = experiment
    at = done["runs"]["control"]["outcome"]["onset"] + 15
    question = Question("robust", ("bound=1e9",), by="projections", at=at, controls=False)
    forecast = prepare(Run.open(folder / "parent"), question, tmp_path)
    runs = create_arms(forecast, tmp_path)
    for run in runs.values():
        run.advance()
    result = answer(forecast, runs, tmp_path)
    control, pair = (result["runs"][name]["outcome"] for name in ("control", "pair"))
    assert result["compared_at_step"] >= at
    assert pair["sharpness"] == pytest.approx(control["sharpness"], rel=0.01)
    assert result["runs"]["pair"]["ratio"] == pytest.approx(1, abs=0.01)
    for name in ("spike", "final_loss", "steps"):
        assert pair[name] == control[name]
    assert control["spike"] == loss_spike(runs["control"].history().loss.values[at:])


def test_a_control_that_stands_elsewhere_goes_on_or_is_refused(tmp_path, experiment, monkeypatch):
    """Interrupted between the control's stop and the forecast, then asked about another step."""
    parent = Run.open(experiment[0] / "parent")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("nets.causality._forecast", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(parent, Question(by="projections", at=20), tmp_path)
    with pytest.raises(RunError, match=r"must stand at step 10 .* gone on to step 20; choose another folder"):
        prepare(parent, Question(by="projections", at=10), tmp_path)
    assert Run.open(tmp_path / "control").step == 20
    assert prepare(parent, Question(by="projections", at=30, controls=False), tmp_path)["made_at_step"] == 30


def test_the_sharpness_is_measured_where_the_forecast_is_made(tmp_path, experiment):
    parent = parent_run(tmp_path / "parent", eig_every=3)
    with pytest.raises(RunError, match="at must be a multiple of eig_every 3, got 10"):
        prepare(parent, Question(by="projections", at=10), tmp_path / "into")
    never = parent_run(tmp_path / "never", eig_every=0)
    with pytest.raises(RunError, match="must measure the sharpness, its eig_every is 0"):
        prepare(never, Question(by="projections", at=10), tmp_path / "into")
    assert not (tmp_path / "into").exists()
    for arm in experiment[1]["arms"].values():
        assert arm["ratio_converged"]
        assert arm["ratio_residual"] <= parent.config.eig_tol


def test_rebalancing_equalises_the_sides_gradients(tmp_path, experiment):
    folder, *_ = experiment
    question = Question("rebalance", by="projections", controls=False)
    arm = prepare(Run.open(folder / "parent"), question, tmp_path)["arms"]["pair"]
    from analysis.projection import project_losses
    from nets.forecasting import run_losses

    run = Run.open(tmp_path / "control")
    s = project_losses(run_losses(run), list(run.parameters().parameters()), run.eigenvector()).numpy()
    config = TrainConfig.from_dict(arm["config"])
    w = config.intervention_settings
    totals = [w[f"{side}_weight"] * abs(s[arm[side]].sum()) for side in ("first", "second")]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_what_cannot_be_asked_is_refused_in_one_line(tmp_path, experiment):
    folder, *_ = experiment
    parent = Run.open(folder / "parent")
    for arguments, message in [
        ({"action": "delete"}, "action must be one of drop"),
        ({"by": "eye"}, "by must be one of losses, projections, got 'eye'"),
        ({"share": 1.5}, "share must lie between 0 and 1, got 1.5"),
        ({"group": (1,), "by": "projections"}, "group must be 0 by projections"),
        ({"options": ("sigma=2",)}, "options of drop must be among none; got sigma"),
        ({"at": 1}, "at must be at least 2, got 1"),
    ]:
        with pytest.raises(RunError, match=message) as caught:
            Question(**arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="at must be a step below 129"):
        prepare(parent, Question(at=129), tmp_path / "a")
    with pytest.raises(RunError, match=r"must reach 0\.75 of its critical value"):
        prepare(parent, Question(by="projections", steps=4), tmp_path / "b")
    adam = parent_run(tmp_path / "adam", optimizer="adam", lr=0.01)
    with pytest.raises(RunError, match="optimizer adam has no constant critical sharpness"):
        prepare(adam, Question(), tmp_path / "c")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "c").exists()
    assert "weight" not in ACTIONS
