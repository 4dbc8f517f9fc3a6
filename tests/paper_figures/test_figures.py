"""Figures: what they compute agrees with theory, and what they draw does not spill over."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from paper_figures import phase_diagram, theory
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
