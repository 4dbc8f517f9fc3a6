"""``opposing signals`` on a small run, from training to the table and the JSON."""

import json

import pytest

from opposing.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals") / "run"
    options = ["--n-examples", "300", "--widths", "32", "--steps", "200", "--lr", "0.48", "--threads", "1"]
    assert main(["train", "--out", str(path), *options]) == 0
    return path


def test_text_and_json_name_the_same_signals(run, tmp_path, capsys):
    out = tmp_path / "signals.json"
    assert main(["signals", str(run), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    content = json.loads(out.read_text())
    assert "Opposing signals" in text
    assert f"{len(content['signals'])} signals in {content['windows']} windows of 40 steps" in text
    assert content["windows"] == 9
    assert content["signals"], "this run oscillates at the edge of stability"
    first = content["signals"][0]
    assert first["sharpness_over_critical_at_peak"] > 0.9
    assert first["pair"]["p_signs"] <= 0.01
    assert all(row["pair"]["p_value"] >= row["pair"]["p_signs"] for row in content["signals"])
    assert len(first["pair"]["members"]) == len(first["pair"]["signs"])
    assert main(["signals", str(run), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == content
    assert main(["signals", str(run), "--outliers", "--format", "json"]) == 0
    assert all(row["pair"]["p_value"] <= 0.01 for row in json.loads(capsys.readouterr().out)["signals"])
    assert main(["signals", str(run), "--out", str(out)]) == 2
    assert "out must be new" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--window", "12"], "window must be a multiple of 5 and at least 30, got 12"),
        (["--level", "2"], "level must lie between 0 and 1, got 2.0"),
        (["--format", "xml"], "format must be text or json, got 'xml'"),
    ],
)
def test_bad_input_is_one_line(run, args, message, capsys):
    assert main(["signals", str(run), *args]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
