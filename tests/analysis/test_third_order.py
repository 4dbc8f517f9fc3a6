"""How curvature changes: against dense differences and along trajectories; the coefficients of the reduced map."""

import math

import numpy as np
import pytest
import torch
from flow_nets import Toy, descend, half_square, small_net

from analysis.curvature import LossCurvature, curvature_slopes, midpoint
from analysis.flows import GradientFlow, operator_slopes, reduced_coefficients
from analysis.projection import demodulated_amplitude, edge_coefficients, example_losses


def dense_hessian(operator, point):
    matvec = operator.linearise(point)[2]
    return torch.stack([matvec(e) for e in torch.eye(len(point), dtype=point.dtype)])


def dense_slopes(operator, point, vectors, step=1e-5):
    """∇(vᵢᵀHvⱼ) by central differences, one coordinate at a time."""

    def curvatures(at):
        matvec = operator.linearise(at)[2]
        return vectors @ torch.stack([matvec(v) for v in vectors]).T

    moves = step * torch.eye(len(point), dtype=point.dtype)
    return torch.stack([(curvatures(point + e) - curvatures(point - e)) / (2 * step) for e in moves], dim=-1)


class Normed(torch.nn.Module):
    """A normalisation and attention: kernels whose third derivatives torch gets wrong, or has not."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.last = torch.nn.Linear(4, 4), norm, torch.nn.Linear(2, 2)

    def forward(self, x):
        h = self.norm(self.first(x)).reshape(len(x), 1, 2, 2)
        return self.last(torch.nn.functional.scaled_dot_product_attention(h, h, h)).flatten(1)


def operators():
    torch.manual_seed(0)
    x = torch.randn(11, 4, dtype=torch.float64)
    norms = {
        "batchnorm": torch.nn.BatchNorm1d(4),
        "batchnorm, evaluation": torch.nn.BatchNorm1d(4).eval(),
        "layernorm": torch.nn.LayerNorm(4),
    }
    normed = {k: LossCurvature(Normed(n).double(), half_square, x, x.flip(1)) for k, n in norms.items()}
    return normed | {
        "mlp": small_net(n=8),
        "in chunks": small_net(n=8, chunk_size=5),
        "one layer": small_net(n=8, parameters=["0.weight"]),
    }


@pytest.mark.parametrize("name", ["mlp", "in chunks", "one layer", "batchnorm", "batchnorm, evaluation", "layernorm"])
def test_slopes_against_dense_differences(name):
    operator = operators()[name]
    before = {k: b.clone() for k, b in operator.module.named_buffers()}
    point = operator.point()
    vectors = torch.randn(2, len(point), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = dense_slopes(operator, point, vectors)
    found = operator_slopes(operator, point, vectors)
    scale = float(exact.abs().max())
    torch.testing.assert_close(found.slopes, exact, rtol=0, atol=1e-6 * scale)
    torch.testing.assert_close(found.gradient, operator.linearise(point)[1])
    torch.testing.assert_close(found.products, vectors @ dense_hessian(operator, point))
    for k, b in operator.module.named_buffers():
        torch.testing.assert_close(b, before[k], rtol=0, atol=0)


def test_differences_are_of_second_order_in_the_radius():
    operator = small_net(n=8)
    point = operator.point()
    vectors = torch.randn(2, len(point), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = operator_slopes(operator, point, vectors).slopes
    errors = [
        float((operator_slopes(operator, point, vectors, radius=r).slopes - exact).abs().max()) for r in (2e-3, 1e-3)
    ]
    assert errors[1] < 1e-3 * float(exact.abs().max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_no_vectors_give_the_gradient_alone():
    operator = small_net()
    none = torch.zeros(0, operator.size, dtype=torch.float64)
    for radius in (None, 0.1):
        found = operator_slopes(operator, operator.point(), none, radius=radius)
        assert found.slopes.shape == (0, 0, operator.size)
        torch.testing.assert_close(found.gradient, operator.linearise()[1])


def test_kinks_are_seen_by_differences_only():
    """|x|³-like: ½ relu(x)²·2 has the curvature 0 left of the kink and 2 right of it."""
    toy, here = Toy(lambda p: torch.relu(p).square().sum()), torch.tensor([0.01], dtype=torch.float64)
    v = torch.ones(1, 1, dtype=torch.float64)
    assert operator_slopes(toy, here, v, radius=0.1).slopes.item() == pytest.approx(2 / 0.2)
    assert curvature_slopes(lambda p: torch.relu(p[0]).square().sum(), [here], v).slopes.item() == 0


def test_sharpness_changes_along_the_flow_as_the_coefficients_say():
    r"""$\dot S = A - (\nabla S\cdot v)(\nabla L\cdot v)$ along gradient flow, by differences of the eigenvalue."""
    operator = small_net()
    flow, step = GradientFlow(operator, operator.point(), rtol=1e-9), 1e-3
    for t in (0.2, 1.5):
        tops, points = [], []
        for s in (t - step, t, t + step):
            flow.advance(s)
            tops.append(torch.linalg.eigvalsh(dense_hessian(operator, flow.point))[-1].item())
            points.append(flow.point.clone())
        v = torch.linalg.eigh(dense_hessian(operator, points[1]))[1][:, -1]
        c = reduced_coefficients(operator, points[1], v)
        assert c.sharpness == pytest.approx(tops[1], rel=1e-10)
        measured = (tops[2] - tops[0]) / (2 * step)
        assert c.progressive - c.along * c.slope == pytest.approx(measured, rel=1e-3)
        assert math.isnan(c.amplitude)


def test_the_same_as_edge_coefficients():
    operator = small_net()
    ((x, y),) = operator.chunks
    v = torch.randn(operator.size, dtype=torch.float64)
    earlier = (torch.randn_like(v), torch.randn_like(v))
    losses = example_losses(operator.module, half_square, x, y)
    one = edge_coefficients(losses, list(operator.module.parameters()), v, earlier)
    other = reduced_coefficients(operator, operator.point(), v, earlier)
    for name in ("sharpness", "progressive", "restoring", "slope", "along", "amplitude"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9)


def test_amplitude_of_a_known_oscillation():
    """Quadratic with one curvature at 2/η: x alternates for ever while the rest drifts."""
    curvatures = torch.tensor([20.0, 0.5, 1.0], dtype=torch.float64)
    toy = Toy(lambda p: 0.5 * (curvatures * p) @ p)
    path = descend(toy, torch.tensor([0.3, 1.0, -2.0], dtype=torch.float64), 0.1, 5)
    gradients = [toy.linearise(p)[1] for p in path]
    v = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for n in range(2, 6):
        found = demodulated_amplitude(*(gradients[n - i] for i in range(3)), v, 20.0)
        assert found == pytest.approx(float(path[n, 0]), rel=1e-9)


def test_oscillation_lowers_the_sharpness_as_the_coefficients_say():
    r"""A kick along v at ηS = 2.05: sharpness at midpoints changes by η(A − ½Bx²) a step (to third order in x)."""
    operator = small_net()
    flow = GradientFlow(operator, operator.point())
    flow.advance(100.0)
    values, vectors = torch.linalg.eigh(dense_hessian(operator, flow.point))
    lr = 2.05 / values[-1].item()
    path = descend(operator, flow.point + 0.02 * vectors[:, -1], lr, 40)
    gradients = [operator.linearise(p)[1] for p in path]
    centers = [midpoint(*path[n - 1 : n + 2]) for n in range(1, 40)]
    spectra = [torch.linalg.eigh(dense_hessian(operator, c)) for c in centers]
    tops = np.array([values[-1].item() for values, _ in spectra])
    change, forecast = [], []
    for i in range(1, len(centers) - 1):
        v = spectra[i][1][:, -1]
        c = reduced_coefficients(operator, centers[i], v)
        x = demodulated_amplitude(gradients[i + 2], gradients[i + 1], gradients[i], v, c.sharpness)
        forecast.append(lr * (c.progressive - 0.5 * c.restoring * x**2))
        change.append((tops[i + 1] - tops[i - 1]) / 2)
    change, forecast = np.array(change), np.array(forecast)
    assert np.linalg.norm(change - forecast) < 0.2 * np.linalg.norm(change)


def test_a_mean_loss_is_refused():
    operator = small_net()
    operator.loss = lambda outputs, targets: half_square(outputs, targets).mean()
    with pytest.raises(ValueError, match=r"loss must return one value per example, shape \(20,\), got \(\)"):
        operator_slopes(operator, operator.point(), torch.zeros(1, operator.size, dtype=torch.float64))


@pytest.mark.parametrize(
    ("radius", "operator", "message"),
    [
        (0.0, None, "radius must be positive and finite, got 0"),
        (None, Toy(lambda p: p @ p), "operator must be a LossCurvature of kind hessian"),
        (None, "gauss_newton", "operator must be a LossCurvature of kind hessian"),
    ],
)
def test_bad_options_are_named(radius, operator, message):
    operator = small_net(kind="gauss_newton") if operator == "gauss_newton" else operator
    with pytest.raises(ValueError, match=message):
        operator_slopes(operator, torch.zeros(67), torch.zeros(1, 67), radius=radius)
    with pytest.raises(ValueError, match=r"vectors must have shape \(k, 2\)"):
        curvature_slopes(lambda p: p[0] @ p[0], [torch.zeros(2)], torch.zeros(2))
