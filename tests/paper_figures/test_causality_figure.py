"""The figure of causality, drawn from made-up arrays of one seed and of several."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_figures import inside_its_page

from nets.causality import ACTIONS
from nets.config import TrainConfig
from nets.files import write_json
from nets.run import Run, create_run
from paper_figures import causality
from paper_figures.style import figure_style


def made_up(seeds, **changes):
    """What `causality.compute` gives, of made-up numbers."""
    rng = np.random.default_rng(0)
    names = ("control", "random", "highest_loss", "pair")
    late = {name: 60 + 5.0 * np.arange(seeds) for name in names}
    late["pair"][0] = np.nan  # no onset before the run ends
    return {
        "seeds": seeds,
        "action": "drop",
        "share": 0.05,
        "members": 50,
        "critical": 40.0,
        "steps": 100,
        "at": None,
        "first": dict.fromkeys(names, 0),
        "sharpness": {name: [np.linspace(5, 45, 100) + rng.normal(size=100) for _ in range(seeds)] for name in names},
        "loss": {name: [np.linspace(2, 0.1, 90 + k) for k in range(seeds)] for name in names},
        "ratio": {name: rng.uniform(0.5, 1.2, seeds) for name in names},
        "forecast": {name: rng.uniform(0.5, 1.2, seeds) for name in names},
        "onset": late,
        "title": "CIFAR-10, tanh MLP, cross-entropy",
        **changes,
    }


@pytest.mark.parametrize("seeds", [1, 5])
def test_every_seed_is_drawn_inside_the_page(seeds):
    data = made_up(seeds)
    with figure_style():
        figure = causality.plot(data)
        inside_its_page(figure)
        drawn = [line.get_ydata() for line in figure.axes[1].lines]
        for name in ("random", "highest_loss", "pair"):
            assert any(len(y) == seeds and np.array_equal(y, data["ratio"][name]) for y in drawn)
        delays = np.concatenate([np.asarray(line.get_ydata()) for line in figure.axes[3].lines])
        assert 100 - 60 in delays  # the run that has no onset stands at the end
        plt.close(figure)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("at", "when"), [(None, "before training"), (40, "from step 40 on")])
def test_the_title_says_what_was_done_and_when(action, at, when):
    with figure_style():
        figure = causality.plot(made_up(5, action=action, at=at))
        title = figure.get_suptitle()
        assert f"5 % of the examples {causality.DONE[action]} {when} (CIFAR-10" in title
        inside_its_page(figure)
        plt.close(figure)


def test_only_seeds_are_averaged(tmp_path):
    """Folders of the same question on the same run, on another seed, and on another network."""
    options = {"steps": 3, "data": "planted", "n_examples": 30, "threads": 1, "activation": "relu"}
    question = {"action": "drop", "share": 0.05, "at": None}
    row = {"outcome": {"onset": None}, "ratio": 1.0, "forecast": {"ratio": 1.0}}
    for name, changes in {
        "a": {"widths": (4,), "data_options": ("seed=0",)},
        "b": {"widths": (4,), "data_options": ("seed=1",), "seed": 1},
        "c": {"widths": (5,), "data_options": ("seed=2",), "seed": 2},
        "d": {"widths": (4,), "data_options": ("seed=3", "size=6"), "seed": 3},
    }.items():
        for arm in causality.ARMS:
            create_run(tmp_path / name / arm, TrainConfig(**options, **changes))
            Run.open(tmp_path / name / arm).advance()
        arms = {"pair": {"first": [0], "second": [1]}}
        (tmp_path / name / "forecasts").mkdir()
        write_json(tmp_path / name / "forecasts" / "intervention.json", {"arms": arms})
        runs = dict.fromkeys(causality.ARMS, row)
        asked = {**question, "parent_config": name}
        write_json(tmp_path / name / "effects.json", {"question": asked, "runs": runs, "critical": 20.0})
    data = causality.compute(tmp_path)
    assert data["seeds"] == 2
    for arm in causality.ARMS:
        for drawn, name in zip(data["loss"][arm], "ab", strict=True):
            np.testing.assert_array_equal(drawn, Run.open(tmp_path / name / arm).history().loss.values)
