"""Options of models, data and optimizers as ``name=value`` strings: what exists, its default, its range.

This file is the single truth for the command line and for run directories. It imports nothing heavy.
"""

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "DATA",
    "INTERVENTIONS",
    "MODELS",
    "OBSERVERS",
    "OPTIMIZERS",
    "Option",
    "OptionError",
    "canonical",
    "parse_observer",
    "parse_options",
    "show_observer",
]


class OptionError(ValueError):
    """An option that cannot be used; the message names it, its requirement and the value."""


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        default: Value where it is not given; its type decides how a string is read (a tuple: integers with commas).
        least: Smallest value allowed.
        above: Value that must be exceeded.
        most: Largest value allowed.
        below: Value that must not be reached.
        choices: The values allowed, for strings; empty: any string.
    """

    default: Any
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def requirement(self) -> str:
        """The range in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if isinstance(self.default, bool):
            return "true or false"
        kinds = {int: "an integer", float: "a number", tuple: "integers with commas between", str: "text"}
        kind = kinds[type(self.default)]
        signs = ((">=", self.least), (">", self.above), ("<=", self.most), ("<", self.below))
        bounds = [f"{sign} {value:g}" for sign, value in signs if value is not None]
        return " ".join([kind, " and ".join(bounds)]) if bounds else kind

    def read(self, argument: str, name: str, text: str) -> Any:
        """The value that ``text`` stands for.

        Raises:
            OptionError: If it stands for none in range.
        """
        wrong = OptionError(
            f"{argument}: {name} must be {self.requirement}, got {text!r}; pass e.g. {name}={self.example()}"
        )
        if isinstance(self.default, str):
            if self.choices and text not in self.choices:
                raise wrong
            return text
        if isinstance(self.default, bool):
            if text.lower() not in ("true", "false"):
                raise wrong
            return text.lower() == "true"
        try:
            if isinstance(self.default, tuple):
                value: Any = tuple(int(part) for part in text.split(",")) if text else ()
            else:
                value = type(self.default)(text)
        except ValueError:
            raise wrong from None
        if not all(self._allows(v) for v in (value if isinstance(value, tuple) else (value,))):
            raise wrong
        return value

    def check(self, argument: str, name: str, value: Any) -> None:
        """Refuse a value that is out of range.

        Raises:
            OptionError: If it is.
        """
        good = value in self.choices if self.choices else isinstance(value, bool) == isinstance(self.default, bool)
        if good and not self.choices and not isinstance(self.default, bool | str):
            good = all(self._allows(v) for v in (value if isinstance(value, tuple) else (value,)))
        if not good:
            raise OptionError(
                f"{argument}: {name} must be {self.requirement}, got {value!r}; pass e.g. {name}={self.example()}"
            )

    def _allows(self, v: Any) -> bool:
        return (
            isinstance(v, int | float)
            and math.isfinite(v)
            and (self.least is None or v >= self.least)
            and (self.above is None or v > self.above)
            and (self.most is None or v <= self.most)
            and (self.below is None or v < self.below)
        )

    def example(self) -> str:
        """A value that is allowed, as a string."""
        return show(self.default) or "0,1"


def _positive(default: float) -> Option:
    return Option(default, above=0.0)


def _count(default: int) -> Option:
    return Option(default, least=1.0)


def _share(default: float) -> Option:
    return Option(default, least=0.0, below=1.0)


NORM_2D = ("none", "batch", "group")
PHI = ("relu", "tanh", "gelu")
INIT = Option("torch", choices=("torch", "he"))
IMAGE_SUBSET = {
    "classes": Option((), least=0),
    "label_noise": _share(0.0),
    "seed": Option(0, least=0),
}
TRANSFORMER = {
    "width": _count(64),
    "heads": _count(4),
    "activation": Option("gelu", choices=("gelu", "relu", "tanh")),
}
DECAY = {"weight_decay": Option(0.0, least=0), "clip_norm": Option(0.0, least=0)}
MOMENTUM = {"momentum": _share(0.9), **DECAY}
ADAM = {"beta1": _share(0.9), "beta2": _share(0.999), "eps": _positive(1e-8)}

#: model -> option -> what it is; keyword arguments of nets.architectures
MODELS: dict[str, dict[str, Option]] = {
    "mlp": {
        "norm": Option("none", choices=("none", "layer", "batch")),
        "bias": Option(True),
        "init": Option("torch", choices=("torch", "orthogonal")),
    },
    "linear2": {"width": _count(1)},
    "vgg11": {
        "norm": Option("none", choices=NORM_2D),
        "activation": Option("relu", choices=PHI),
        "pool": Option("max", choices=("max", "average")),
        "width": _positive(1.0),
        "init": INIT,
    },
    "resnet18": {
        "norm": Option("batch", choices=NORM_2D),
        "activation": Option("relu", choices=PHI),
        "width": _positive(1.0),
        "init": INIT,
    },
    "vit": {"patch": _count(4), "depth": _count(4), **TRANSFORMER},
    "gpt": {"depth": _count(2), **TRANSFORMER, "tied": Option(True)},
}

#: data set -> option -> what it is; keyword arguments of nets.data
DATA: dict[str, dict[str, Option]] = {
    "digits": IMAGE_SUBSET,
    "cifar10": IMAGE_SUBSET,
    "chebyshev": {"degree": Option(5, least=0)},
    "text": {"unit": Option("characters", choices=("characters", "bytes")), "context": _count(32)},
    "modular": {
        "modulus": Option(97, least=2),
        "encoding": Option("onehot", choices=("onehot", "tokens")),
        "seed": Option(0, least=0),
    },
    "planted": {
        "alpha": _positive(100.0),
        "p": Option(0.1, above=0.0, most=1.0),
        "delta": Option(0.0, least=-1.0, most=1.0),
        "opposed_by": Option("label", choices=("label", "sign")),
        "size": Option(32, least=2),
        "channels": _count(3),
        "n_classes": Option(10, least=2),
        "signal": Option(3.0, least=0.0),
        "seed": Option(0, least=0),
    },
    "gaussian": {
        "d1": _count(20),
        "d2": _count(20),
        "beta": _positive(1.0),
        "alpha": _positive(100.0),
        "p": Option(0.1, above=0.0, most=1.0),
        "gamma": Option(0.0),
        "delta": Option(0.0, least=-1.0, most=1.0),
        "whitened": Option(False),
        "seed": Option(0, least=0),
    },
    "slabs": {
        "slabs": Option(5, least=3),
        "noise": Option(18, least=0),
        "margin": Option(0.1, above=0.0, below=0.5),
        "agree": Option(1.0, least=0.0, most=1.0),
        "seed": Option(0, least=0),
    },
}

#: optimizer -> option -> what it is; keyword arguments of nets.optimizers.make_optimizer
OPTIMIZERS: dict[str, dict[str, Option]] = {
    "gd": DECAY,
    "sgd": {"momentum": _share(0.0), "dampening": _share(0.0), **DECAY},
    "heavy_ball": MOMENTUM,
    "nesterov": MOMENTUM,
    "adam": {**ADAM, **DECAY},
    "adamw": {**ADAM, **DECAY, "weight_decay": Option(0.01, least=0)},
    "rmsprop": {
        "alpha": _share(0.99),
        "eps": _positive(1e-8),
        "momentum": _share(0.0),
        **DECAY,
    },
    "split_sgd": {
        "momentum": _share(0.9),
        "dampening": _share(0.9),
        "threshold": _positive(0.1),
        "signed_lr": _positive(1e-3),
        **DECAY,
    },
    "sam": {"rho": Option(0.05, least=0), "normalised": Option(False), "momentum": _share(0.0), **DECAY},
}

#: observer -> option -> what it is; keyword arguments of nets.observers
OBSERVERS: dict[str, dict[str, Option]] = {
    "eigenvalues": {"every": _count(200), "k": _count(10), "tol": Option(1e-2, above=0.0, below=1.0)},
    "density": {"every": _count(200), "steps": _count(60), "probes": _count(4)},
    "effective_sharpness": {"every": _count(1), "midpoint": Option(False)},
    "feature": {"every": _count(10), "carriers": _count(20)},
    "groups": {"every": _count(1), "by": Option("target")},
    "probes": {"every": _count(1), "examples": Option((), least=0), "file": Option(""), "feature": Option(False)},
    "moves": {"every": _count(1)},
    "group_gradients": {"every": _count(10), "by": Option("target")},
    "held_out": {
        "every": _count(10),
        "examples": _count(500),
        "clean": Option(False),
        "columns": Option((), least=0),
        "seed": Option(0, least=0),
    },
}

GROUPS = {"first": Option((), least=0), "second": Option((), least=0)}
WEIGHT = Option(1.0, least=0)

#: intervention -> option -> what it is; keyword arguments of nets.data.interventions.intervene
INTERVENTIONS: dict[str, dict[str, Option]] = {
    "none": {},
    "drop": GROUPS,
    "weight": {**GROUPS, "first_weight": WEIGHT, "second_weight": WEIGHT},
    "relabel": {**GROUPS, "label": Option(-1, least=-1)},
    "robust": {**GROUPS, "bound": _positive(0.1)},
    "blur": {**GROUPS, "sigma": _positive(2.0)},
    "background": {**GROUPS, "rim": Option(0.25, above=0.0, most=0.5)},
    "feature": {**GROUPS, "everywhere": Option(False)},
}


def show(value: Any) -> str:
    """A value as it is written after ``name=``."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse_options(
    argument: str, given: Iterable[str], table: Mapping[str, Option] | None, owner: str
) -> dict[str, Any]:
    """Values of all options of ``owner``: those given as ``name=value``, defaults for the rest.

    Args:
        argument: Name of the command's option, for messages.
        given: Strings ``name=value``.
        table: The options that exist; None for a user's own function, which takes any name; its values are read as
            Python literals, else as text.
        owner: The model, data set or optimizer, for messages.
    Raises:
        OptionError: If a string has another form, a name is unknown or given twice, or a value out of range.
    """
    if isinstance(given, str):
        raise OptionError(f"{argument} must be a list of name=value, got {given!r}; pass e.g. [{given!r}]")
    values: dict[str, Any] = {} if table is None else {name: option.default for name, option in table.items()}
    seen: set[str] = set()
    for item in given:
        name, equals, text = item.partition("=") if isinstance(item, str) else ("", "", "")
        if not equals or not name.isidentifier():
            raise OptionError(f"{argument} must be of the form name=value, got {item!r}; pass e.g. width=1")
        if name in seen:
            raise OptionError(f"{argument} must give each option once, got {name} twice; leave one out")
        seen.add(name)
        if table is None:
            values[name] = _literal(text)
        elif name in table:
            values[name] = table[name].read(argument, name, text)
        else:
            known = ", ".join(table) or "none"
            raise OptionError(f"{argument} of {owner} must be among {known}; got {name}; remove it")
    return values


def canonical(given: Iterable[str], values: Mapping[str, Any], table: Mapping[str, Option] | None) -> tuple[str, ...]:
    """The options given, sorted and in one spelling, without those that have their default value."""
    names = sorted(item.partition("=")[0] for item in given)
    kept = [n for n in names if table is None or values[n] != table[n].default]
    return tuple(f"{name}={show(values[name])}" for name in kept)


def parse_observer(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of ``"NAME option=value ..."``; a user's function has the option ``every`` (1) and its own.

    Raises:
        OptionError: If it has another form, or an option is unknown or out of range.
    """
    parts = text.split() if isinstance(text, str) else []
    if not parts:
        raise OptionError(f'observers must be of the form "NAME option=value ...", got {text!r}; pass e.g. density')
    name, table = parts[0], OBSERVERS.get(parts[0])
    values = parse_options("observers", parts[1:], table, name)
    if table is None:
        every = values.setdefault("every", 1)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"observers: every must be an integer >= 1, got {every!r}; pass e.g. every=10")
    return name, values


def show_observer(name: str, values: Mapping[str, Any]) -> str:
    """The text that `parse_observer` reads, in one spelling: defaults left out, options sorted."""
    given = [f"{key}={show(value)}" for key, value in values.items()]
    return " ".join([name, *canonical(given, values, OBSERVERS.get(name))])


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
