"""The figure of causality, drawn from made-up arrays of one seed and of several."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_figures import inside_its_page

from paper_figures import causality
from paper_figures.style import figure_style


@pytest.mark.parametrize("seeds", [1, 5])
def test_every_seed_is_drawn_inside_the_page(seeds):
    rng = np.random.default_rng(0)
    names = ("control", "random", "highest_loss", "pair")
    late = {name: 60 + 5.0 * np.arange(seeds) for name in names}
    late["pair"][0] = np.nan  # no onset before the run ends
    data = {
        "seeds": seeds,
        "action": "drop",
        "share": 0.05,
        "members": 50,
        "critical": 40.0,
        "steps": 100,
        "first": dict.fromkeys(names, 0),
        "sharpness": {name: [np.linspace(5, 45, 100) + rng.normal(size=100) for _ in range(seeds)] for name in names},
        "loss": {name: [np.linspace(2, 0.1, 90 + k) for k in range(seeds)] for name in names},
        "ratio": {name: rng.uniform(0.5, 1.2, seeds) for name in names},
        "forecast": {name: rng.uniform(0.5, 1.2, seeds) for name in names},
        "onset": late,
        "title": "CIFAR-10, tanh MLP, cross-entropy",
    }
    with figure_style():
        figure = causality.plot(data)
        inside_its_page(figure)
        drawn = [line.get_ydata() for line in figure.axes[1].lines]
        for name in names[1:]:
            assert any(len(y) == seeds and np.array_equal(y, data["ratio"][name]) for y in drawn)
        delays = np.concatenate([np.asarray(line.get_ydata()) for line in figure.axes[3].lines])
        assert 100 - 60 in delays  # the run that has no onset stands at the end
        plt.close(figure)
