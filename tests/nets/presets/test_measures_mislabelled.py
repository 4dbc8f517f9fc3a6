"""The share of the wrong labels in the sharpness, against the dense Hessians of the examples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recorded import recorded

from nets.config import TrainConfig
from nets.data import load_data
from nets.descent import Problem
from nets.presets.measures.mislabelled import mislabelled_share

NOISY = TrainConfig(n_examples=30, data_options=("classes=3,8", "label_noise=0.3"), widths=(2,), dtype="float64")


def end_of_a_run(error, config=NOISY, seed=0):
    """An outcome whose network stands at random weights."""
    problem = Problem(config, load_data(config))
    theta = 0.3 * torch.randn(problem.n_parameters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    outcome = recorded(problem, config, held_out_accuracy=[1 - error])
    run: SimpleNamespace = outcome.trained  # type: ignore[assignment]
    run.parameters = lambda: problem.module_at(theta)
    run.theta = theta
    return outcome


def dense_share(outcome):
    problem, module = outcome.trained.problem, outcome.trained.problem.new_module()
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]

    def losses(theta):
        parts = theta.split([s.numel() for s in shapes])
        given = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return problem.loss(torch.func.functional_call(module, given, (problem.inputs,)), problem.targets)

    hessians = torch.func.jacfwd(torch.func.jacrev(losses))(outcome.trained.theta)
    v = torch.linalg.eigh(hessians.mean(0))[1][:, -1]
    curvature = torch.einsum("p,npq,q->n", v, hessians, v).numpy()
    wrong = problem.dataset.truth["noisy"]
    return curvature[wrong].sum() / curvature.sum() / wrong.mean()


def test_share_of_the_run_at_the_peak_and_of_the_last():
    runs = [end_of_a_run(e, seed=k) for k, e in enumerate((0.3, 0.5, 0.2))]
    shares = [dense_share(run) for run in runs]
    assert mislabelled_share(runs) == pytest.approx(shares[1], rel=0.01)
    assert mislabelled_share(runs, last=True) == pytest.approx(shares[2], rel=0.01)
    assert abs(shares[1] - shares[2]) > 0.05  # so that the two cannot be mistaken


def test_no_peak_and_no_wrong_labels():
    falling = [end_of_a_run(e) for e in (0.5, 0.3, 0.2)]
    assert np.isnan(mislabelled_share(falling))
    clean = TrainConfig(n_examples=30, data_options=("classes=3,8",), widths=(2,), dtype="float64")
    with pytest.raises(ValueError, match="needs wrong labels, made has none"):
        mislabelled_share([end_of_a_run(e, clean) for e in (0.3, 0.5, 0.2)])
