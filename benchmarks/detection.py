"""Planted opposing signals: carriers recovered against strength, share and imbalance; nulls; baselines.

Rules. Data: the two-layer linear model of the theory ("linear", target γ|x_o|) and images with a planted ground
("images", a ReLU MLP, squared loss; chosen over tanh and over a stronger class signal on seeds that are not
used here). lr is 1.2 times 2/S, S the sharpness that a run at a fifth of 2/S(0) has reached. "losses": members of the
strongest significant pair of `find_signals`; nothing found counts as recall 0 and has no precision. "projections":
members of the pair, significant or not, of the projections on the top eigenvector at the first step (of every tenth,
from 10 on) at which the sharpness is 0.75 of 2/lr. The baselines look at the last step of the window (else of the
record) and are told the number of carriers: highest loss; largest one-step change; gradient cosine (number of examples
whose gradient has a cosine below -0.5). Nulls: the last window of a run, 200 seeds; lr 0.5 or 1.2 times 2/S.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from rows import row, write
from scipy.stats import binom
from torch import nn

from analysis.curvature import flat_hvp, flatten, top_eigenpair
from analysis.detection import OpposingPair, detect_in_losses
from analysis.observer import OpposingSignals
from analysis.timeline import find_signals
from nets.data import planted

N, D, STEPS = 400, 20, 300
ALPHAS = (0.0, 0.5, 1.0, 2.0, 5.0, 20.0, 50.0, 200.0)
SHARES = (0.02, 0.05, 0.2)
DELTAS = (0.5, 0.9)
GAMMA = 0.2  # of the target γ|x_o|, as in the two-layer model
BASE = {"alpha": 50.0, "share": 0.08, "delta": 0.0}
SEEDS, NULL_SEEDS, NULL_STEPS = 5, 200, 140


def half_square(outputs, targets):
    return 0.5 * (outputs - targets).square().sum(dim=1)


def linear(seed: int, alpha: float, share: float, delta: float, shuffled: bool = False):
    """Network, inputs, targets, carriers: the target depends on the size of the feature and not on its sign."""
    rng = np.random.default_rng([seed, 1])
    x = rng.standard_normal((N, D))
    y = x @ rng.standard_normal(D) / np.sqrt(D)
    carrier = rng.random(N) < share
    sign = np.where(rng.random(N) < (1 + delta) / 2, 1, -1) * carrier
    direction = rng.standard_normal(D)
    x = x + np.outer(sign, direction / np.linalg.norm(direction)) * np.sqrt(alpha / share)
    y = y + carrier * GAMMA * np.sqrt(alpha / share) + 0.1 * rng.standard_normal(N)
    y = rng.permutation(y) if shuffled else y
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(D, 32, bias=False), nn.Linear(32, 1, bias=False)).double()
    return net, torch.tensor(x), torch.tensor(y)[:, None], carrier


def images(seed: int, alpha: float, share: float, delta: float, shuffled: bool = False):
    """Images of 8×8×3 in 2 classes; carriers of the ground have class 0 or 1."""
    data = planted(N, alpha=max(alpha, 1e-9), p=share, delta=delta, size=8, n_classes=2, signal=1.0, seed=seed)
    labels = np.random.default_rng([seed, 2]).permutation(data.targets) if shuffled else data.targets
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 2)).double()
    return net, torch.tensor(data.inputs), torch.tensor(np.eye(2)[labels]), data.truth["carrier"]


KINDS = {"linear": linear, "images": images}


def sharpness(net: nn.Module, x: torch.Tensor, y: torch.Tensor):
    """Top eigenpair of the Hessian of the mean loss."""
    params = list(net.parameters())
    grads = torch.autograd.grad(half_square(net(x), y).mean(), params, create_graph=True)
    return top_eigenpair(flat_hvp(grads, params), flatten(grads).detach(), tol=1e-2, max_products=60)


def descend(net: nn.Module, x, y, lr: float, steps: int, look=None) -> np.ndarray:
    """Full-batch gradient descent; losses of every step."""
    record = []
    params = list(net.parameters())
    for n in range(steps):
        losses = half_square(net(x), y)
        record.append(losses.detach().numpy().copy())
        if look is not None:
            look(n)
        grads = torch.autograd.grad(losses.mean(), params)
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p -= lr * g
    return np.array(record)


def edge_lr(make, factor: float) -> float:
    """``factor`` times 2/S by the rule of the module's docstring."""
    net, x, y, _ = make()
    first = sharpness(net, x, y).value
    descend(net, x, y, 0.4 / first, 400)
    return factor * 2 / sharpness(net, x, y).value


def score(found: list[int], carrier: np.ndarray) -> tuple[float | None, float | None]:
    """Precision and recall."""
    if not carrier.any():
        return None, None
    hits = carrier[found].sum()
    return (float(hits / len(found)) if found else None), float(hits / carrier.sum())


def strongest(values: np.ndarray, k: int) -> list[int]:
    """The k largest magnitudes."""
    return np.argsort(-np.abs(values), kind="stable")[:k].tolist()


def by_cosine(signals: OpposingSignals, k: int) -> list[int]:
    """The k examples with the most opposed partners."""
    params = [p.detach() for p in signals.model.parameters()]
    rows = torch.func.jacrev(lambda *p: signals.losses(p), argnums=tuple(range(len(params))))(*params)
    g = torch.cat([r.flatten(1) for r in rows], dim=1)
    g = g / g.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return strongest((g @ g.T < -0.5).sum(1).numpy(), k)


def one_run(kind: str, seed: int, alpha: float, share: float, delta: float, shuffled: bool = False) -> dict[str, Any]:
    """All methods on one run."""

    def make():
        return KINDS[kind](seed, alpha, share, delta, shuffled)

    lr = edge_lr(make, 1.2)
    net, x, y, carrier = make()
    signals = OpposingSignals(net, half_square, (x, y))
    early: OpposingPair | None = None
    weights: dict[int, list[torch.Tensor]] = {}

    def look(n: int) -> None:
        nonlocal early
        weights[n] = [p.detach().clone() for p in net.parameters()]
        if early is None and n % 10 == 0 and n > 0:
            pair = sharpness(net, x, y)
            if pair.value >= 0.75 * 2 / lr:
                early = signals.project(pair.vector).pairs[0]

    record = descend(net, x, y, lr, STEPS, look)
    timeline = find_signals(record)
    best = max(timeline.signals, key=lambda s: float(np.linalg.norm(s.pair.weights)), default=None)
    step = STEPS - 1 if best is None else best.peak + 19
    with torch.no_grad():
        for p, w in zip(net.parameters(), weights[step], strict=True):
            p.copy_(w)
    k = max(int(carrier.sum()), 1)
    members = {
        "losses": [] if best is None else list(best.pair.members),
        "losses, told the number": [] if best is None else strongest(best.pair.weights, k),
        "projections": [] if early is None else list(early.members),
        "projections, told the number": [] if early is None else strongest(early.weights, k),
        "highest loss": strongest(np.maximum(record[step], 0.0), k),
        "largest one-step change": strongest(record[step] - record[step - 1], k),
        "gradient cosine": by_cosine(signals, k),
    }
    return {
        "detected": best is not None and bool(best.pair.members),
        "detected_by_projections": early is not None and early.p_value <= 0.05,
        "finite": bool(np.isfinite(record).all()),
        "opposition": None if best is None else best.pair.opposition,
        **{name: score(found, carrier) for name, found in members.items()},
    }


METHODS = (
    "losses",
    "losses, told the number",
    "projections",
    "projections, told the number",
    "highest loss",
    "largest one-step change",
    "gradient cosine",
)


def cases() -> list[dict[str, Any]]:
    """The grid: strength, then share, then imbalance, then shuffled labels."""
    grid = [{**BASE, "alpha": a} for a in ALPHAS]
    grid += [{**BASE, "share": p} for p in SHARES] + [{**BASE, "delta": d} for d in DELTAS]
    rows = [{"data": kind, **g, "shuffled": False} for kind in KINDS for g in grid]
    return rows + [{"data": kind, **BASE, "shuffled": True} for kind in KINDS]


def recovery(seeds: int) -> list[dict[str, Any]]:
    """Mean precision and recall over seeds of every case and method."""
    rows = []
    for case in cases():
        results = [one_run(case["data"], seed, case["alpha"], case["share"], case["delta"], case["shuffled"])
                   for seed in range(200, 200 + seeds)]  # fmt: skip
        label = ", ".join(f"{k} {v}" for k, v in case.items())

        def add(metric: str, value: float | None, unit: str = "1", label: str = label) -> None:
            rows.append(entry(f"planted: {label}, {seeds} seeds", metric, value, unit))

        for key in ("detected", "detected_by_projections", "finite"):
            add(f"runs {key.replace('_', ' ')}", int(sum(r[key] for r in results)))
        for method in METHODS:
            precision = [r[method][0] for r in results if r[method][0] is not None]
            recall = [r[method][1] for r in results if r[method][1] is not None]
            planted_any = case["alpha"] > 0
            add(f"{method}: precision", float(np.mean(precision)) if precision and planted_any else None)
            add(f"{method}: recall", float(np.mean(recall)) if planted_any else None)
    return rows


def null_rates(seeds: int) -> list[dict[str, Any]]:
    """Rate of p <= 0.05 in the last window without a planted signal, or with shuffled labels, below and at the edge."""
    rows = []
    for alpha, factor, shuffled in ((0.0, 0.5, False), (0.0, 1.2, False), (50.0, 0.5, True)):
        p, p_signs = [], []
        for seed in range(1000, 1000 + seeds):

            def make(seed=seed, alpha=alpha, shuffled=shuffled):
                return linear(seed, alpha, BASE["share"], 0.0, shuffled)

            net, x, y, _ = make()
            record = descend(net, x, y, edge_lr(make, factor), NULL_STEPS)
            if np.isfinite(record).all():
                found = detect_in_losses(record[-40:], NULL_STEPS - 40)
                p.append(found.p_value)
                p_signs.append(min(q.p_signs for q in found.pairs))
        label = f"null: alpha {alpha}, lr {factor} of critical, {'shuffled' if shuffled else 'true'} labels"
        values = {
            "runs finite": len(p),
            "runs detected at p <= 0.05": int((np.array(p) <= 0.05).sum()),
            "runs that oscillate at p <= 0.05": int((np.array(p_signs) <= 0.05).sum()),
            "most detections at the nominal rate (99.9 %)": int(binom.ppf(0.999, len(p), 0.05)),
        }
        rows += [entry(f"{label}, {seeds} seeds", metric, value, "1") for metric, value in values.items()]
    return rows


def overhead() -> list[dict[str, Any]]:
    """Time of the observer's step, losses at hand, beside a training step that records losses (no curvature)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3072, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    x, y = torch.randn(1000, 3072), torch.randint(0, 10, (1000,))
    signals = OpposingSignals(net, nn.CrossEntropyLoss(), (x, y))
    train, watch, sizes = [], [], []
    for step in range(60):
        begin = time.perf_counter()
        losses = nn.functional.cross_entropy(net(x), y, reduction="none")
        grads = torch.autograd.grad(losses.mean(), list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= 0.05 * g
        middle = time.perf_counter()
        signals.step(step, losses=losses)
        watch.append(time.perf_counter() - middle)
        train.append(middle - begin)
        sizes.append(signals.nbytes)
    label = "observer: 3072-200-200-10 ReLU, 1000 examples, float32"
    return [
        entry(label, "time of the observer over a training step", float(np.median(watch) / np.median(train)), "1"),
        entry(label, "bytes held after 60 steps", sizes[-1], "B"),
        entry(label, "bytes held after 45 steps", sizes[44], "B"),
    ]


def entry(case: str, metric: str, value: Any, unit: str) -> dict[str, Any]:
    """A row, printed as it is made."""
    print(f"{case:<84}{metric:<46}{value if value is None else round(value, 4)}", flush=True)
    return row("detection", case, metric, value, unit, packages=("numpy", "scipy", "torch"))


def main() -> None:
    """Run all and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--null-seeds", type=int, default=NULL_SEEDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    write("detection", [*recovery(args.seeds), *null_rates(args.null_seeds), *overhead()])


if __name__ == "__main__":
    main()
