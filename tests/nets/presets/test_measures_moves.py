"""Measures of optimizers' steps on grids whose best run is known."""

import numpy as np
import pytest
from made_outcomes import made

from nets.presets import MEASURES
from nets.presets.measures.moves import best_place, least_signed_share, path_along, path_share, path_variance


def ended(loss, lr, along=(0.0,), length=(1.0,), share=None, status="finished"):
    steps = len(along)
    series = {"loss": np.full(steps, loss), "move_v": np.array(along), "move_norm": np.array(length)}
    if share is not None:
        series["signed_share"] = np.full(steps, share)
    return made(steps=steps, series=series, lr=lr, status=status)


def test_the_path_is_that_of_the_best_run_where_it_was_observed():
    nan = np.nan
    best = ended(0.1, 0.2, along=(3.0, nan, -1.0, nan), length=(4.0, nan, 4.0, nan))
    runs = [ended(0.5, 0.1, along=(9.0,) * 4, length=(9.0,) * 4), best]
    assert path_along(runs) == 2.0
    assert path_share(runs) == 0.5
    assert path_variance(runs) == 4.0  # 3 and -1 about 1


def test_a_diverged_run_is_never_the_best():
    runs = [ended(-1.0, 0.4, along=(9.0,), status="diverged"), ended(0.5, 0.2, along=(1.0,))]
    assert path_along(runs) == 1.0


def test_place_of_the_best_rate_in_its_grid():
    rates = (0.1, 0.2, 0.4, 0.8)
    inside = [ended(abs(lr - 0.2), lr) for lr in rates]
    at_the_end = [ended(1 - lr, lr) for lr in rates]
    assert best_place(inside) == 1
    assert best_place(at_the_end) == 0
    assert MEASURES["best_place"](inside, at_the_end) == 0


def test_least_share_among_the_runs_that_are_good_enough():
    runs = [ended(1.0, 0.1, share=0.9), ended(1.04, 0.1, share=0.3), ended(1.06, 0.1, share=0.1)]
    assert least_signed_share(runs, [ended(1.0, 0.1)]) == pytest.approx(0.3)
    assert least_signed_share(runs, [ended(1.0, 0.1)], within=1.1) == pytest.approx(0.1)
    assert np.isnan(least_signed_share(runs, [ended(0.5, 0.1)]))


def test_runs_without_the_observer_say_so():
    with pytest.raises(ValueError, match="needs move_v in the record"):
        path_share([made(steps=4)])
    with pytest.raises(ValueError, match="best of no runs"):
        path_share([])
