"""How far the sharpness rises: records whose ratios are known."""

import numpy as np
import pytest
from recorded import recorded

from nets.presets.measures.sharpening import least_ascent, most_sharpening, sharpening


def ends(first, last):
    return recorded(sharpness=[first, np.nan, 7.0, last, np.nan])


def test_sharpening_is_the_last_measured_over_the_first():
    assert sharpening(ends(2.0, 6.0)) == 3
    assert sharpening(recorded(sharpness=[np.nan, 2.0, 4.0], first_step=1)) == 2


def test_the_run_furthest_from_no_change():
    assert most_sharpening([ends(2, 2.2), ends(2, 1.0), ends(2, 3.8)]) == 0.5
    assert np.isnan(most_sharpening([]))


def test_ascent_within_a_grid_and_between_grids():
    assert least_ascent([ends(1, e) for e in (1.0, 2.0, 3.0, 12.0)]) == 1.5
    assert least_ascent([ends(1, e) for e in (1.0, 2.0, 1.0)]) == 0.5
    shallow, middle, deep = ([ends(1, e) for e in row] for row in ((1, 10), (2, 12), (8, 36)))
    assert least_ascent(shallow, middle, deep) == pytest.approx(1.2)
    with pytest.raises(ValueError, match="grids must have one length"):
        least_ascent(shallow, middle[:1])
