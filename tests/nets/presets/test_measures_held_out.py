"""Measures on held-out examples: records with a known answer, and with none."""

from types import SimpleNamespace

import numpy as np
import pytest
from recorded import recorded

from nets.presets.measures.held_out import (
    double_descent,
    first_used,
    held_out_accuracy,
    learning_delay,
    parameters_at_peak,
    reliance,
)

NAN = np.nan


def test_accuracy_of_the_last_observations():
    run = recorded(held_out_accuracy=[0.1, NAN, 0.5, NAN, 0.7, NAN])
    assert held_out_accuracy(run) == 0.7
    assert held_out_accuracy(run, last=2) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="needs held_out_accuracy in the record"):
        held_out_accuracy(recorded(loss=[1.0]))


def test_delay_between_fitting_and_generalising():
    own, other = np.linspace(0, 1, 101), np.linspace(0, 0.95, 101)
    run = recorded(accuracy=np.minimum(5 * own, 1), held_out_accuracy=np.where(np.arange(101) % 10, NAN, other))
    assert learning_delay(run) == 100 / 20
    assert np.isnan(learning_delay(recorded(accuracy=own, held_out_accuracy=0.5 * other)))
    assert np.isnan(learning_delay(recorded(accuracy=0.5 * own, held_out_accuracy=other)))


def test_what_an_input_contributes_and_since_when():
    run = recorded(
        held_out_accuracy=[0.5, NAN, 0.9, 0.9, 1.0],
        permuted_accuracy=[[0.5, 0.5], [NAN, NAN], [0.5, 0.9], [0.5, 0.85], [0.5, 0.5]],
        fixed_permuted_column=[0.0, 4.0],
    )
    assert reliance(run) == 0.5
    assert reliance(run, column=4, last=2) == pytest.approx((0.05 + 0.5) / 2)
    assert (first_used(run), first_used(run, column=4)) == (2, 4)
    assert np.isnan(first_used(run, lost=0.6))
    with pytest.raises(ValueError, match=r"column must be one of those observed, \[0, 4\], got 1"):
        reliance(run, column=1)


def sweep(errors, parameters=range(100, 1000, 100)):
    problems = [
        SimpleNamespace(n_parameters=p, inputs=np.zeros((20, 3)), task=SimpleNamespace(n_outputs=10))
        for p in parameters
    ]
    return [recorded(problem, held_out_accuracy=[1 - e]) for problem, e in zip(problems, errors, strict=False)]


def test_a_second_descent_and_where_it_begins():
    runs = sweep([0.9, 0.4, 0.2, 0.5, 0.6, 0.3, 0.25])
    assert double_descent(runs) == pytest.approx(0.6 - 0.25)  # the larger of 0.2 before and 0.25 after
    assert parameters_at_peak(runs) == 500 / 200
    deeper = sweep([0.9, 0.4, 0.3, 0.5, 0.2])
    assert double_descent(deeper) == pytest.approx(0.5 - 0.3)


@pytest.mark.parametrize("errors", [[0.9, 0.5, 0.3, 0.2], [0.2, 0.3, 0.5, 0.9], [0.9, 0.3, 0.4, 0.5]])
def test_one_descent_or_none_is_not_two(errors):
    assert double_descent(sweep(errors)) == 0


def test_without_numbers_there_is_no_value():
    assert np.isnan(double_descent([recorded(held_out_accuracy=[NAN])] * 4))
    assert np.isnan(parameters_at_peak(sweep([0.9, 0.5, 0.3])))
