"""The phase diagram: resumable to the same bits, refused over another's folder, consistent with theory."""

from typing import Any

import numpy as np
import pytest

from toymodels import phase, simulate_gd
from toymodels.model import ReducedState
from toymodels.phase import OUTCOMES, compute_phase, open_phase, outcome, phase_boundaries
from toymodels.phase_config import PhaseConfig

SMALL = PhaseConfig(lrs=60, alphas=40, steps=1500, alpha_min=20)


def test_interrupted_and_undisturbed_agree_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(phase, "BLOCK", 60 * 7)
    whole = compute_phase(tmp_path / "whole.zarr", SMALL).load()

    class Stop(Exception):
        pass

    seen = []

    def stop_after_two(done, total):
        seen.append((done, total))
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        compute_phase(tmp_path / "cut.zarr", SMALL, stop_after_two)
    half = open_phase(tmp_path / "cut.zarr")
    assert (half.status.values[:14] >= 0).all()
    assert (half.status.values[14:] == -1).all()
    made = []
    original = phase.simulate
    monkeypatch.setattr(phase, "simulate", lambda *a, **k: made.append(1) or original(*a, **k))
    again = compute_phase(tmp_path / "cut.zarr", SMALL).load()
    assert len(made) == 4  # six blocks, two of them there
    for name in phase.ARRAYS:
        np.testing.assert_array_equal(whole[name].values, again[name].values)


def test_points_are_single_runs_and_the_derived_edge_separates(tmp_path):
    data = compute_phase(tmp_path / "p.zarr", SMALL).load()
    rng = np.random.default_rng(0)
    for i, j in zip(rng.integers(0, 40, 12), rng.integers(0, 60, 12), strict=True):
        alpha, lr = SMALL.alpha[i], SMALL.lr_alpha[j] / SMALL.alpha[i]
        run = simulate_gd(ReducedState(0.55, 0.05, 0.1, 1e-3), 1.0, alpha, lr, 1500, stride=1500).isel(run=0)
        for name in ("onset_step", "spike_step", "peak_step", "last_step", "status"):
            assert int(run[name]) == int(data[name][i, j])
    code = outcome(data, SMALL)
    edge = phase_boundaries(SMALL)["edge"][:, None]
    # descent differs from flow by O(lr): 2 percent of lr * alpha are far more than that for alpha >= 200
    strong = SMALL.alpha >= 200
    assert (code[(SMALL.lr_alpha < 0.98 * edge) & strong[:, None]] == 0).all()
    assert (code[(SMALL.lr_alpha > 1.02 * edge) & strong[:, None]] != 0).all()
    assert set(np.unique(code)) <= set(range(len(OUTCOMES)))
    assert (code == 3).sum() > 100
    assert (code == 4).sum() > 100


def test_bad_input_and_foreign_folders_are_refused(tmp_path):
    compute_phase(tmp_path / "p.zarr", PhaseConfig(lrs=4, alphas=3, steps=5))
    with pytest.raises(ValueError, match="steps 5 there, 6 asked"):
        compute_phase(tmp_path / "p.zarr", PhaseConfig(lrs=4, alphas=3, steps=6))
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="must be new or hold a phase diagram"):
        compute_phase(tmp_path / "other", SMALL)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"lr_alpha_min": 0.0}, "lr_alpha_min must be positive"),
        ({"alpha_max": 1.0}, "alpha_max must be finite and above"),
        ({"lrs": 1}, "lrs must be >= 2"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"optimizer": "x"}, "optimizer must be one of"),
    )
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            PhaseConfig(**arguments)
