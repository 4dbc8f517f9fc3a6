"""The configuration refuses what cannot be run, and survives a round trip through TOML and JSON."""

import json
import subprocess
import sys

import pytest

from nets.config import ConfigError, TrainConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", "mnist"),
        ("n_examples", 0),
        ("n_examples", -3),
        ("n_examples", 2.5),
        ("n_examples", True),
        ("seed", -1),
        ("widths", (64, 0)),
        ("widths", 64),
        ("widths", "64"),
        ("activation", "gelu"),
        ("loss", "hinge"),
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("lr", "0.1"),
        ("steps", 0),
        ("dtype", "float16"),
        ("checkpoint_every", 0),
        ("eig_tol", 0.0),
        ("eig_tol", float("nan")),
        ("max_products", 1),
        ("threads", -1),
    ],
)
def test_refuses_with_one_clear_line(name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        TrainConfig(**{name: value})
    message = str(caught.value)
    assert "\n" not in message
    assert "got" in message
    assert ";" in message  # the remedy


def test_round_trips_through_json_and_toml():
    import tomllib

    config = TrainConfig(data="cifar10", data_path="some/folder", widths=(200, 200), lr=0.05)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    toml = "\n".join(f"{k} = {json.dumps(v)}" for k, v in config.to_dict().items())
    assert TrainConfig.from_dict(tomllib.loads(toml)) == config
    assert "data_path" not in TrainConfig().to_dict()  # TOML has no null


def test_unknown_option_is_named():
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainConfig.from_dict({"learning_rate": 0.1})


def test_hash_covers_every_option_but_the_place_of_the_data():
    base = TrainConfig()
    assert TrainConfig(data_path="elsewhere").config_hash == base.config_hash
    changed = [TrainConfig(lr=0.11), TrainConfig(seed=1), TrainConfig(widths=(64,)), TrainConfig(threads=1)]
    assert len({c.config_hash for c in [base, *changed]}) == 5


def test_imports_without_torch():
    code = "import sys, nets.config; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
