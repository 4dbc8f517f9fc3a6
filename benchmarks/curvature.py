"""Tracking the sharpness at the edge of stability and from a cold start, against the tools in use, in one process.

Costs are counted in plain full-batch gradients measured beside the products (medians, interleaved), errors against
a float64 reference. Peers that are not installed have the value None. ``--scale 1 --steps 200`` is the full size:
5,000, 1,000 and 512 examples; smaller ones are for shared machines. On a GPU:
``--scale 1 --steps 200 --cases ABC --device cuda``, and ``--cases R --chunk 1000 --device cuda`` for ResNet-18 on all
50,000 images.
"""

import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg as sl
import torch
from curvature_cases import CASES, Case
from curvature_peers import (
    Counted,
    best_eigsh,
    best_lobpcg,
    curvlinops_seconds,
    eigenthings_products,
    pyhessian_products,
)
from rows import row, write
from torch import Tensor

from analysis.curvature import CurvatureTracker, LossCurvature, midpoint

PACKAGES = ("torch", "scipy", "numpy", "curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings")
EXAMPLES = {"A": 5000, "B": 1000, "C": 512, "R": 50000}
PEAK = {"A": 1.6, "B": 0.8, "C": 0.8, "R": 0.8}  # highest lr, in 2/(sharpness at the start)
RAMP = 100
SHARE = 0.1  # of the examples, in the surrogate
MODES: dict[str, tuple[str, bool, dict]] = {  # where, steered by a surrogate, options of the tracker
    "midpoint, steered, tol 3e-3": ("midpoint", True, {"tol": 3e-3}),
    "midpoint, steered, tol 1e-3": ("midpoint", True, {"tol": 1e-3}),
    "iterate, steered, tol 1e-2": ("iterate", True, {"tol": 1e-2}),
    "iterate, steered, tol 3e-3": ("iterate", True, {"tol": 3e-3}),
    "iterate, steered, tol 1e-3": ("iterate", True, {"tol": 1e-3}),
    "iterate, two spaces, tol 1e-3": ("iterate", False, {"tol": 1e-3, "parity": 2}),
    "top 5, iterate, steered, tol 1e-3": ("iterate", True, {"k": 5, "tol": 1e-3}),
}
FIVE = 5  # steps from one reference of the five largest to the next


def costs(case: Case, curvature: LossCurvature, sample: LossCurvature, repeats: int = 7) -> dict[str, float]:
    """Seconds of a gradient, of a gradient with its graph, and of products; interleaved, medians."""
    params = curvature.params
    vector = torch.randn_like(curvature.point())
    point = curvature.point()

    def gradient():
        torch.autograd.grad(case.loss(case.module(case.inputs), case.targets).mean(), params)

    def forward_over_reverse():
        def grads(*p):
            names = dict(zip(curvature.names, p, strict=True))

            def loss(q):
                return case.loss(torch.func.functional_call(case.module, q, (case.inputs,)), case.targets).mean()

            return torch.func.grad(loss)(names)

        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            points = tuple(p.detach() for p in params)
            torch.func.jvp(grads, points, tuple(torch.ones_like(p) for p in points))

    def difference():
        for sign in (1, -1):
            torch.nn.utils.vector_to_parameters(point + sign * 1e-3 * vector / vector.norm(), params)
            gradient()
        torch.nn.utils.vector_to_parameters(point, params)

    product, image = curvature.linearise()[2], sample.linearise()[2]
    jobs = {
        "gradient": gradient,
        "gradient with graph": lambda: curvature.linearise(),
        "product, double backward": lambda: product(vector),
        "product, jvp of grad": forward_over_reverse,
        "product, central difference": difference,
        "surrogate, gradient with graph": lambda: sample.linearise(),
        "surrogate, product": lambda: image(vector),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for i in range(repeats + 1):
        for name, job in jobs.items():
            begin = clock()
            job()
            if i:
                times[name].append(clock() - begin)
    return {name: float(np.median(t)) for name, t in times.items()}


def clock() -> float:
    """Seconds, with the device's work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def lanczos_floor(matvec: Callable[[Tensor], Tensor], zero: Tensor, exact: np.ndarray, most: int = 90) -> int:
    """Products after which plain Lanczos, stopped at the best moment, has every wanted value to 1e-3."""
    basis = zero.new_zeros(most + 1, len(zero))
    v = torch.randn(len(zero), generator=torch.Generator().manual_seed(1)).to(zero)
    basis[0] = v / v.norm()
    alpha, beta = [], []
    for j in range(most):
        w = matvec(basis[j])
        alpha.append(float(w @ basis[j]))
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        matrix = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
        ritz = np.sort(np.linalg.eigvalsh(matrix))[::-1]
        k = len(exact)
        if len(ritz) >= k and np.all(np.abs(ritz[:k] / exact - 1) <= 1e-3):
            return j + 1
        beta.append(float(w.norm()))
        basis[j + 1] = w / beta[-1]
    return most + 1


def main() -> None:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cases", default="ABC")
    parser.add_argument("--every", type=int, default=1, help="steps from one reference to the next")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunk", type=int, default=None, help="examples at a time; by default all")
    args = parser.parse_args()
    for name in args.cases:
        case = CASES[name](int(EXAMPLES[name] * args.scale)).to(args.device)
        write("curvature", run_case(case, args.steps, args.chunk, args.every), part=f"{name}, ")


def run_case(case: Case, steps: int, chunk: int | None, every: int) -> list[dict]:
    """All rows of one problem: at the start, then tracking at the edge."""
    rows: list[dict] = []
    label = f"{case.name}, {len(case.inputs)} examples, {case.source}"

    def add(where: str, metric: str, value, unit: str, baseline: str = "", base=None) -> None:
        print(f"{label:<44}{where:<44}{metric:<46}{value if value is None else round(value, 7)}", flush=True)
        about: dict = {"baseline": baseline, "baseline_value": base, "packages": PACKAGES}
        if case.inputs.is_cuda:
            about["device"] = torch.cuda.get_device_name(case.inputs.device)
        rows.append(row("curvature", f"{label}; {where}", metric, value, unit, **about))

    single = LossCurvature(case.module, case.loss, case.inputs, case.targets, chunk_size=chunk)
    double = LossCurvature(
        _double(case.module), case.loss, _double(case.inputs), _double(case.targets), chunk_size=chunk
    )
    sample = single.sample(max(1, round(SHARE * single.n)))
    seconds = costs(case, single, sample)
    for job, t in seconds.items():
        add("costs", job, t / seconds["gradient"], "gradients")
    peer = curvlinops_seconds(case, single)
    add("costs", "product, curvlinops", None if peer is None else peer / seconds["gradient"], "gradients")
    price = {job: t / seconds["gradient"] for job, t in seconds.items()}

    theta = single.point()
    _cold(add, "start", case, single, double, theta)
    lr0 = 2 / _reference(double, theta, 1)[0][0]
    for s in range(RAMP + 20):
        theta = (
            theta - lr0 * min(0.8 + (PEAK[case.name] - 0.8) * s / RAMP, PEAK[case.name]) * single.linearise(theta)[1]
        )
    lr = lr0 * PEAK[case.name]
    _cold(add, "edge", case, single, double, theta)

    exact: dict[str, list[np.ndarray]] = {"midpoint": [], "iterate": []}
    found: dict[str, list] = {mode: [] for mode in MODES}
    trackers = {m: CurvatureTracker(**({"k": 1} | o)) for m, (*_, o) in MODES.items()}
    starts: dict[str, np.ndarray | None] = dict.fromkeys(exact)
    times: dict[str, list[float]] = {mode: [] for mode in MODES}
    plain: list[float] = []
    sampled: list[tuple[Tensor, np.ndarray]] = []
    before, here = theta, theta - lr * single.linearise(theta)[1]
    for s in range(steps + 1):
        after = here - lr * single.linearise(here)[1]
        for where, point in (("midpoint", midpoint(before, here, after)), ("iterate", here)):
            # the last steps are consecutive, as a peer that tracks would take them
            several = where == "iterate" and (s % (FIVE * every) == 0 or s >= steps - 4)
            if several or s % every == 0:
                values, starts[where] = _reference(double, point, 5 if several else 1, starts[where])
            else:
                values = np.empty(0)
            exact[where].append(values)
            matvec, image = single.linearise(point)[2], sample.linearise(point)[2]
            for mode, (at, steered, _) in MODES.items():
                if at == where:
                    zero, begin = torch.zeros_like(point), clock()
                    found[mode].append(trackers[mode].measure(matvec, zero, image if steered else None))
                    times[mode].append(clock() - begin)
        begin = clock()
        torch.autograd.grad(case.loss(case.module(case.inputs), case.targets).mean(), single.params)
        plain.append(clock() - begin)
        if s >= steps - 4:
            sampled.append((here, exact["iterate"][-1]))
        before, here = here, after

    add("edge", "lr x sharpness, median", float(np.median([e[0] for e in exact["iterate"] if len(e)]) * lr), "1")
    points = [(Counted(single.linearise(p)[2], p), e) for p, e in sampled]
    eigsh = {k: best_eigsh(points, k) for k in (1, 5)}
    lobpcg = {1: best_lobpcg(points, 1), 5: None}
    for k in (1, 5):
        tuned = eigsh[k]
        setting = "" if tuned is None else f" ({tuned[1]})"
        add("edge", f"top {k}: eigsh, warm, best tuned{setting}", None if tuned is None else tuned[0], "products")
    add("edge", "top 1: LOBPCG (scipy), warm", lobpcg[1], "products")
    for mode, (at, steered, options) in MODES.items():
        k = options.get("k", 1)
        pairs = [(r, e[:k]) for r, e in zip(found[mode][1:], exact[at][1:], strict=True) if len(e) >= k]
        error = np.array([np.abs(r.values.numpy() / e - 1).max() for r, e in pairs])
        claimed = np.array([r.errors.numpy().max() for r, _ in pairs])
        flags = np.array([bool(r.converged.all()) for r, _ in pairs])
        searched, checked, images = (
            float(np.mean([f(r) for r in found[mode][1:]]))
            for f in (
                lambda r: r.products - r.check_products,
                lambda r: r.check_products,
                lambda r: r.surrogate_products,
            )
        )
        extra = searched * price["product, double backward"] + images * price["surrogate, product"]
        extra += price["gradient with graph"] - (at == "iterate")
        extra += price["surrogate, gradient with graph"] * steered
        others = [b for b in (eigsh[k][0] if eigsh[k] else None, lobpcg[k]) if b is not None]
        best = min(others) if others else None
        add(f"edge; {mode}", "products per step", searched, "products", "best peer, warm, to 1e-3", best)
        add(f"edge; {mode}", "surrogate's products per step", images, "products")
        add(f"edge; {mode}", "products of the checks per step", checked, "products")
        add(f"edge; {mode}", "extra gradient steps per step", extra, "gradients")
        add(f"edge; {mode}", "seconds of a measurement, median", float(np.median(times[mode])), "s")
        add(f"edge; {mode}", "the same in gradients of this run", float(np.median(times[mode]) / np.median(plain)), "1")
        add(
            f"edge; {mode}",
            "extra gradient steps per step, with the checks",
            extra + checked * price["product, double backward"],
            "gradients",
        )
        for statistic, q in (("median", 0.5), ("95th percentile", 0.95), ("worst", 1.0)):
            add(f"edge; {mode}", f"relative error, {statistic}", float(np.quantile(error, q)), "1")
        add(f"edge; {mode}", "share of steps within own estimate", float(np.mean(error <= claimed + 1e-5)), "1")
        add(f"edge; {mode}", "share of steps beyond 1e-3", float(np.mean(error > 1e-3)), "1")
        add(f"edge; {mode}", "share of steps called converged", float(np.mean(flags)), "1")
        wrong = float(np.sum(flags & (error > options["tol"])))
        add(f"edge; {mode}", "steps called converged beyond the tolerance", wrong, "1")
    return rows


def _cold(add, where: str, case: Case, single: LossCurvature, double: LossCurvature, theta: Tensor) -> None:
    matvec = single.linearise(theta)[2]
    torch.nn.utils.vector_to_parameters(theta.clone(), single.params)
    top = _reference(double, theta, 5)[0]
    for k in (1, 5):
        floor = lanczos_floor(matvec, torch.zeros_like(theta), top[:k])
        ours = CurvatureTracker(k, tol=1e-3, check_every=1).measure(matvec, torch.zeros_like(theta))
        search = CurvatureTracker(k, tol=1e-3, max_check=0).measure(matvec, torch.zeros_like(theta))
        wrong = float(np.abs(search.values.numpy() / top[:k] - 1).max())
        add(where, f"cold, top {k}: Lanczos floor", floor, "products")
        add(where, f"cold, top {k}: search", search.products, "products", "Lanczos floor", floor)
        add(where, f"cold, top {k}: search, relative error", wrong, "1")
        add(where, f"cold, top {k}: search and check", ours.products, "products", "Lanczos floor", floor)
        add(where, f"cold, top {k}: all converged", float(ours.converged.all()), "1")
        tuned = best_eigsh([(Counted(matvec, theta), top)], k)
        add(where, f"cold, top {k}: eigsh, best tuned", None if tuned is None else tuned[0], "products")
        things = eigenthings_products(Counted(matvec, theta), top[:k])
        add(where, f"cold, top {k}: hessian-eigenthings Lanczos, steps known", things, "products")
    power = pyhessian_products(case, float(top[0]))
    add(where, "cold, top 1: PyHessian power iteration", None if power is None else power[0], "products")


def _reference(double: LossCurvature, theta: Tensor, k: int, start: np.ndarray | None = None):
    """The k largest eigenvalues in float64 by ARPACK, independent of the tracker, and a start for the next call."""
    matvec = double.linearise(theta.double())[2]

    def product(v: np.ndarray) -> np.ndarray:
        return matvec(torch.from_numpy(v.reshape(-1)).to(theta.device)).cpu().numpy()

    operator = sl.LinearOperator((double.size, double.size), matvec=product, dtype=float)
    values, vectors = sl.eigsh(operator, k, which="LA", ncv=2 * k + 12, tol=1e-5, v0=start)
    return np.sort(values)[::-1], vectors.sum(axis=1)


def _double(thing):
    if isinstance(thing, Tensor):
        return thing.double() if thing.is_floating_point() else thing
    return copy.deepcopy(thing).double()


if __name__ == "__main__":
    main()
