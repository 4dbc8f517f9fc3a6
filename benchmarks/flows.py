"""Gradient flow against scipy and plain descent; central flow against the moving average of real runs, over seeds.

8x8 digits, MLP, squared loss, embedded data. A central flow starts at the midpoint of three iterates after ``--start``
steps, when the run is at its edge, and is compared over the rest with the run itself: loss and squared gradient at the
iterates, effective sharpness at midpoints (every third step), each averaged over ``WINDOW`` steps and over all steps.
"""

import argparse
import time

import numpy as np
import torch
from rows import row, write
from scipy.integrate import solve_ivp

from analysis.curvature import CurvatureTracker, LossCurvature, midpoint, precondition
from analysis.flows import CentralFlow, GradientFlow, RMSProp
from nets.architectures import mlp
from nets.config import TrainConfig
from nets.data import load_data
from nets.losses import per_example_loss

WINDOW = 101
SPACING = 3  # steps from one measured sharpness of the run to the next
BARS = {"loss": 0.02, "sharpness": 0.03}
# activation, optimizer, lr, radius of the third derivatives (None: exact, blind to the kinks of a ReLU)
CASES = {
    "tanh": ("tanh", "gd", 0.5, None),
    "relu": ("relu", "gd", 1.2, None),
    "relu, radius": ("relu", "gd", 1.2, 0.1),
    "rmsprop": ("tanh", "rmsprop", 3e-4, None),
}
PACKAGES = ("torch", "numpy", "scipy")


def problem(activation: str, seed: int, dtype: torch.dtype, n: int = 200) -> LossCurvature:
    """64-32-32-10 on n digits."""
    data = load_data(TrainConfig(n_examples=n))
    net = mlp(64, (32, 32), 10, activation=activation, seed=seed, dtype=dtype)
    return LossCurvature(net, per_example_loss("squared"), *data.tensors(dtype))


def gradient_flow(until: float) -> list[dict]:
    """Gradients, products and seconds to a time, and the relative error there."""
    operator = problem("tanh", 0, torch.float64)
    start, evaluations = operator.point(), 0

    def velocity(_, y):
        nonlocal evaluations
        evaluations += 1
        return -operator.linearise(torch.from_numpy(y))[1].numpy()

    exact = torch.from_numpy(
        solve_ivp(velocity, (0, until), start.numpy(), method="DOP853", rtol=1e-9, atol=1e-10).y[:, -1]
    )
    top = CurvatureTracker(1).measure(operator.linearise(exact)[2], torch.zeros_like(exact)).top
    rows, case = [], f"gradient flow to t = {until:g}, sharpness {top:.2f} there"

    def note(method, point, gradients, products, seconds):
        error = float((point - exact).norm() / exact.norm())
        values = {"relative error": error, "gradients per unit time": gradients / until}
        values |= {"products per unit time": products / until, "seconds": seconds}
        print(f"{case}  {method:<28}" + "".join(f"  {k} {v:.3g}" for k, v in values.items()), flush=True)
        rows.extend(row("flows", f"{case}, {method}", k, v, "1", packages=PACKAGES) for k, v in values.items())

    for rtol in (1e-3, 1e-4, 1e-5):
        begin, flow = time.perf_counter(), GradientFlow(operator, start, rtol=rtol)
        end = flow.advance(until)
        note(f"GradientFlow rtol {rtol:g}", flow.point, end.gradients, end.products, time.perf_counter() - begin)
        for method in ("RK23", "RK45"):
            begin, evaluations = time.perf_counter(), 0
            absolute = rtol * float(start.norm()) / start.numel() ** 0.5
            found = solve_ivp(velocity, (0, until), start.numpy(), method=method, rtol=rtol, atol=absolute).y[:, -1]
            seconds = time.perf_counter() - begin
            note(f"scipy {method} rtol {rtol:g}", torch.from_numpy(found), evaluations, 0, seconds)
    for share in (1.0, 0.25):
        steps = int(np.ceil(until * top / (2 * share)))
        begin, point = time.perf_counter(), start.clone()
        for _ in range(steps):
            point = point - until / steps * operator.linearise(point)[1]
        note(f"descent at {share:g} · 2/sharpness", point, steps, 0, time.perf_counter() - begin)
    return rows


def train(operator: LossCurvature, lr: float, steps: int, rule: RMSProp | None):
    """Iterates, second moments before each update, losses and squared gradients of a run."""
    theta = operator.point()
    moment = torch.zeros_like(theta)
    path, moments, losses, squares = [theta], [], [], []
    for _ in range(steps + 1):
        loss, gradient, _ = operator.linearise(theta)
        losses.append(loss)
        squares.append(float(gradient @ gradient))
        if rule is None:
            theta = theta - lr * gradient
        else:
            moment = rule.beta2 * moment + (1 - rule.beta2) * gradient.square()
            theta = theta - lr * gradient / rule.diagonal(moment)
        moments.append(moment)
        path.append(theta)
    return path, moments, np.array(losses), np.array(squares)


def moving(values: np.ndarray, window: int) -> np.ndarray:
    """Averages over windows."""
    return np.convolve(values, np.ones(window) / window, "valid")


def central_flow(name: str, seed: int, first: int, last: int) -> list[dict]:
    """Errors of the flow's time averages against the run's."""
    activation, optimizer, lr, radius = CASES[name]
    operator = problem(activation, seed, torch.float32)
    rule = RMSProp() if optimizer == "rmsprop" else None
    path, moments, losses, squares = train(operator, lr, last, rule)
    tracker, sharpness = CurvatureTracker(1, tol=1e-3), []
    for n in range(first, last, SPACING):
        product = operator.linearise(midpoint(*path[n - 1 : n + 2]))[2]
        if rule is not None:
            product, _ = precondition(product, rule.diagonal(moments[n]))
        sharpness.append(tracker.measure(product, torch.zeros_like(path[0])).top)
    begin = time.perf_counter()
    start = None if rule is None else RMSProp(rule.beta2, rule.eps, moments[first])
    flow = CentralFlow(operator, midpoint(*path[first - 1 : first + 2]), lr, preconditioner=start, radius=radius)
    points = flow.advance(last - first)
    seconds = time.perf_counter() - begin
    series = {
        "loss": (losses[first:last], [p.mean_loss for p in points], WINDOW),
        "loss, the center's": (losses[first:last], [p.loss for p in points], WINDOW),
        "squared gradient": (squares[first:last], [p.mean_squared_gradient for p in points], WINDOW),
        "sharpness": (np.array(sharpness), [p.effective_sharpness for p in points[::SPACING]], WINDOW // SPACING),
    }
    kinks = "" if radius is None else f", radius {radius:g}"
    case = f"central flow, {optimizer} lr {lr:g}, {activation}{kinks}, seed {seed}, steps {first}-{last}"
    values = {
        "directions held at the edge, most": float(max(len(p.covariance) for p in points)),
        "share of steps converged": float(np.mean([p.converged for p in points])),
        "run's sharpness over 2/lr, mean": float(np.mean(sharpness) * lr / 2),
        "gradients per step": flow.counted.gradients / len(points),
        "products per step": flow.counted.products / len(points),
        "third-order products per step": flow.third_order / len(points),
        "seconds": seconds,
    }
    for name, (run, model, window) in series.items():
        run, model = run[: len(model)], np.array(model)
        off = np.abs(moving(model, window) / moving(run, window) - 1)
        values[f"{name}: error of the average over all steps"] = float(model.mean() / run.mean() - 1)
        values[f"{name}: error of moving averages, mean"] = float(off.mean())
        values[f"{name}: error of moving averages, largest"] = float(off.max())
    print(case, {k: float(f"{v:.3g}") for k, v in values.items()}, flush=True)
    rows = [row("flows", case, k, v, "1", packages=PACKAGES) for k, v in values.items()]
    for name, bar in BARS.items():
        got = values[f"{name}: error of moving averages, largest"]
        verdict = "reached" if got <= bar else "missed"
        rows.append(
            row("flows", case, f"bar of {bar:g} on {name}, every moving average", verdict, "", packages=PACKAGES)
        )
    return rows


def main() -> None:
    """Print and write the rows; those of cases left out stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["gradient flow", *CASES], choices=["gradient flow", *CASES])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--start", type=int, default=300)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--until", type=float, default=100.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.cases:
        for seed in args.seeds if name in CASES else [0]:
            rows = central_flow(name, seed, args.start, args.steps) if name in CASES else gradient_flow(args.until)
            write("flows", rows, part=rows[0]["case"] if name in CASES else name)


if __name__ == "__main__":
    main()
