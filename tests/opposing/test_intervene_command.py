"""``opposing intervene`` and its figures on a small planted run, from training to the table."""

import json

import numpy as np
import pytest

from opposing.cli import main
from paper_figures import causality

PLANTED = ["alpha=100", "channels=1", "n_classes=2", "p=0.05", "signal=1", "size=6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("intervene") / "run"
    options = ["--data", "planted", "--data-options", *PLANTED, "--n-examples", "300", "--widths", "16"]
    options += ["--activation", "relu", "--lr", "0.1", "--steps", "130", "--eig-tol", "0.02", "--threads", "1"]
    assert main(["train", "--out", str(path), *options]) == 0
    return path


@pytest.fixture(scope="module")
def into(run):
    folder = run.parent / "into"
    assert main(["intervene", str(run), "--into", str(folder), "--by", "projections", "--controls"]) == 0
    return folder


def test_table_and_json_agree_and_the_same_command_goes_on(run, into, capsys):
    result = json.loads((into / "effects.json").read_text())
    assert main(["intervene", str(run), "--into", str(into), "--by", "projections", "--controls"]) == 0
    out = capsys.readouterr().out
    assert json.loads((into / "effects.json").read_text()) == result
    assert "forecast at step" in out
    for name, row in result["runs"].items():
        line = next(text for text in out.splitlines() if text.strip().startswith(name.replace("_", " ")))
        assert f"{row['ratio']:.2f}" in line
        assert f"{row['outcome']['final_loss']:.3g}" in line
    assert set(result["runs"]) == {"control", "pair", "random", "highest_loss"}


def test_pairs_of_the_record_have_the_numbers_of_the_signals_table(run, tmp_path, capsys):
    assert main(["signals", str(run), "--format", "json"]) == 0
    signals = json.loads(capsys.readouterr().out)["signals"]
    number = next(k for k, row in enumerate(signals) if row["pair"]["members"])
    command = ["intervene", str(run), "--into", str(tmp_path / "x"), "--action", "downweight", "--steps", "120"]
    assert main([*command, "--group", str(number), "--options", "weight=0.2", "--share", "0.02"]) == 0
    forecast = json.loads((tmp_path / "x" / "forecasts" / "intervention.json").read_text())
    arm = forecast["arms"]["pair"]
    assert set(forecast["arms"]) == {"pair"}
    assert 1 <= len(arm["first"]) + len(arm["second"]) <= 6
    sign = dict(zip(signals[number]["pair"]["members"], signals[number]["pair"]["signs"], strict=True))
    assert [sign[i] for i in arm["first"]] == [1] * len(arm["first"])
    assert [sign[i] for i in arm["second"]] == [-1] * len(arm["second"])


def test_figures_show_what_is_on_disk(into, tmp_path):
    data = causality.compute(into)
    result = json.loads((into / "effects.json").read_text())["runs"]
    for name, row in result.items():
        assert data["ratio"][name].tolist() == [row["ratio"]]
        onset = row["outcome"]["onset"]
        assert data["onset"][name].tolist() == [onset] or (onset is None and np.isnan(data["onset"][name]).all())
        assert len(data["sharpness"][name][0]) == 130
    assert main(["figures", "pair", "causality", "--run", str(into), "--out", str(tmp_path)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["causality.pdf", "causality.png", "pair.pdf", "pair.png"]
    with pytest.raises(ValueError, match="must hold an intervention with its controls, got none"):
        causality.compute(tmp_path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--action", "delete"], "action must be one of drop"),
        (["--group", "99"], "group must be below the"),
        (["--at", "130"], "at must be a step below 129"),
        (["--options", "sigma=2"], "options of drop must be among none; got sigma"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, args, message, capsys):
    assert main(["intervene", str(run), "--into", str(tmp_path / "x"), *args]) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
    assert not (tmp_path / "x").exists()
