"""The three small languages of a preset: a measurement, a condition on its value, a moment of a run.

Each is a part of Python's expressions, read by ``ast`` and never evaluated by it.
"""

import ast
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.oscillation import onset_step

from .measure import MEASURES

__all__ = ["Condition", "ExpressionError", "Measurement", "Moment"]

_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_COMPARED = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}


class ExpressionError(ValueError):
    """A text that is not of its language; the message says what it must be."""


LONGEST = 500  # letters; bounds the depth of the tree


def _parse(text: object, what: str) -> ast.expr:
    if len(str(text)) > LONGEST:
        raise ExpressionError(f"{what} in at most {LONGEST} letters, got {len(str(text))}; shorten it")
    try:
        return ast.parse(str(text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ExpressionError(f"{what}, got {text!r}; correct it") from None


class Measurement:
    """``measure(run, other run, option=number)``: a measure of `MEASURES` applied to runs.

    Args:
        text: The expression.
        runs: Names of the runs there are.
    Raises:
        ExpressionError: If the measure, a run or an option is unknown.
    """

    def __init__(self, text: str, runs: Sequence[str]) -> None:
        self.text = text
        must = "a measurement must be of the form measure(run, option=number)"
        call = _parse(text, must)
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ExpressionError(f"{must}, got {text!r}; correct it")
        self.name = call.func.id
        if self.name not in MEASURES:
            raise ExpressionError(f"a measure must be one of {', '.join(MEASURES)}, got {self.name}; choose one")
        self.runs: list[str] = []
        for argument in call.args:
            name: str = argument.id if isinstance(argument, ast.Name) else ast.unparse(argument)
            if name not in runs:
                raise ExpressionError(f"{self.name} must be of runs {', '.join(runs)}, got {name}; choose one of them")
            self.runs.append(name)
        self.options: dict[str, Any] = {}
        for keyword in call.keywords:
            try:
                value = ast.literal_eval(keyword.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                raise ExpressionError(
                    f"{text!r}: an option must be a number, a text or a list of them, got "
                    f"{ast.unparse(keyword.value)}; write it out"
                ) from None
            if keyword.arg is None or keyword.arg in self.options:
                raise ExpressionError(f"{text!r}: options must be given as name=value, once each; correct it")
            self.options[keyword.arg] = value
        try:
            MEASURES[self.name].check(len(self.runs), self.options)
        except ValueError as error:
            raise ExpressionError(f"{text!r}: {error}") from None

    def check(self, plans: Sequence[Any]) -> None:
        """Refuse planned runs that the measure cannot be of, as far as that is known before they are carried out.

        Args:
            plans: The runs of a repetition (`RunPlan`).
        Raises:
            ExpressionError: If there is one.
        """
        for name in self.runs:
            try:
                MEASURES[self.name].check_plans([plan for plan in plans if plan.name == name], self.options)
            except ValueError as error:
                raise ExpressionError(f"{self.text!r}: {error}") from None

    def __call__(self, outcomes: Mapping[str, Sequence[Any]]) -> float:
        """The value; NaN where the runs do not show it."""
        return MEASURES[self.name](*(outcomes[name] for name in self.runs), **self.options)


class Condition:
    """Comparisons of ``value``, ``control`` and numbers, joined by ``and``: ``0.9 <= value <= 1.1 and control > 2``.

    Args:
        text: The expression.
        control: Whether there is a control.
    Raises:
        ExpressionError: If it has another form.
    """

    def __init__(self, text: str, control: bool) -> None:
        self.text = text
        self._must = "a condition must compare value" + (" and control" if control else "") + " with numbers"
        self._tree, self._names = _parse(text, self._must), ("value", "control") if control else ("value",)
        read = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}
        if not set(self._names) <= read:
            raise ExpressionError(f"{self._must}, got {text!r}; correct it")
        self(dict.fromkeys(self._names, 1.0))

    def __call__(self, values: Mapping[str, float]) -> bool:
        """Whether it is met; never where one of the values is NaN."""
        parts = self._tree.values if isinstance(self._tree, ast.BoolOp) else [self._tree]
        if isinstance(self._tree, ast.BoolOp) and not isinstance(self._tree.op, ast.And):
            raise ExpressionError(f"{self._must}, joined by and, got {self.text!r}; correct it")
        met = [self._compare(part, values) for part in parts]  # all are read, so that none is wrong unseen
        return all(met) and not any(math.isnan(values[name]) for name in self._names)

    def _compare(self, part: ast.expr, values: Mapping[str, float]) -> bool:
        if not isinstance(part, ast.Compare) or not all(type(op) in _COMPARED for op in part.ops):
            raise ExpressionError(f"{self._must}, got {self.text!r}; correct it")
        terms = [self._number(term, values) for term in (part.left, *part.comparators)]
        results = [_COMPARED[type(op)](a, b) for op, a, b in zip(part.ops, terms[:-1], terms[1:], strict=True)]
        return all(results)

    def _number(self, term: ast.expr, values: Mapping[str, float]) -> float:
        if isinstance(term, ast.Constant) and isinstance(term.value, int | float) and not isinstance(term.value, bool):
            try:
                return float(term.value)
            except OverflowError:
                return math.inf
        if isinstance(term, ast.Name) and term.id in self._names:
            return values[term.id]
        if isinstance(term, ast.UnaryOp) and isinstance(term.op, ast.USub):
            return -self._number(term.operand, values)
        if isinstance(term, ast.BinOp) and type(term.op) in _ARITHMETIC:
            a, b = self._number(term.left, values), self._number(term.right, values)
            if isinstance(term.op, ast.Div) and b == 0:
                return float("nan")
            return _ARITHMETIC[type(term.op)](a, b)
        raise ExpressionError(f"{self._must}, got {self.text!r}; correct it")


class Moment:
    """A step of a run: a number, or ``onset`` with a number added or taken off.

    Args:
        text: The expression.
    Raises:
        ExpressionError: If it has another form.
    """

    def __init__(self, text: str | int) -> None:
        must = 'a moment must be a step, "onset" or "onset + steps"'
        tree, self.text = _parse(text, must), str(text)
        sign = 1
        self.onset, added = False, tree
        if isinstance(tree, ast.Name) and tree.id == "onset":
            self.onset, added = True, ast.Constant(0)
        elif isinstance(tree, ast.BinOp) and isinstance(tree.left, ast.Name) and tree.left.id == "onset":
            self.onset, added = True, tree.right
            sign = {ast.Add: 1, ast.Sub: -1}.get(type(tree.op), 0)
        whole = isinstance(added, ast.Constant) and type(added.value) is int
        if not whole or not sign:
            raise ExpressionError(f"{must}, got {text!r}; correct it")
        self.steps = sign * int(added.value)  # type: ignore[union-attr, arg-type]

    def step(self, sharpness: Any, critical: float | None) -> int | None:
        """The step in a run's record; None where it has no onset, or that minus the steps lies before the start."""
        if not self.onset:
            return self.steps
        found = None if critical is None else onset_step(sharpness, 2.0 / critical)
        return None if found is None or found + self.steps < 0 else found + self.steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moment) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)
