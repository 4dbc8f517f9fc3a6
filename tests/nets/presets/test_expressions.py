"""The languages of claims: what they say, against Python's own arithmetic, and all that they refuse."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nets.presets import MEASURES
from nets.presets.expressions import Condition, ExpressionError, Measurement, Moment
from nets.presets.measure import Measure, measure

ATTACKS = [
    "__import__('os').system('true')",
    "().__class__.__bases__",
    "value.__class__",
    "[value for value in ()]",
    "{value: 1}",
    "(lambda: value)()",
    "open('x', 'w')",
    "exec('1')",
    "value if value else value",
    "(value := 3)",
    "value[0]",
    "f'{value}'",
    "value ** 9 ** 9 < 1",
    "value @ value < 1",
    "value << 99 < 1",
    "value % 2 < 1",
    "'a' * 9 < value",
    "*value",
    "await value",
    "yield value",
    "value; value",
    "import os",
    "",
    "value",
    "value < True",
    "value < 1j",
    "value < 'x'",
    "value < None",
    "value < x",
    "value in (1, 2)",
    "value is 1",
    "value != 1",
    "value == 1",
    "not value < 1",
    "value < 1 or value > 2",
    "value < 1 and (value > 0 or value < 2)",
    "value < 1 and value",
    "abs(value) < 1",
    "value < float('inf')",
    "value < 1, value < 2",
    "~value < 1",
    "+value < 1",
    "value <",
    "(" * 300 + "value" + ")" * 300 + " < 1",
    "value < " + "1 + " * 5000 + "1",
    "-" * 490 + "value < 1",
    "value \0 < 1",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_a_condition_executes_nothing_else(text):
    if text.startswith("-" * 400):  # deep, but of the language
        assert Condition(text, False)({"value": -2.0}) == (-2.0 < 1)
        return
    with pytest.raises(ExpressionError, match="must") as caught:
        Condition(text, False)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("end", [".__class__)", "())", ", **{'last': 1})", ")(gd)", ")[0]", ", *gd)"])
def test_a_measurement_executes_nothing_else(end):
    with pytest.raises(ExpressionError):
        Measurement("final_loss(gd" + end, ["gd"])


@pytest.mark.parametrize("text", [*ATTACKS, "final_loss.x(gd)", "final_loss", "gd", "print(gd)", "final_loss(*gd)"])
def test_no_attack_is_a_measurement(text):
    with pytest.raises(ExpressionError):
        Measurement(text, ["gd", "value"])


@pytest.mark.parametrize(
    "option",
    ["open('x')", "gd", "1 + gd", "[x for x in ()]", "lambda: 1", "().__class__", "f'{1}'", "2 ** 99999999", "{[]: 1}"],
)
def test_an_option_is_a_constant(option):
    with pytest.raises(ExpressionError, match="must be"):
        Measurement(f"final_loss(gd, last={option})", ["gd"])


number = st.one_of(st.integers(-5, 5).map(str), st.sampled_from(["0.5", "1e-3", "2.0", "1e308"]))
term = st.recursive(
    st.one_of(number, st.sampled_from(["value", "control"])),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"(-{t})"),
    ),
    max_leaves=5,
)
comparison = st.tuples(term, st.sampled_from(["<", "<=", ">", ">="]), term).map(" ".join)
measured = st.one_of(st.floats(-10, 10), st.just(math.inf), st.just(math.nan))


@given(st.lists(comparison, min_size=1, max_size=3), measured, measured)
@example(["value / control > 0"], 1.0, 0.0)
@example(["1e308 * 10 < value"], math.inf, 1.0)
def test_conditions_mean_what_python_means(parts, value, control):
    text = " and ".join([*parts, "value >= value - 0", "control >= control - 0"])
    names = {"value": value, "control": control}
    try:
        expected = eval(text, {"__builtins__": {}}, {k: float(v) for k, v in names.items()})
    except ZeroDivisionError:
        expected = False  # not a number
    if math.isnan(value) or math.isnan(control):
        expected = False
    assert Condition(text, True)(names) is bool(expected)


@pytest.mark.parametrize("text", ["value < 1", "value > 1", "value <= value", "-value < 5 and value > -9"])
def test_nan_never_meets_a_condition(text):
    assert not Condition(text, False)({"value": math.nan})


def test_nan_of_the_control_never_meets_a_condition():
    condition = Condition("value > 1 and control < 1", True)
    assert condition({"value": 2.0, "control": 0.0})
    assert not condition({"value": 2.0, "control": math.nan})
    assert not Condition("value < control", True)({"value": math.inf, "control": math.inf})
    # 0 / 0, inf - inf and numbers beyond the range of a float
    assert not Condition("value / control < 9", True)({"value": 0.0, "control": 0.0})
    assert not Condition("value - control < 9", True)({"value": math.inf, "control": math.inf})
    assert Condition("value < " + "9" * 400, False)({"value": 1e308})


SERIES = np.array([1.0, 3.0, np.nan, 7.0, 9.0, 5.0, 11.0])  # reaches 8 at step 4


@pytest.mark.parametrize(
    ("text", "step"),
    [(3, 3), ("3", 3), ("0", 0), ("onset", 4), ("onset + 2", 6), ("onset - 3", 1), ("onset - 5", None), (" onset ", 4)],
)
def test_moments(text, step):
    assert Moment(text).step(SERIES, 8.0) == step


def test_a_moment_without_an_onset():
    assert Moment("onset + 2").step(SERIES, 20.0) is None
    assert Moment("onset").step(SERIES, None) is None
    assert Moment("onset").step(np.full(5, np.nan), 8.0) is None
    assert Moment(2).step(np.full(5, np.nan), None) == 2


@pytest.mark.parametrize(
    "text",
    [
        *("", "end", "onset * 2", "onset + onset", "2 + onset", "onset + 1.5", "onset + -1", "onset()", "1 + 1", "-3"),
        *("onset + True", "onset.step", "[onset for onset in ()]", True, None, 1.5, ["onset"]),
    ],
)
def test_other_moments_are_refused(text):
    with pytest.raises(ExpressionError, match="a moment must be"):
        Moment(text)


def test_expressions_travel_to_other_processes():
    for one in (Measurement("final_loss(gd, last=3)", ["gd"]), Condition("value < control", True), Moment("onset + 2")):
        again = pickle.loads(pickle.dumps(one))
        assert again.text == one.text
    assert again == Moment("onset + 2")
    assert hash(again) == hash(Moment("onset + 2"))


# --- measures ------------------------------------------------------------------------------------------------


def test_a_measure_of_one_of_several_and_of_none():
    def total(runs, scale: float = 1.0):
        return scale * sum(runs)

    one, several = Measure(lambda run, scale=1.0: scale * run, False), Measure(total, True)
    assert one([3.0], scale=2.0) == 6.0
    assert several([3.0, 4.0]) == 7.0
    with pytest.raises(ValueError, match="must be of one run each, got a grid of 2"):
        one([3.0, 4.0])
    for measure_ in (one, several):  # a fork that did not come about
        assert math.isnan(measure_([]))
    assert math.isnan(Measure(lambda a, b: a + b, False)([1.0], []))


def test_a_diverged_run_is_no_warning():
    nothing = Measure(lambda run: np.nanmax(run) + np.float64(1.0) / np.float64(0.0), False)
    assert math.isnan(nothing([np.full(3, np.nan)]))  # warnings are errors in these tests


def test_names_are_taken_once():
    with pytest.raises(ValueError, match="names of their own, got final_loss twice"):

        @measure()
        def final_loss(run):
            return 0.0


def test_every_measure_says_what_it_is():
    assert all(entry.says and entry.name == name for name, entry in MEASURES.items())


def test_which_runs_and_options_a_measure_takes():
    def probe(first, *others, at, kind: str = "a", exact=False, list_=()):
        return 0.0

    entry = Measure(probe, False)
    entry.check(1, {"at": 3})
    entry.check(5, {"at": 3, "kind": "b", "exact": True, "list_": [1]})
    for runs, options, said in [
        (0, {"at": 3}, "must be of 1 runs, got 0"),
        (1, {}, "at of probe must be given, got none; add at=..."),
        (1, {"at": 3, "kind": 3}, "kind of probe must be text, got 3"),
        (1, {"at": 3, "exact": 1}, "exact of probe must be True or False, got 1"),
        (1, {"at": 3, "x": 1}, "options of probe must be among at, kind, exact, list_; got x"),
    ]:
        with pytest.raises(ValueError, match="must be") as caught:
            entry.check(runs, options)
        assert said in str(caught.value)
