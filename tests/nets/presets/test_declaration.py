"""What a preset's file may say, and the one line for whatever else it says."""

import copy
import textwrap
import tomllib
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from tiny_presets import TINY, tiny, toml, write

from nets.config import TrainConfig
from nets.data import load_data
from nets.presets import MEASURES, PresetError, declaration, load_preset, preset_names
from nets.presets.measure import Measure


def refusal(folder, text):
    path = write(folder, text)
    with pytest.raises(PresetError) as caught:
        load_preset(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    return message


def test_the_runs_of_a_form_and_a_seed(tmp_path):
    preset = tiny(tmp_path)
    plans = {plan.folder: plan for plan in preset.plans("quick", 7)}
    assert list(plans) == ["gd", "slow", "tuned,lr=0.05", "tuned,lr=0.1", "model", "leaves"]
    common = {"n_examples": 40, "widths": (8,), "lr": 0.1, "seed": 7, "threads": 1}
    assert plans["gd"].config == TrainConfig(**common, steps=20)
    assert plans["slow"].config == TrainConfig(**{**common, "lr": 0.01}, steps=20, eig_every=5)
    assert plans["tuned,lr=0.05"].config == TrainConfig(**{**common, "lr": 0.05}, steps=20)
    assert plans["leaves"].config == TrainConfig(**{**common, "lr": 0.05}, steps=20)
    assert (plans["leaves"].fork, plans["leaves"].at.steps, plans["leaves"].changes) == ("gd", 10, (("lr", 0.05),))
    assert plans["model"].simulation.steps == 50
    full = {plan.folder: plan for plan in preset.plans("full", 0)}
    assert full["slow"].config == TrainConfig(**{**common, "lr": 0.01, "seed": 0}, steps=30)
    assert [claim.forms for claim in preset.claims] == [("quick", "full"), ("quick",), ("quick", "full")]
    assert len(preset.claims_of("full")) == 2
    assert preset.minutes == {"quick_cpu": 0.1}


def test_the_parents_come_before_their_forks_whatever_the_order(tmp_path):
    first = '[runs.again]\nfork = "leaves"\nat = 15\n[runs.gd]'
    plans = tiny(tmp_path, ("[runs.gd]", first)).plans("quick", 0)
    order = [plan.folder for plan in plans]
    assert order.index("gd") < order.index("leaves") < order.index("again")
    assert plans[-1].config.lr == 0.05  # what its parent changed stays


def test_seeds_in_strings_and_lists(tmp_path):
    options = 'data = "planted"\ndata_options = ["seed={seed}", "size=4"]\nn_examples = 40'
    preset = tiny(tmp_path, ("n_examples = 40", options))
    config = preset.plans("quick", 13)[0].config
    assert config.data_settings["seed"] == 13
    assert config.seed == 13
    assert preset.plans("quick", 13)[-1].config.data_options == config.data_options  # of the fork too
    data = [load_data(preset.plans("quick", seed)[0].config).inputs for seed in (13, 13, 14)]
    assert np.array_equal(data[0], data[1])
    assert not np.array_equal(data[0], data[2])


def test_a_fork_to_another_optimizer_starts_from_its_defaults(tmp_path):
    preset = tiny(
        tmp_path,
        ("[runs.gd]", '[runs.gd]\noptimizer = "heavy_ball"\noptimizer_options = ["momentum=0.5"]'),
        ("at = 10", 'at = 10\noptimizer = "adam"'),
    )
    assert preset.plans("quick", 0)[-1].config.optimizer_options == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # the file
        ('title = "A tiny experiment"', "", "title must be a sentence, got None; write one"),
        ('title = "A tiny experiment"', "title = 3", "title must be a sentence, got 3"),
        ('source = "none"', 'source = " "', "source must be a sentence, got ' '"),
        ('source = "none"', 'source = "none"\nmodel = "mlp"', "entries must be among title, source, minutes"),
        ("[options]", "[optoins]", "got optoins; remove it"),
        ("title =", "title", "must be a readable TOML file"),
        # minutes
        ("{quick_cpu = 0.1}", "{quick = 0.1}", "minutes must be among quick_cpu, quick_gpu, full_cpu, full_gpu; got"),
        ("{quick_cpu = 0.1}", '{quick_cpu = "a minute"}', "quick_cpu must be a number >= 0, got 'a minute'"),
        ("{quick_cpu = 0.1}", "{quick_cpu = true}", "quick_cpu must be a number >= 0, got True"),
        ("{quick_cpu = 0.1}", "{quick_cpu = -1}", "got -1; leave it out if unknown"),
        ("{quick_cpu = 0.1}", "{quick_cpu = nan}", "got nan"),
        ("{quick_cpu = 0.1}", "5", "minutes must be a table, got 5"),
        # options of all runs
        ("n_examples = 40", "n_exmaples = 40", "[options]: options must be among data, data_path"),
        ("n_examples = 40", "n_exmaples = 40", "got n_exmaples; remove it"),
        ("[options.quick]\nsteps = 20", "quick = 20", "[options]: quick must be a table, got 20"),
        ("[options.full]\nsteps = 30", "[options.full]\nstep = 30", "[options.full]: options must be among"),
        ("[options.full]", "[options.fulll]", "got fulll; remove it"),
        ("n_examples = 40", "seed = 3", "got seed; remove it"),
        ("n_examples = 40", "n_examples = 0", "run gd: n_examples must be an integer >= 1, got 0"),
        ("lr = 0.1\n", 'lr = "0.1"\n', "run gd: lr must be positive and finite, got '0.1'"),
        ("widths = [8]", "widths = 8", "run gd: widths must be a list of integers, got 8"),
        ("[options.full]\nsteps = 30", "[options.full]\nsteps = 0", "run gd: steps must be an integer >= 1, got 0"),
        # runs
        ("[runs.slow]\nlr = 0.01", "[runs.slow]\nlrate = 0.01", "run slow: options must be among"),
        ("[runs.slow]\nlr = 0.01", "[runs.slow]\nlrate = 0.01", "got lrate; remove it"),
        ("{eig_every = 5}", "{eigevery = 5}", "run slow: options must be among"),
        ("{eig_every = 5}", "5", "run slow: quick must be a table, got 5"),
        ("{eig_every = 5}", '{fork = "gd"}', "run slow: quick must hold options, at or grid, got fork"),
        ("[runs.slow]\nlr = 0.01", "[runs.slow]\nseed = 1", "the seed is that of the repetition; remove it"),
        ("[runs.slow]", "[runs.slow]\nat = 3", "run slow: fork and at must be given together, got None and 3"),
        ("[runs.slow]", '[runs."../slow"]', "a run must have a name of letters, digits and _, got '../slow'"),
        ('kind = "simulate"', 'kind = "train"\n[runs.other]\nkind = "test"', "kind must be one of train, simulate"),
        ('kind = "simulate"', 'kind = ["simulate"]', "kind must be one of train, simulate, got ['simulate']"),
        # grids
        ("{lr = [0.05, 0.1]}", "{lr = 0.05}", "run tuned: grid must be a table of lists, got {'lr': 0.05}; write"),
        ("{lr = [0.05, 0.1]}", "[0.05, 0.1]", "run tuned: grid must be a table of lists"),
        ("{lr = [0.05, 0.1]}", "{lr = []}", "run tuned: grid must be a table of lists"),
        ("{lr = [0.05, 0.1]}", "{lr = [0.1, 0.1]}", "another name, got tuned,lr=0.1 twice; leave one out"),
        ("{lr = [0.05, 0.1]}", "{rate = [0.1]}", "run tuned: options must be among"),
        ("{lr = [0.05, 0.1]}", "{lr = [0.1, -0.1]}", "run tuned: lr must be positive and finite, got -0.1"),
        ("{lr = [0.05, 0.1]}", "{seed = [1, 2]}", "got seed; the seed is that of the repetition"),
        # forks
        ('fork = "gd"', 'fork = "gdd"', "fork must name a run that does not itself need the fork, got forks leaves of"),
        ('fork = "gd"', 'fork = "leaves"', "got forks leaves of 'leaves'; correct one"),
        ("[runs.slow]\n", '[runs.slow]\nfork = "leaves"\nat = 3\n', None),
        ('fork = "gd"', "fork = 3", "run leaves: fork must be the name of a run, got 3"),
        ('fork = "gd"', 'fork = "tuned"', "fork must name one run that is trained and has no grid, got 'tuned'"),
        ('fork = "gd"', 'fork = "model"', "fork must name one run that is trained and has no grid, got 'model'"),
        ("at = 10\n", "", "fork and at must be given together, got 'gd' and None; add the other"),
        ("at = 10", "at = 20", "at must be a step that gd has, and below the fork's own 20 steps, got 20"),
        ("at = 10", 'at = "onset + "', 'a moment must be a step, "onset" or "onset + steps", got'),
        ("at = 10", "at = 2.5", "a moment must be a step"),
        ("at = 10", "at = -1", "a moment must be a step"),
        ("at = 10", "at = 10\nwidths = [4]", "options that a fork may change must be among lr, optimizer"),
        ("[runs.gd]", '[runs.gd]\noptimizer = "adam"\n[runs.late]\nfork = "gd"\nat = "onset"', "gd has no constant"),
        ("[runs.gd]", '[runs.gd]\neig_every = 0\n[runs.late]\nfork = "gd"\nat = "onset"', "at must be a number"),
        ('kind = "simulate"', 'kind = "simulate"\nfork = "gd"\nat = 3', "fork must be of a run that is trained"),
        # simulations
        ("steps = 50", "step = 50", "run model: options must be among optimizer, optimizer_options, lr, steps"),
        ("steps = 50", "steps = 5.5", "run model: steps must be an integer >= 1, got 5.5"),
        ("steps = 50", "alpha = -1", "run model: alpha must be positive, got -1"),
        ("steps = 50", 'u = "small"', "run model: u must be a finite number, got 'small'"),
        ("steps = 50", "lr = inf", "run model: lr must be a finite number, got inf"),
        ("steps = 50", 'optimizer = "lion"', "run model: optimizer must be one of flow, gd"),
        ("steps = 50", "optimizer_options = {momentum = 0.9}", "must be a table of weight_decay, got"),
        ("steps = 50", "optimizer_options = 0.9", "optimizer_options of gd must be a table of"),
        ("steps = 50", "optimizer_options = {weight_decay = -1}", "weight_decay must be >= 0, got -1"),
        ("steps = 50", 'optimizer_options = {weight_decay = "x"}', "weight_decay must be a finite number, got 'x'"),
        # claims
        ("says =", "say =", "entries must be among says, value, control, holds, forms, fails; got say"),
        ('holds = "value < control"', "", "holds must be text, got None; write it in quotes"),
        ('holds = "value < control"', "holds = true", "holds must be text, got True"),
        ('value = "final_loss(gd, last=2)"', "value = 0.5", "value must be text, got 0.5"),
        ('control = "final_loss(slow)"', "control = []", "control must be text, got []"),
        ('says = "a larger step size lowers the loss further"', "says = 4", "says must be text, got 4"),
        ('fails = "the', 'fails = ["the"]\nfails_ = "the', "got fails_; remove it"),
        ('forms = ["quick"]', 'forms = "quick"', "forms must be a list of quick, full, got 'quick'; write"),
        ('forms = ["quick"]', 'forms = ["small"]', "forms must be a list of quick, full, got ['small']"),
        ('forms = ["quick"]', "forms = []", "forms must be a list of quick, full, got []"),
        # what a claim is measured by
        ("final_loss(gd, last=2)", "final_los(gd)", "a measure must be one of"),
        ("final_loss(gd, last=2)", "final_loss(gdd)", "must be of runs gd, slow, tuned, leaves, model, got gdd"),
        ("final_loss(gd, last=2)", "final_loss()", "final_loss must be of 1 runs, got 0; name them first"),
        ("final_loss(gd, last=2)", "final_loss(gd, slow)", "final_loss must be of 1 runs, got 2"),
        ("final_loss(gd, last=2)", "final_loss(gd, 2)", "got 2; choose one of them"),
        ("final_loss(gd, last=2)", "final_loss(gd, first=2)", "options of final_loss must be among last; got first"),
        ("final_loss(gd, last=2)", "final_loss(run=3)", "final_loss must be of 1 runs, got 0"),
        ("final_loss(gd, last=2)", "final_loss(gd, run=3)", "options of final_loss must be among last; got run"),
        ("final_loss(gd, last=2)", "final_loss(gd, last='2')", "last of final_loss must be a whole number, got '2'"),
        ("final_loss(gd, last=2)", "final_loss(gd, last=2.5)", "last of final_loss must be a whole number, got 2.5"),
        ("final_loss(gd, last=2)", "final_loss(gd, last=True)", "last of final_loss must be a whole number, got True"),
        ("final_loss(gd, last=2)", "final_loss(gd, last=1, last=2)", "once each; correct it"),
        ("final_loss(gd, last=2)", "highest_ratio(gd, critical='x')", "critical of highest_ratio must be a number"),
        ("final_loss(gd, last=2)", "highest_ratio(gd, critical=1e999)", "must be a number, got inf"),
        ("final_loss(gd, last=2)", "final_loss(tuned)", "must be of a single run, got tuned with a grid of 2"),
        ("final_loss(gd, last=2)", "onset(model)", "onset must be of trained runs, got model, simulated"),
        ("value < control", "value <", "a condition must compare value and control with numbers, got 'value <'"),
        ("value < control", "control < 1", "must compare value and control with numbers, got 'control < 1'"),
        ("value < control", "value < 1", "must compare value and control with numbers, got 'value < 1'"),
        ("value < 1", "0 < 1", "a condition must compare value with numbers, got '0 < 1'"),
        ("value < 1", "value < control", "a condition must compare value with numbers, got 'value < control'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, old, new, said):
    if said is None:  # a ring of forks: that of `leaves` goes back to `slow`
        old, new, said = 'fork = "gd"', 'fork = "slow"', "got forks slow of 'leaves', leaves of 'slow'; correct one"
        text = TINY.replace("[runs.slow]\n", '[runs.slow]\nfork = "leaves"\nat = 3\n')
    else:
        text = TINY
    assert old in text
    message = refusal(tmp_path, text.replace(old, new, 1))
    assert said in message
    assert ";" in message or "readable TOML" in message  # what to do


@pytest.mark.parametrize("name", ["runs", "claims"])
@pytest.mark.parametrize("value", [[], {}, [1]])
def test_without_runs_or_claims(tmp_path, name, value):
    content = tomllib.loads(TINY) | {name: value}
    assert "must be" in refusal(tmp_path, "\n".join(f"{key} = {toml(item)}" for key, item in content.items()))


def places(value, path=()):
    """Every place of a nested value."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def answer(path):
    """The refusal of a file; None where it is taken."""
    try:
        load_preset(path)
    except PresetError as error:
        return str(error)
    return None


WRONG = [True, -1, 0, 10**30, float("nan"), float("inf"), "x", "", "../x", [], [[]], [1, "a"], {}, {"x": {}}]


def test_any_value_of_any_type_anywhere_is_taken_or_refused_in_one_line(tmp_path):
    content = tomllib.loads(TINY)
    every = [place for place in places(content) if place]
    assert len(every) > 40
    refused = 0
    for place in every:
        for wrong in [*WRONG, date(2024, 1, 1)]:
            changed = copy.deepcopy(content)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = wrong
            path = write(tmp_path, "\n".join(f"{key} = {toml(item)}" for key, item in changed.items()))
            message = answer(path)
            refused += message is not None
            assert message is None or (str(path) in message and len(message.splitlines()) == 1), (place, wrong, message)
    assert refused > 10 * len(every)


def test_unknown_presets_and_unreadable_files(tmp_path):
    with pytest.raises(PresetError, match=r"preset must be one of .*edge-of-stability.* or a \.toml file, got nothing"):
        load_preset("nothing")
    with pytest.raises(PresetError, match="preset must be one of"):
        load_preset("../library/edge-of-stability")
    (tmp_path / "bytes.toml").write_bytes(b'title = "\xff"')
    for name in ("none.toml", "bytes.toml", "."):
        with pytest.raises(PresetError, match="must be"):
            load_preset(tmp_path / name)
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(PresetError, match="must be a readable TOML file"):
        load_preset(tmp_path / "folder.toml")


def test_the_examples_can_be_read(tmp_path):
    """That of the README, and that of the module."""
    readme = (Path(__file__).parents[3] / "README.md").read_text().partition("```toml\n")[2].partition("```")[0]
    module = textwrap.dedent(declaration.__doc__.partition("::\n\n")[2].partition("\n``[options]``")[0])
    for i, text in enumerate((readme, module)):
        preset = load_preset(write(tmp_path, text, f"example{i}"))
        assert {"gd", "slow", "tuned", "leaves"} <= set(preset.entries)
        assert len(preset.claims) == 1


@pytest.mark.parametrize("name", preset_names())
def test_the_presets_of_the_package_can_be_read(name):
    preset = load_preset(name)
    assert preset.claims
    assert preset.id == name


@pytest.mark.parametrize(
    ("needs", "replaced", "said"),
    [
        (("sharpness",), ("[runs.gd]", "[runs.gd]\neig_every = 0"), "the sharpness measured (eig_every > 0), got gd"),
        (("critical",), ("[runs.gd]", '[runs.gd]\noptimizer = "adam"'), "with a constant critical sharpness, got gd"),
        (("losses",), ("[runs.gd]", '[runs.gd]\nrecord_losses = "none"'), "with the losses of all examples"),
        (("density",), ("[runs.gd]", '[runs.gd]\nobservers = ["groups"]'), "with the observer density, got gd"),
        (("trained",), ("probe(gd)", "probe(model)"), "must be of trained runs, got model, simulated"),
    ],
)
def test_what_a_measure_needs_is_known_before_a_run(tmp_path, monkeypatch, needs, replaced, said):
    def probe(run):
        raise AssertionError("not to be called")

    monkeypatch.setitem(MEASURES, "probe", Measure(probe, False, needs))
    observed = ("n_examples = 40", 'n_examples = 40\nobservers = ["density every=5"]')
    measured = ("final_loss(gd, last=2)", "probe(gd)")
    tiny(tmp_path, observed, measured)
    with pytest.raises(PresetError) as caught:
        tiny(tmp_path, observed, measured, replaced)
    assert said in str(caught.value)


def test_a_need_may_depend_on_the_options(tmp_path):
    adam = ("[runs.gd]", '[runs.gd]\noptimizer = "adam"')
    tiny(tmp_path, ("final_loss(gd, last=2)", "highest_ratio(gd, critical=5)"), adam)
    with pytest.raises(PresetError, match="constant critical sharpness"):
        tiny(tmp_path, ("final_loss(gd, last=2)", "highest_ratio(gd)"), adam)


# --- changes -------------------------------------------------------------------------------------------------


def rates(preset, *changes):
    plans = preset.plans("quick", 0, changes)
    return {plan.folder: (plan.config or plan.simulation).lr for plan in plans}


def test_changes_of_all_and_of_one(tmp_path):
    preset = tiny(tmp_path)
    assert set(rates(preset, "lr=0.3").values()) == {0.3}
    assert list(rates(preset, "lr=0.3")) == ["gd", "slow", "tuned,lr=0.3", "model", "leaves"]
    one = rates(preset, "slow.lr=0.3", "lr=0.2")
    assert (one["slow"], one["gd"], one["leaves"]) == (0.3, 0.2, 0.2)
    assert rates(preset, "lr=0.2", "slow.lr=0.3") == one
    assert list(rates(preset, "tuned.lr=[0.3, 0.4]"))[2:4] == ["tuned,lr=0.3", "tuned,lr=0.4"]
    # an option that only some have is changed there
    plans = {plan.folder: plan for plan in preset.plans("quick", 0, ["n_examples=30", "activation=relu"])}
    assert (plans["slow"].config.n_examples, plans["leaves"].config.n_examples) == (30, 30)
    assert plans["leaves"].config.activation == "relu"  # by its parent
    assert preset.plans("quick", 0, ["model.alpha=7"])[4].simulation.alpha == 7
    # a change goes before the preset's own value for a form
    assert preset.plans("quick", 0, ["eig_every=2"])[1].config.eig_every == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["lr"], "must be key=value or RUN.key=value with a run among gd, slow, tuned, leaves, model, got 'lr'"),
        (["=3"], "got '=3'; correct it"),
        (["gdd.lr=0.3"], "got 'gdd.lr=0.3'; correct it"),
        (["learning_rate=0.3"], "a change must be of an option among"),
        (["leaves.widths=[4]"], "got 'leaves.widths=[4]'; correct it"),
        (["gd.alpha=3"], "a change must be of an option among"),
        (["seed=4"], "a change must not be of the seed of a repetition, got 'seed=4'; pass --seed"),
        (["gd.seed=4"], "pass --seed"),
        (["lr=0.3", "lr=0.2"], "a change must be given once, got lr twice"),
        (["lr=nan"], "run gd: lr must be positive and finite, got nan"),
        (["lr="], "run gd: lr must be positive and finite, got ''"),
        (["slow.steps=no"], "run slow: steps must be an integer >= 1, got 'no'"),
        (["gd.steps=5"], "at must be a step that gd has"),
        (["gd.optimizer=adam", "gd.data=mnist"], "run gd: data must be one of"),
    ],
)
def test_wrong_changes_are_one_line(tmp_path, changes, said):
    preset = tiny(tmp_path)
    with pytest.raises(PresetError) as caught:
        preset.plans("quick", 0, changes)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_change_that_takes_away_what_a_measure_needs_is_refused(tmp_path):
    preset = tiny(tmp_path, ("final_loss(gd, last=2)", "highest_ratio(gd)"))
    with pytest.raises(PresetError, match="constant critical sharpness"):
        preset.plans("quick", 0, ["optimizer=adam"])


def test_words_of_a_grid_stay_within_their_folder(tmp_path):
    grid = '{data_path = ["/tmp/x", "..", "{seed}"]}'
    plans = tiny(tmp_path, ("{lr = [0.05, 0.1]}", grid)).plans("quick", 3)[2:5]
    assert [plan.folder for plan in plans] == [
        "tuned,data_path=_tmp_x",
        "tuned,data_path=..",
        "tuned,data_path=_seed_",
    ]
    assert plans[2].config.data_path == "3"
    long = '{data_path = ["' + "x" * 300 + '"]}'
    with pytest.raises(PresetError, match="at most 200 letters"):
        tiny(tmp_path, ("{lr = [0.05, 0.1]}", long))
