"""Losses of the opposing groups: difference and sum, their law along the step and the flow, what shows first."""

from typing import Any

import numpy as np
import sympy as sp

from toymodels.derivations.registry import Check, Derivation, Step
from toymodels.groups import group_lead, group_loss_flow, group_loss_series, rise_amplitudes
from toymodels.model import ReducedState, TwoLayerLinear
from toymodels.symbolic import SymbolicModel, two_layer

__all__ = ["ROWS"]

C, B_PAR, B_PERP, U = two_layer().weights
BETA, ALPHA = two_layer().parameters
LR, SHARE, G0, DROP = sp.symbols("eta p g_0 delta", positive=True)
X1, X2, SIGN = sp.symbols("x_1 x_2 s_i", real=True)
W, S = sp.symbols("w s", positive=True)
A = sp.sqrt(ALPHA / SHARE)


def _group(sign: int) -> Any:
    """Loss of the examples of one sign (0: without the feature), averaged over the core by its first two moments."""
    error = C * (B_PAR * X1 + B_PERP * X2) + C * A * SIGN * U - BETA * X1 - G0 * SIGN**2
    example = SymbolicModel(two_layer().weights, (BETA, ALPHA), error**2 / 2)
    poly = sp.Poly(sp.expand(example.loss.subs(SIGN, sign)), X1, X2)
    return sum(coefficient for powers, coefficient in poly.terms() if powers in ((0, 0), (2, 0), (0, 2)))


def _difference() -> Any:
    return _group(1) - _group(-1)


def _parts_residual() -> list[Any]:
    core = (BETA - C * B_PAR) ** 2 + C**2 * B_PERP**2
    return [
        sp.expand(_difference() + 2 * G0 * C * A * U),
        sp.expand(_group(1) + _group(-1) - core - C**2 * A**2 * U**2 - G0**2),
        sp.expand(
            SHARE * (_group(1) + _group(-1)) / 2 + (1 - SHARE) * _group(0) - two_layer().loss - SHARE * G0**2 / 2
        ),
    ]


def _exchange_residual() -> list[Any]:
    """u -> -u exchanges; the generated step does that at s = 2 with the others held."""
    step: Any = two_layer().gd_map(LR)
    turned = step[3].subs(LR, 2 / (ALPHA * C**2))
    return [sp.expand(_group(1).subs(U, -U) - _group(-1)), sp.expand(turned + U)]


def _no_orbit_residual() -> list[Any]:
    """With b_par at rest (c r = 0, so r = 0) the step lowers c by lr c (b_perp^2 + alpha u^2): no period 2 with c at rest."""
    step: Any = two_layer().gd_map(LR)
    rest = {BETA: C * B_PAR}
    return [
        sp.expand(step[1] - B_PAR - LR * C * (BETA - C * B_PAR)),
        sp.expand((step[0] - C).subs(rest) + LR * C * (B_PERP**2 + ALPHA * U**2)),
    ]


def _step_residual() -> Any:
    """Difference after one full step, times c, minus c' (1 - s) times the difference before it."""
    step: Any = two_layer().gd_map(LR)
    moved = _difference().subs(dict(zip(two_layer().weights, step, strict=True)), simultaneous=True)
    return sp.expand(moved * C - step[0] * (1 - LR * ALPHA * C**2) * _difference())


def _flow_residual() -> Any:
    """d(l+ - l-)/dt minus (c'/c - alpha c^2)(l+ - l-), along the generated flow."""
    model, difference = two_layer(), sp.expand(_difference())
    return sp.expand(model.along_flow(difference) * C - (model.flow[0] - ALPHA * C**3) * difference)


def _even_residual() -> list[Any]:
    """The flow of c, b_par and b_perp is even in u."""
    flow: Any = two_layer().flow
    return [sp.expand(flow[i] - flow[i].subs(U, -U)) for i in range(3)]


def _in_w(expression: Any) -> Any:
    return sp.expand(sp.expand(expression).subs(U, W / (C * A)))


def _share_residual() -> list[Any]:
    """(l± - l±(0))/(L - L(0)) = (1 -+ 2 g0/w)/p, the core held."""
    total = _in_w(two_layer().loss - two_layer().loss.subs(U, 0))
    return [
        sp.simplify(_in_w(_group(sign) - _group(sign).subs(U, 0)) / total - (1 - sign * 2 * G0 / W) / SHARE)
        for sign in (1, -1)
    ]


def _rise_residual() -> list[Any]:
    """Changes over w -> (1 - s) w (w > 0: the + group loses), and their zeros at the stated amplitudes."""

    def change(loss: Any) -> Any:
        before = _in_w(loss)
        return sp.expand(before.subs(W, (1 - S) * W) - before) - DROP

    group, total = change(_group(1)), change(two_layer().loss)
    root = sp.Symbol("R", positive=True)  # R^2 = s^2 g0^2 + 2 delta s (s - 2)
    at = sp.expand(sp.together(group.subs(W, 2 * DROP / (S * G0 + root)) * (S * G0 + root) ** 2))
    return [
        sp.expand(group - (-DROP + S * G0 * W + S * (S - 2) * W**2 / 2)),
        sp.expand(total - (-DROP + SHARE * S * (S - 2) * W**2 / 2)),
        sp.simplify(at.subs(root, sp.sqrt(S**2 * G0**2 + 2 * DROP * S * (S - 2)))),
        sp.simplify(total.subs(W, sp.sqrt(2 * DROP / (SHARE * S * (S - 2))))),
    ]


# numerical oracles ---------------------------------------------------------------------------------------------------

MODEL = TwoLayerLinear(4, 3, beta=1.2, alpha=20.0, p=0.2, gamma=0.3)


def examples(model: TwoLayerLinear) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features x, x_o, targets and weights of a finite set with exactly the moments of the model (x = ±e_i sqrt d1)."""
    core = np.concatenate([np.eye(model.d1), -np.eye(model.d1)]) * np.sqrt(model.d1)
    sign = np.repeat([1.0, -1.0, 0.0], len(core))
    x = np.tile(core, (3, 1))
    x_o = sign[:, None] * np.full(model.d2, np.sqrt(model.alpha / (model.p * model.d2)))
    beta = np.zeros(model.d1)
    beta[0] = model.beta
    weight = np.where(sign == 0, 1 - model.p, model.p / 2) / len(core)
    return x, x_o, x @ beta + model.gamma * np.abs(x_o.sum(1)), weight


def trained(model: TwoLayerLinear, start: ReducedState, lr: float, steps: int) -> dict[str, np.ndarray]:
    """Gradient descent on the vectors (c, b, b_o) over the examples; losses of the groups and all, c and b_par by step."""
    x, x_o, y, weight = examples(model)
    b, b_o, c = np.zeros(model.d1), np.full(model.d2, start.u / np.sqrt(model.d2)), float(start.c)
    b[:2] = start.b_par, start.b_perp
    rows = []
    for _ in range(steps + 1):
        inner = x @ b + x_o @ b_o
        error = c * inner - y
        groups = [np.average(error**2 / 2, weights=weight * (np.sign(x_o[:, 0]) == s)) for s in (1, -1)]
        rows.append([*groups, weight @ error**2 / 2, c, b[0]])
        pull = weight * error
        c, b, b_o = c - lr * (pull @ inner), b - lr * c * (pull @ x), b_o - lr * c * (pull @ x_o)
    return dict(zip(("plus", "minus", "total", "c", "b_par"), np.array(rows).T, strict=True))


def _series_error() -> tuple[float, float]:
    """Vectors trained on the examples, c moving, past the edge and back; relative to the losses.

    Bound: rounding of 60 steps, each amplified at most by the measured growth of the oscillation.
    """
    start = ReducedState(1.0, 0.9, 0.3, 1e-3)
    run = trained(MODEL, start, 2.3 / 20.0, 60)
    got = group_loss_series(MODEL, run["c"], run["b_par"], 2.3 / 20.0, start.u, start.b_perp)
    pairs = ((got.plus, run["plus"]), (got.minus, run["minus"]), (got.total, run["total"]))
    worst = max(float(np.abs(x / y - 1).max()) for x, y in pairs)
    alternate = np.sign(got.difference[1:] * got.difference[:-1])
    growth = float(np.abs((run["plus"] - run["minus"]) / (run["plus"] - run["minus"])[0]).max())
    above = MODEL.alpha * 2.3 / 20.0 * run["c"][:-1] ** 2 > 1
    return (worst if (alternate[above] < 0).all() and above.any() else np.inf), 60 * growth * 2.3e-16


def _exchange_error() -> tuple[float, float]:
    """Frozen c at s = 2: the losses of the two signs, summed over examples, exchange at u -> -u."""
    x, x_o, y, weight = examples(MODEL)
    lr, c = 2 / (MODEL.alpha * 1.1**2), 1.1
    b, b_o = np.array([0.7, 0.2, 0.0, 0.0]), np.full(3, 0.4)
    sides = []
    for _ in range(2):
        error = c * (x @ b + x_o @ b_o) - y
        sides.append([float(np.average(error**2 / 2, weights=weight * (np.sign(x_o[:, 0]) == s))) for s in (1, -1)])
        b_o = b_o - lr * c * ((weight * error) @ x_o)
    return max(abs(sides[0][0] / sides[1][1] - 1), abs(sides[0][1] / sides[1][0] - 1)), 1e-14


def _flow_error() -> tuple[float, float]:
    """Order in u0 of the closed form's error on the difference, relative, against the full flow: 2."""
    from toymodels.simulation import simulate_flow

    t, error = np.linspace(0.0, 0.4, 9)[1:], []
    for u0 in (0.02, 0.01):
        start = ReducedState(0.6, 0.4, 0.3, u0)
        c, b, perp, u = simulate_flow(start, MODEL.beta, MODEL.alpha, [0.0, *t], rtol=1e-12)[:, 1:]
        plus, minus = MODEL.group_losses(ReducedState(c, b, perp, u))
        got = group_loss_flow(MODEL, start)(t).difference
        # the difference is cancellation-limited where u has died: compare where it is above the solver's error
        keep = np.abs(got) > 1e-6
        error.append(float(np.abs(got[keep] / (plus - minus)[keep] - 1).max()))
    # halving u0 divides an even error by 4 + O(u0^2); coefficient of O(u0^2) is of order alpha
    return abs(error[0] / error[1] - 4), 4 * MODEL.alpha * 0.02**2


def _rise_error() -> tuple[float, float]:
    """First rises of an iterated oscillation, c frozen, every loss lowered by delta a step: amplitudes bracketed."""
    s, g0, p, drop, worst = 2.2, 0.8, 0.1, 1e-4, 0.0
    group, total = (float(x) for x in rise_amplitudes(s, g0, p, drop))
    for edge, share in ((group, None), (total, p)):
        for factor, rises in ((0.999, False), (1.001, True)):
            w = np.array([factor * edge, (1 - s) * factor * edge])
            loss = (w - g0) ** 2 / 2 if share is None else share * ((w - g0) ** 2 + (w + g0) ** 2) / 4
            worst += float((loss[1] - loss[0] - drop > 0) != rises)
    # and the lead: steps of growth by s - 1 from one amplitude to the other
    steps, w = 0, group
    while w < total:
        w, steps = w * (s - 1), steps + 1
    return worst + abs(np.ceil(float(group_lead(s, g0, p, drop))) - steps), 0.0


ROWS = (
    Derivation(
        "group-losses",
        "Difference, sum and mean of the group losses",
        r"\ell_+-\ell_- = -2g_0\,c\,a\,u,\quad \ell_++\ell_- = r_2+c^2a^2u^2+g_0^2,\quad"
        r" \tfrac p2(\ell_++\ell_-)+(1-p)\tfrac12r_2 = L+\tfrac p2g_0^2,\quad r_2=r^2+c^2b_\perp^2,\; a=\sqrt{\alpha/p}",
        ("core features of mean 0 and covariance I, independent of the signs",),
        "all parameters",
        "proved",
        (Step("from the loss of one example of each sort", _parts_residual),),
        (Check("vectors trained on examples: both groups and the mean, relative", _series_error),),
        numeric="toymodels.groups:group_loss_series",
    ),
    Derivation(
        "group-exchange",
        "The groups exchange their losses",
        r"u\to-u:\ \ell_+\leftrightarrow\ell_-;\quad s=2:\ u_{n+1}=-u_n;\quad"
        r" r=0:\ c_{n+1}-c_n=-\eta c(b_\perp^2+\alpha u^2)",
        (
            "c, b_par and b_perp held: the exchange is exact; an orbit with c and b_par at rest and u != 0 does not exist",
        ),
        "all parameters",
        "proved",
        (
            Step("the losses exchange under u -> -u, which is the generated step at s = 2", _exchange_residual),
            Step("b_par rests only at r = 0 (or c = 0), and there c falls as long as u != 0", _no_orbit_residual),
        ),
        (Check("losses summed over examples across one step at s = 2, relative", _exchange_error),),
        numeric="toymodels.groups:group_loss_series",
    ),
    Derivation(
        "group-difference-step",
        "The difference of the groups alternates",
        r"(\ell_+-\ell_-)_{n+1} = \frac{c_{n+1}}{c_n}(1-s_n)\,(\ell_+-\ell_-)_n,\quad s_n=\eta\alpha c_n^2",
        ("gradient descent", "c != 0"),
        "exact for the full step; at frozen c the ratio is 1 - s: the sign alternates for s > 1, the size grows for s > 2",
        "proved",
        (Step("difference after the generated step", _step_residual),),
        (Check("trained vectors: sign alternates wherever s > 1, losses agree", _series_error),),
        numeric="toymodels.groups:group_loss_series",
    ),
    Derivation(
        "group-flow",
        "Group losses along gradient flow",
        r"\ell_+-\ell_- = -2g_0\,a\,c(t)\,u_0e^{-\alpha\tau},\quad \tfrac{d}{dt}\log|\ell_+-\ell_-| = \dot c/c-\alpha c^2",
        ("gradient flow", "numeric function: c and the clock of the flow with u = 0, off by O(u0^2)"),
        "exact given c(t); the closed form to first order in u0",
        "proved",
        (
            Step("law of the difference along the generated flow", _flow_residual),
            Step("the flow of c, b_par and b_perp is even in u: corrections are of second order", _even_residual),
        ),
        (Check("error of the closed form falls by 4 when u0 is halved", _flow_error),),
        numeric="toymodels.groups:group_loss_flow",
    ),
    Derivation(
        "group-rise",
        "Groups show the oscillation before the total does",
        r"\frac{\ell_\pm-\ell_\pm(0)}{L-L(0)} = \frac1p\Big(1\mp\frac{2g_0}{w}\Big),\quad w=cau;\qquad"
        r" w_g = \frac{2\delta}{sg_0+\sqrt{s^2g_0^2+2\delta s(s-2)}},\; w_t = \sqrt{\frac{2\delta}{ps(s-2)}}",
        ("c frozen in the opposing term", "the rest of the step lowers the mean loss of every group by delta"),
        "s > 2 for w_t; the lead is log(w_t/w_g)/log(s - 1) steps",
        "proved",
        (
            Step("share of the excess, core held", _share_residual),
            Step("changes over one step vanish at the stated amplitudes", _rise_residual),
        ),
        (Check("losses of an iterated oscillation: rises bracketed to 1e-3, lead counted", _rise_error),),
        numeric="toymodels.groups:rise_amplitudes",
    ),
)
