"""Two opposing groups under the logistic loss: curvature, growth without end, the saturated oscillation."""

from functools import partial

from toymodels.derivations import logistic_oracles as oracles
from toymodels.derivations import logistic_steps as steps
from toymodels.derivations.registry import Check, Derivation, Step

__all__ = ["ROWS"]

FROZEN = (
    "c held while u moves",
    "outliers without core feature (mu = 0)",
    "labels alike, y s = +1 with probability (1+rho)/2",
)
BALANCED = ("mu = 0, rho = 0", "u = 0, c = b > 0", "gradient flow")
SOURCE = "derived here; logistic counterpart of the model of Rosenfeld & Risteski (2024), arXiv 2311.04163"
row = partial(Derivation, status="proved", source=SOURCE)
ROWS = (
    row(
        "logistic-curvature",
        "Logistic loss: curvature along the opposing direction",
        r"L = (1-p)\log(1+e^{-mcb})+p\big[\log 2\cosh\tfrac w2-\rho\tfrac w2\big],\; w=cau:\quad "
        r"L_u = \tfrac{pca}2\big(\tanh\tfrac w2-\rho\big),\; L_{uu} = \tfrac{\alpha c^2}4\mathrm{sech}^2\tfrac w2,\quad"
        r"\text{edge: } c^2 = \frac{8}{\eta\alpha(1-\rho^2)}",
        FROZEN,
        "rho in (-1, 1); alpha c^2/4 at u = 0 against alpha c^2 for the squared loss",
        steps=(
            Step("loss summed over labels and signs, in closed form", steps.reduction_residual),
            Step("gradient, curvature, curvature at the floor tanh(w/2) = rho and its edge", steps.curvature_residual),
        ),
        checks=(Check("bisection on the growth of vectors trained on examples, relative", oracles.growth_error),),
        numeric="toymodels.logistic:logistic_critical_c2",
    ),
    row(
        "logistic-sharpness",
        "Logistic loss: sharpness on the balanced line",
        r"S = \max\big(\tfrac{\alpha c^2}4,\;(1-p)m(2z\sigma(z)\sigma(-z)-\sigma(-z)),\;(1-p)m\sigma(-z)\big),\quad z=mc^2",
        ("mu = 0, rho = 0", "u = 0, c = b"),
        "all c; the core's two eigenvalues die out, the opposing one grows",
        steps=(Step("eigenvectors (1,1,0), (1,-1,0), (0,0,1) of the generated Hessian", steps.sharpness_residual),),
        checks=(Check("dense eigenvalues of the generated Hessian, relative to its norm", oracles.dense_error),),
        numeric="toymodels.logistic:logistic_sharpness",
    ),
    row(
        "logistic-flow",
        "Logistic loss: the second layer grows for ever",
        r"z=mc^2:\quad \dot z=2(1-p)m\,z\,\sigma(-z),\quad \log z+\mathrm{Ei}(z)\Big|_{z_0}^{z}=2(1-p)mt,\quad mc^2\sim\log t",
        BALANCED,
        "c0 > 0, any time",
        steps=(
            Step("the line c = b, u = 0 is kept and log z + Ei(z) runs at a constant rate", steps.flow_residual),
            Step("that clock rises to infinity like e^z/z: no limit, z ~ log t", steps.endless_residual),
        ),
        checks=(Check("generated flow solved to rtol 1e-12", oracles.flow_error),),
        numeric="toymodels.logistic:logistic_flow",
    ),
    row(
        "logistic-onset",
        "Logistic loss: onset of the edge",
        r"t^* = \frac{F(8m/(\eta\alpha))-F(mc_0^2)}{2(1-p)m},\quad F(z)=\log z+\mathrm{Ei}(z)",
        BALANCED,
        "c0^2 < 8/(lr alpha); finite for every lr",
        steps=(
            Step("the curvature is 2/lr at z* = 8m/(lr alpha)", steps.edge_residual),
            Step("F(mc^2) runs at the rate 2(1-p)m", steps.flow_residual),
        ),
        checks=(Check("root on the solved flow, relative", oracles.onset_error),),
        numeric="toymodels.logistic:logistic_onset_time",
    ),
    row(
        "logistic-flip",
        "Logistic loss: the flip at the edge is supercritical",
        r"w\leftarrow w-2s(\tanh\tfrac w2-\rho),\; s=\tfrac{\eta\alpha c^2}4:\quad a^2+b=\tfrac16+\tfrac{\rho^2}2>0,\;"
        r"\text{Schwarzian}=-1-3\rho^2<0,\quad d^2\simeq\frac{s(1-\rho^2)-2}{1/6+\rho^2/2}",
        FROZEN,
        "s(1-rho^2) near 2; d half the distance of the orbit's ends",
        steps=(
            Step("the generated step in w", steps.map_residual),
            Step("slope -1, a^2 + b and the Schwarzian at the floor", steps.flip_residual),
            Step("second iterate of the normal form", steps.flip_form_residual),
        ),
        checks=(Check("amplitude of vectors trained on examples, extrapolated to the edge", oracles.near_flip_error),),
        numeric="toymodels.logistic:logistic_period_two",
    ),
    row(
        "logistic-period-two",
        "Logistic loss: the saturated oscillation",
        r"\rho=0:\ w=s\tanh\tfrac w2 \iff u=\tfrac\eta2L_u,\quad \text{one orbit for } s>2,\ \text{multiplier}"
        r"\ \big(1-\tfrac{2w}{\sinh w}\big)^2<1;\quad |w_{n+1}|\le\max(|w_n|,2s)",
        FROZEN,
        "any s for the bound; any rho in (-1, 1) for the orbit, one for s(1-rho^2) > 2, none below; the multiplier is that of rho = 0",
        steps=(
            Step("the generated step sends the orbit to its mirror; slope there", steps.orbit_residual),
            Step(
                "tanh(x)/x falls from 1, sinh x > x: one orbit iff s > 2, and 0 < 2w/sinh w < 2", steps.unique_residual
            ),
            Step("any rho: the orbit's equation, its convexity and the solver's form of it", steps.skew_residual),
            Step("no blow-up at frozen c", steps.bounded_residual),
        ),
        checks=(Check("last steps of vectors trained on examples", oracles.amplitude_error),),
        numeric="toymodels.logistic:logistic_period_two",
    ),
    row(
        "logistic-edge",
        "Logistic loss: gradient descent rests at the edge",
        r"\tfrac p2 w\tanh\tfrac w2 = (1-p)\,z\,\sigma(-z),\; z=mcb,\quad s=\frac{\eta\alpha c^2}4=\frac w{\tanh(w/2)}>2,"
        r"\quad s-2\simeq\frac{w^2}6\simeq\frac{2(1-p)}{3p}\,z\,\sigma(-z)\to0\ (b\to\infty)",
        ("mu = 0, rho = 0", "b held: then c and |u| are exactly at rest; the drift of b is slow, not 0"),
        "every b > 0; the approximation of s - 2 for small w",
        steps=(
            Step("push on c over a generated step, even in u", steps.rest_residual),
            Step("one solution for every b; s near 2", steps.one_rest_residual),
        ),
        checks=(Check("generated steps of c and u until they repeat, relative", oracles.edge_error),),
        numeric="toymodels.logistic:logistic_edge",
    ),
    row(
        "logistic-shared-core",
        "Logistic loss: outliers that share the core feature",
        r"L_{uu}=\alpha q\,\sigma(\mu q)\sigma(-\mu q),\; q=c^2:\quad \max = \frac\alpha\mu\frac{x^{*2}-1}{4x^*},\;"
        r"x^*\tanh\tfrac{x^*}2=1,\quad x^*\approx1.5434",
        ("outliers have core margin mu > 0", "u = 0, rho = 0, c = b"),
        "the curvature rises, peaks and dies out: the edge is met only for lr > 2/max",
        steps=(
            Step(
                "curvature of the generated Hessian, its slope, its value at the one zero of the slope",
                steps.peak_residual,
            ),
        ),
        checks=(Check("maximum of the generated curvature by search, relative", oracles.peak_error),),
        numeric="toymodels.logistic:logistic_peak_curvature",
    ),
)
