"""Generated kernels and every optimizer, against autograd with torch.optim, 50 digits, brute force and each other."""

import os
import subprocess
import sys
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.optimize import brentq

from toymodels import ReducedState, onset_time, predict_flow
from toymodels.codegen import generate
from toymodels.kernels import numba_source
from toymodels.optimizers import GD, OPTIMIZERS, SAM, Adam, EMAMomentum, HeavyBall, Nesterov, SplitSGD
from toymodels.simulation import simulate, simulate_gd, status_names
from toymodels.symbolic import quadratic, several_signals, two_layer
from toymodels.thresholds import critical_sharpness

START = ReducedState(0.8, 0.2, 0.4, 0.1)
VALUES = {"beta": 1.2, "alpha": 20.0}
LR = 0.02
RULES = [
    GD(),
    GD(weight_decay=0.3),
    HeavyBall(0.7),
    Nesterov(0.6),
    EMAMomentum(0.8),
    SAM(0.01),
    Adam(0.9, 0.99, 1e-3),
    SplitSGD(0.8, 0.5, 0.3, 0.002),
]


def by_autograd(rule: Any, steps: int) -> np.ndarray:
    """The same training by torch: autograd of the loss, torch.optim where it has the rule."""
    w = torch.tensor([0.8, 0.2, 0.4, 0.1], dtype=torch.float64, requires_grad=True)

    def loss(v):
        c, b, p, u = v
        return ((1.2 - c * b) ** 2 + (c * p) ** 2 + 20.0 * (c * u) ** 2) / 2

    def gradient(v):
        with torch.enable_grad():
            v = v.detach().requires_grad_(True)
            return torch.autograd.grad(loss(v), v)[0]

    made = {
        GD: lambda: torch.optim.SGD([w], LR, weight_decay=float(rule.weight_decay)),
        HeavyBall: lambda: torch.optim.SGD([w], LR, momentum=rule.momentum),
        EMAMomentum: lambda: torch.optim.SGD([w], LR, momentum=rule.beta1, dampening=rule.beta1),
        Adam: lambda: torch.optim.Adam([w], LR, (rule.beta1, rule.beta2), rule.eps),
    }
    path = [w.detach().clone()]
    kind: Any = type(rule)
    optimizer = made[kind]() if kind in made else None
    m = torch.zeros(4, dtype=torch.float64)
    for n in range(steps):
        if optimizer is not None:
            w.grad = gradient(w)
            if n == 0 and kind is EMAMomentum:
                w.grad = w.grad * (1 - rule.beta1)  # torch does not dampen the first step
            optimizer.step()
        else:
            with torch.no_grad():
                if kind is Nesterov:
                    m = rule.momentum * m - LR * gradient(w + rule.momentum * m)
                    w += m
                elif kind is SAM:
                    w -= LR * gradient(w + rule.rho * gradient(w))
                else:
                    g = gradient(w)
                    m = rule.momentum * m + (1 - rule.dampening) * g
                    w -= torch.where(m.abs() > rule.threshold, rule.signed_lr * m.sign(), LR * g)
        path.append(w.detach().clone())
    return torch.stack(path).numpy()


@pytest.mark.parametrize("rule", RULES, ids=lambda r: repr(r)[:40])
@pytest.mark.parametrize("scaled", [True, False])
def test_every_optimizer_against_autograd(rule, scaled):
    run = simulate(two_layer(), rule, LR, 60, start=START, parameters=VALUES, scaled=scaled).isel(run=0)
    mine = np.stack([run[name].values for name in ("c", "b_par", "b_perp", "u")], axis=1)
    expected = by_autograd(rule, 60)
    assert np.abs(expected[-1] - expected[0]).max() > 0.05  # something happened
    np.testing.assert_allclose(mine, expected, rtol=1e-11, atol=1e-13)


def test_compiled_lanes_are_pythons_own_floats_to_the_bit():
    program = generate(two_layer(), HeavyBall(), scaled=False)
    names = {"c": 0.8, "b_par": 0.2, "b_perp": 0.4, "u": 0.1, "m_c": 0.0, "m_b_par": 0.0, "m_b_perp": 0.0, "m_u": 0.0}
    fixed = {"beta": 1.2, "alpha": 20.0, "lr": LR, "momentum": 0.9}
    code = compile("\n".join(program.step), "step", "exec")
    for _ in range(100):
        scope = {**names, **fixed}
        exec(code, scope)
        names = {n: scope[f"new_{n}"] for n in names}
    lanes = simulate(
        two_layer(), HeavyBall(np.full(70, 0.9)), LR, 100, start=START, parameters=VALUES, scaled=False, stride=None
    )
    for name in ("c", "b_par", "b_perp", "u"):
        assert (lanes[f"final_{name}"].values == names[name]).all()


@pytest.mark.parametrize(
    "rule", [GD(), HeavyBall(0.5), Nesterov(0.5), EMAMomentum(0.5), SAM(1e-4)], ids=lambda r: type(r).__name__
)
def test_thousands_of_e_folds_below_float64_against_fifty_digits(rule):
    """|u| falls far below 1e-308; the generated plain step in 50 digits is the oracle."""
    start = {"c": 0.9, "b_par": 0.1, "b_perp": 0.2, "u": 0.05}
    fixed = {"beta": 1.0, "alpha": 500.0, "lr": 0.0015}
    steps = 3500
    program = generate(two_layer(), rule, scaled=False)
    hyper = {k: float(v) for k, v in rule.hyperparameters().items()}
    code = compile("\n".join(program.step), "step", "exec")
    with mpmath.workdps(50):
        state = {n: mpmath.mpf(start.get(n, 0.0)) for n in program.variables}
        constants = {k: mpmath.mpf(v) for k, v in {**fixed, **hyper}.items()}
        for _ in range(steps):
            scope = {**state, **constants}
            exec(code, scope)
            state = {n: scope[f"new_{n}"] for n in program.variables}
        expected = {n: float(mpmath.log(abs(state[n]))) for n in ("u", "b_perp")}
        c = float(state["c"])
    run = simulate(
        two_layer(), rule, fixed["lr"], steps, start=start, parameters={"beta": 1.0, "alpha": 500.0}, stride=None
    ).isel(run=0)
    assert expected["u"] < -1000
    assert float(run.final_log_abs_u) == pytest.approx(expected["u"], rel=1e-9)
    assert float(run.final_log_abs_b_perp) == pytest.approx(expected["b_perp"], rel=1e-9)
    assert float(run.final_c) == pytest.approx(c, rel=1e-12)
    plain = simulate(
        two_layer(), rule, fixed["lr"], steps, start=start, parameters={"beta": 1.0, "alpha": 500.0}, scaled=False
    )
    assert float(plain.final_u.item()) == 0.0 or abs(float(plain.final_u.item())) < 1e-300


@pytest.mark.parametrize(
    ("rule", "name", "parameter"),
    [
        (GD(), "gd", 0.0),
        (GD(weight_decay=0.3), "weight_decay", 0.3),
        (HeavyBall(0.8), "heavy_ball", 0.8),
        (Nesterov(0.8), "nesterov", 0.8),
        (EMAMomentum(0.9), "ema", 0.9),
        (SAM(0.05), "sam", 0.05),
        (SplitSGD(0.9, 0.9, 1e300, 1e-3), "gd", 0.0),  # below its threshold on |m|
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_simulated_threshold_is_the_derived_one(rule, name, parameter):
    """Root, over the curvature, of the growth rate of the simulated quadratic (4,000 steps, no underflow)."""
    lr = 0.1
    stated = critical_sharpness(name, lr, parameter)

    def growth(curvature):
        ends = [
            simulate(
                quadratic(), rule, lr, n, start={"x": 1.0}, parameters={"curvature": curvature}, stride=None
            ).final_log_abs_x.item()
            for n in (2000, 4000)
        ]
        return ends[1] - ends[0]

    root = brentq(growth, 0.99 * stated, 1.01 * stated, xtol=1e-9 * stated)
    assert root == pytest.approx(stated, rel=1e-6)
    edge = simulate(quadratic(), rule, lr, 1, start={"x": 1.0}, parameters={"curvature": stated})
    assert float(edge.stability[0, 0]) == pytest.approx(2.0, rel=1e-12)


def test_events_against_brute_force():
    rng = np.random.default_rng(4)
    n = 150
    start = {
        "c": rng.uniform(0.2, 1.2, n),
        "b_par": rng.uniform(0, 1, n),
        "b_perp": rng.uniform(0, 0.5, n),
        "u": rng.uniform(1e-6, 0.1, n),
    }
    alpha, lr = rng.uniform(30, 300, n), rng.uniform(1.2, 3.2, n)
    data = simulate(
        two_layer(), "gd", lr / alpha, 1500, start=start, parameters={"beta": 1.0, "alpha": alpha}, noise_floor=0.0
    )
    summary = simulate(
        two_layer(), "gd", lr / alpha, 1500, start=start, parameters={"beta": 1.0, "alpha": alpha}, stride=None
    )
    seen = {"onset_step": 0, "spike_step": 0, "peak_step": 0}
    for i in range(n):
        one = data.isel(run=i)
        s, log_u = one.stability.values, one.log_abs_u.values
        with np.errstate(all="ignore"):
            load = alpha[i] * one.u.values**2 * one.c.values**2
            drift = one.c.values * one.b_par.values * (1.0 - one.c.values * one.b_par.values)
        last = int(one.last_step) if status_names(one) == "diverged" else 1500
        onset = begin = peak = -1
        below = False
        for k in range(last + 1):
            below |= s[k] <= 2
            if onset < 0 and below and s[k] > 2:
                onset = k
            if onset >= 0 and begin < 0 and load[k] - 0.05 * drift[k] >= 0:
                begin = k
            if begin >= 0 and peak < 0 and k > onset and log_u[k] < log_u[k - 1]:
                peak = k - 1
                assert float(one.peak_log_abs_u) == pytest.approx(log_u[peak], rel=1e-12)
        for name, expected in (("onset_step", onset), ("spike_step", begin), ("peak_step", peak)):
            assert int(one[name]) == int(summary[name][i]) == expected, (i, name)
            seen[name] += expected >= 0
    assert min(seen.values()) > 20


def test_runs_that_stopped_moving_end_as_if_every_step_had_been_made():
    alpha = np.array([20.0, 40.0, 60.0])
    whole = simulate_gd(START, 1.0, alpha, 0.01, 40_000, stride=40_000)
    quick = simulate_gd(START, 1.0, alpha, 0.01, 40_000, stride=None)
    for name in ("final_c", "final_b_par", "status", "onset_step"):
        np.testing.assert_array_equal(whole[name].values, quick[name].values)
    for name in ("final_log_abs_u", "final_log_abs_b_perp"):
        np.testing.assert_allclose(quick[name].values, whole[name].values, rtol=1e-9)
    assert float(quick.final_log_abs_u.min()) < -5000
    assert (status_names(quick) == "converged").all()


def test_a_weight_that_starts_at_zero_stays_there_when_the_run_comes_to_rest():
    start = ReducedState(0.8, 0.2, 0.0, 0.1)
    quick = simulate_gd(start, 1.0, [20.0, 40.0], 0.01, 20_000, stride=None)
    assert (quick.final_b_perp == 0).all()
    assert (quick.final_log_abs_b_perp == -np.inf).all()
    assert (status_names(quick) == "converged").all()
    assert np.isfinite(quick.final_sharpness).all()


def test_named_dimensions_chunks_and_plain_arrays_agree(monkeypatch):
    lr = xr.DataArray(np.linspace(0.005, 0.03, 7), dims="lr", coords={"lr": np.linspace(0.005, 0.03, 7)})
    alpha = xr.DataArray(np.linspace(50, 150, 30), dims="alpha")
    grid = simulate(two_layer(), "gd", lr, 400, start=START, parameters={"beta": 1.0, "alpha": alpha}, stride=None)
    assert set(grid.onset_step.dims) == {"lr", "alpha"}
    assert grid.sel(lr=lr[3]).sizes["alpha"] == 30
    mesh_lr, mesh_alpha = np.meshgrid(lr, alpha, indexing="ij")
    calls = []
    monkeypatch.setattr("toymodels.simulation.CHUNK", 64)
    flat = simulate(
        two_layer(),
        "gd",
        mesh_lr,
        400,
        start=START,
        parameters={"beta": 1.0, "alpha": mesh_alpha},
        stride=None,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(64, 210), (128, 210), (192, 210), (210, 210)]
    named = grid.transpose("lr", "alpha")
    for name in ("onset_step", "final_c", "peak_log_abs_u", "status", "final_sharpness"):
        np.testing.assert_array_equal(named[name].values.reshape(-1), flat[name].values)
    dense = np.linalg.eigvalsh(np.array(_hessian(flat, 5)))[-1]
    assert float(flat.final_sharpness[5]) == pytest.approx(dense, rel=1e-10)


def _hessian(data, i):
    import sympy as sp

    model = two_layer()
    values = [float(data[f"final_{w.name}"][i]) for w in model.weights]
    function = sp.lambdify([*model.weights, *model.parameters], model.hessian.tolist(), "numpy")
    return function(*values, 1.0, float(data.alpha[i]))


def test_general_models_watch_the_direction_asked_for():
    model = several_signals(3).fix(kappa_1=1, beta_2=0, beta_3=0)
    assert [w.name for w in model.even_weights] == ["w_2", "w_3"]
    start = {"c": 0.5, "w_1": 0.1, "w_2": 0.01, "w_3": 0.01}
    values = {"kappa_2": 60.0, "kappa_3": 90.0, "beta_1": 1.0}
    runs = {
        w: simulate(model, "gd", 0.035, 400, start=start, parameters=values, watch=w, stride=None)
        for w in ("w_2", "w_3")
    }
    assert 0 < int(runs["w_3"].onset_step.item()) < int(runs["w_2"].onset_step.item())
    assert runs["w_3"].final_sharpness.item() > 0


def test_gradient_flow_with_its_onset_as_an_event():
    lr, steps = 0.0025, 2500
    data = simulate(
        two_layer(), "flow", lr, steps, start=ReducedState(0.55, 0.05, 0.0, 1e-3),
        parameters={"beta": 1.0, "alpha": 1000.0}, stride=100,
    ).isel(run=0)  # fmt: skip
    exact = predict_flow(0.55, 0.05, 1.0)(lr * data.step.values)
    np.testing.assert_allclose(data.c.values, exact.c, atol=2e-6)  # u0^2 = 1e-6 acts on c at the start
    assert float(data.onset_time) == pytest.approx(float(onset_time(0.55, 0.05, 1.0, 1000.0, lr)), rel=2e-5)
    assert int(data.onset_step) == int(np.ceil(float(data.onset_time) / lr))
    np.testing.assert_allclose(data.log_abs_u.values, np.log(1e-3) - 1000 * exact.clock, rtol=1e-4)
    assert float(data.log_abs_u[-1]) < -3000
    end = simulate(
        two_layer(), "flow", lr, steps, start=ReducedState(0.55, 0.05, 0.0, 1e-3),
        parameters={"beta": 1.0, "alpha": 1000.0}, stride=None,
    ).isel(run=0)  # fmt: skip
    assert "step" not in end.dims
    assert float(end.final_log_abs_u) == pytest.approx(float(data.log_abs_u[-1]), rel=1e-9)
    assert int(end.onset_step) == int(data.onset_step)


CUDA = """
import numpy as np
from toymodels.codegen import generate
from toymodels.kernels import RESULTS, cuda_source, load, numba_source, run_tiles
from toymodels.optimizers import GD, HeavyBall
from toymodels.symbolic import two_layer
import sys
worst = 0.0
for rule in (GD(), HeavyBall()):
    program = generate(two_layer(), rule)
    state = np.zeros((len(program.variables), 64))
    state[:4, :] = np.array([0.6, 0.1, 0.2, 1e-200])[:, None] * np.linspace(0.9, 1.0, 64)
    extra = [0.0] if isinstance(rule, GD) else [0.9]
    constants = np.tile(np.array([1.0, 100.0, 0.01, 0.01, *extra])[:, None], 64)
    rows = len(RESULTS) + len(program.variables) + 2 * len(program.groups)
    a, b = np.zeros((rows, 64)), np.zeros((rows, 64))
    if sys.argv[1] == "cpu":
        run_tiles(load(numba_source(program)), 64, state, constants, a, np.zeros((0, 6, 0)), 90, 1, False, 0.0)
    else:
        load(cuda_source(program))[2, 32](state, constants, a, np.zeros((1, 1, 1)), 90, 1, False, 0.0)
    np.save(sys.argv[2] + type(rule).__name__ + ".npy", a)
"""


def test_cuda_kernel_of_the_same_lines_equals_the_cpu_kernel(tmp_path):
    """numba's CUDA simulator executes the CUDA source in Python: no device needed."""
    for where in ("cpu", "cuda"):
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1" if where == "cuda" else "0"}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CUDA, where, str(tmp_path / where)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for rule in ("GD", "HeavyBall"):
        cpu, cuda = (np.load(tmp_path / f"{where}{rule}.npy") for where in ("cpu", "cuda"))
        np.testing.assert_array_equal(cpu, cuda)
        assert np.isfinite(cpu[10:]).all()


@pytest.mark.gpu
def test_cuda_device_equals_the_cpu():
    cuda = pytest.importorskip("numba.cuda")
    if not cuda.is_available():
        pytest.skip("no CUDA device")
    alpha = np.linspace(50, 500, 1000)
    a, b = (
        simulate(two_layer(), "gd", 2.5 / alpha, 3000, start=START, parameters={"beta": 1.0, "alpha": alpha},
                 stride=None, device=device)
        for device in ("cpu", "cuda")
    )  # fmt: skip
    assert (a.onset_step == b.onset_step).mean() > 0.99  # contracted products round otherwise


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adagrad"}, "optimizer must be one of gd, heavy_ball"),
        ({"lr": -0.1}, "lr must be positive, got -0.1"),
        ({"steps": 0}, "steps must be an integer >= 1"),
        ({"stride": 0}, "stride must be an integer >= 1"),
        ({"parameters": {"beta": 1.0}}, "parameters must name beta, alpha; got beta"),
        ({"start": {"c": 1.0}}, "start must name c, b_par, b_perp, u; got c"),
        ({"start": None}, "start must be given"),
        ({"watch": "c"}, "watch must be an even weight"),
        ({"device": "tpu"}, "device must be cpu or cuda"),
        ({"noise_floor": -1.0}, "noise_floor must be >= 0"),
        ({"optimizer": HeavyBall(1.0)}, "momentum must lie in"),
        ({"optimizer": SAM(-1.0)}, "rho must be >= 0"),
        ({"lr": xr.DataArray([0.1], dims="step")}, "must not be called 'step'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    given = {"optimizer": "gd", "lr": LR, "steps": 5, "start": START, "parameters": VALUES, **arguments}
    with pytest.raises(ValueError, match=message):
        simulate(two_layer(), given.pop("optimizer"), given.pop("lr"), given.pop("steps"), **given)


def test_names_of_optimizers_and_source_are_readable():
    assert set(OPTIMIZERS) == {"gd", "heavy_ball", "nesterov", "ema", "sam", "adam", "split_sgd"}
    source = numba_source(generate(two_layer(), GD()))
    assert "def tiles(" in source
    with pytest.raises(ValueError, match="parameter must be one of"):
        two_layer().fix(gamma=1)
    with pytest.raises(ValueError, match="even"):
        two_layer().curvature(two_layer().weights[0])
