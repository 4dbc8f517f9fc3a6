"""Figures: what they compute agrees with theory, and what they draw does not spill over."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from paper_figures import orbit_diagram, phase_diagram, theory, toy_valley
from paper_figures.registry import FIGURES, draw
from paper_figures.style import figure_style
from toymodels.phase_config import PhaseConfig


@pytest.fixture(scope="module")
def data():
    return theory.compute()


def test_theory_figure_computes_what_it_claims(data):
    assert data["flow_error"] < 1e-9
    assert abs(data["forecast"].onset_step - data["onset"]) <= 0.01 * data["onset"]
    assert abs(data["forecast"].spike_step - data["spike"]) <= 0.02 * data["spike"]
    # below what float64 can hold, so that a naive simulation could not draw this figure
    assert data["log10_u"]["gradient descent"].min() < np.log10(np.finfo(float).smallest_subnormal)
    assert data["sharpness"]["closed form"][0] < data["edge"] < data["sharpness"]["closed form"][-1]


def test_theory_figure_is_drawn_inside_its_page(data):
    with figure_style():
        figure = theory.plot(data)
        figure.canvas.draw()
        page = figure.bbox
        for ax in figure.axes:
            box = ax.get_tightbbox()
            assert box is not None
            assert box.x0 >= page.x0 - 1
            assert box.x1 <= page.x1 + 1
        plt.close(figure)


def test_phase_diagram_shows_all_it_speaks_of():
    data = phase_diagram.compute(PhaseConfig(lrs=120, alphas=90))
    assert set(np.unique(data["code"])) >= {0, 2, 3, 4}
    # the claim of the title: at a fixed step size in units of 1/alpha the spike comes later for a stronger feature
    column = data["spike"][:, np.searchsorted(data["lr_alpha"], 2.5)]
    column = column[np.isfinite(column)]
    assert column[-1] > 5 * column[len(column) // 2] > 5 * column[0]
    with figure_style():
        figure = phase_diagram.plot(data)
        figure.canvas.draw()
        box = figure.axes[0].get_tightbbox()
        assert box is not None
        assert box.x0 >= -1
        plt.close(figure)


def test_draw_writes_both_formats_and_refuses_the_unknown(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = draw("theory", tmp_path)
    assert [f.suffix for f in files] == [".png", ".pdf"]
    assert all(f.stat().st_size > 10_000 for f in files)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["theory.pdf", "theory.png"]
    with pytest.raises(ValueError, match="figure must be one of"):
        draw("nothing", tmp_path)
    with pytest.raises(ValueError, match="needs a run"):
        draw("groups", tmp_path)
    assert len({entry.claim for entry in FIGURES.values()}) == len(FIGURES)


def inside_its_page(figure):
    """Every text and axis of a drawn figure lies within it, and no title runs into the next panel's."""
    figure.canvas.draw()
    page, titles = figure.bbox, []
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box is not None
        assert page.x0 - 1 <= box.x0
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
        titles.append(ax._left_title.get_window_extent())
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])


def test_toy_valley_bounces_wider_until_it_is_thrown_back():
    data = toy_valley.compute()
    narrow, back = data["phase"] == 1, data["phase"] == 2
    assert (data["path_curvature"][narrow] > data["edge"]).all()
    assert (data["path_curvature"][data["phase"] == 0] <= data["edge"]).all()
    across = data["path_x"][narrow]
    assert (np.sign(across[1:]) == -np.sign(across[:-1])).all()
    assert (np.abs(across[1:]) > np.abs(across[:-1])).all()
    assert data["path_z"][back].min() < data["limit"] < data["path_z"][narrow].min() + 0.05
    assert np.argmax(data["path_loss"][20:]) + 20 in np.flatnonzero(back)
    # the surface's own second difference across the floor gives the limit too (a parabola: exact)
    h, middle = data["x"][1] - data["x"][0], int(np.argmin(np.abs(data["x"])))
    bend = (data["loss"][middle - 1] - 2 * data["loss"][middle] + data["loss"][middle + 1]) / h**2
    assert np.interp(data["edge"], bend, data["z"]) == pytest.approx(data["limit"], rel=1e-9)
    assert np.ptp(data["curvature"][1]) == 0
    assert all(data["curvature"][d][-1] > data["edge"] > data["curvature"][d][0] for d in (2, 3, 4))
    with figure_style():
        figure = toy_valley.plot(data)
        inside_its_page(figure)
        plt.close(figure)


def test_orbit_diagram_agrees_with_what_is_derived():
    data = orbit_diagram.compute(columns=120, samples=40, pixels=40)
    before = data["g"] < 0.98
    np.testing.assert_allclose(data["samples"][:, before], orbit_diagram.BETA**0.5, atol=1e-9)
    assert (np.abs(data["samples"]) < data["escape"] * (1 + 1e-9)).all()
    cycle = (data["g"] > 1.02) & (data["g"] < 1.22)
    for k in np.flatnonzero(cycle):
        stated = [np.interp(data["g"][k], data["cycle_g"], branch) for branch in data["cycle"]]
        assert np.abs(data["samples"][:, k, None] - stated).min(1).max() < 1e-3
    signs = np.sign(data["samples"]).min(0)
    assert (signs[data["g"] < data["landmarks"]["both signs merge"]] > 0).all()
    assert data["exponent"][-1] == pytest.approx(np.log(3), abs=2 * np.log(4000) / 4000)
    assert (data["exponent"][before] < 0).all()
    assert ((data["plane"] == 3) == (data["level"] > 4)).all()
    # the circle is exact for beta -> 0; at this beta the pixels next to it may differ
    clear = np.abs(data["circle"] - 4) > 0.25
    assert ((data["across"] == 3) == (data["circle"] > 4))[clear].all()
    with figure_style():
        figure = orbit_diagram.plot(data)
        inside_its_page(figure)
        plt.close(figure)
