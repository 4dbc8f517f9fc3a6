"""Measures of the balance of two groups: records with a known answer."""

import numpy as np
import pytest
from recorded import recorded

from nets.config import TrainConfig
from nets.presets.measures.valley import feature_gap, gradient_cosine, gradient_excess

NAN = np.nan
NAN_PAIR = [[NAN] * 2] * 2


def test_gap_of_two_outputs_at_the_last_probe_until_the_onset():
    rows = [[[9.0, 9.0, 0.0], [1.0, 3.0, 0.0]], [[NAN] * 3] * 2, [[9.0, 9.0, 0.0], [2.0, 1.0, 5.0]], [[0.0] * 3] * 2]
    run = recorded(config=TrainConfig(lr=1.0), probe_outputs=rows, sharpness=[1.0, 1.5, 1.9, 2.1])
    assert run.onset == 3
    assert feature_gap(run) == pytest.approx((2 + 1) / 2)
    assert feature_gap(run, end=4) == pytest.approx((2 + 1 + 0) / 3)
    assert feature_gap(run, second=2, begin=2) == 3
    assert np.isnan(feature_gap(run, begin=1, end=2))


def observed(norms, cosine):
    table = np.eye(3)
    table[0, 2] = table[2, 0] = cosine
    return recorded(
        group_grad_norm=[[NAN] * 3, norms],
        group_grad_cosine=[np.full((3, 3), NAN), table],
        fixed_gradient_group_value=[-1, 0, 1],
        sharpness=[0.1, 0.2],
    )


def test_gradients_of_the_groups():
    run = observed([4.0, 0.5, 3.0], -0.9)
    assert gradient_cosine(run) == pytest.approx(-0.9)
    assert gradient_cosine(run, first=0, second=1) == 0
    assert gradient_excess(run) == 6  # the smaller of 4 and 3 over 0.5
    assert gradient_excess(run, rest=1) == 1
    assert np.isnan(gradient_cosine(run, end=1))
    with pytest.raises(ValueError, match=r"groups must be among those observed, \[-1, 0, 1\], got -1 and 2"):
        gradient_cosine(run, second=2)
