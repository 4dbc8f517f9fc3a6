"""What a preset says: its runs, its claims, and what each is measured by; read from a small TOML file.

::

    title = "Gradient descent settles where the sharpness is 2/lr"
    source = "Cohen et al. 2021 (arXiv 2103.00065)"
    minutes = {quick_cpu = 1, full_gpu = 10}   # of one seed

    [options]                       # of every run, in both forms
    loss = "squared"
    [options.quick]                 # of every run of the quick form; [options.full]: of the full one
    n_examples = 500

    [runs.gd]                       # a run of `opposing train`, by its options
    lr = 0.4
    [runs.slow]
    lr = 0.001
    quick = {steps = 2000}          # of this run in one of the forms
    [runs.tuned]                    # several: one a combination
    grid = {lr = [0.1, 0.2, 0.4]}
    [runs.leaves]                   # a branch of another one
    fork = "gd"
    at = "onset + 20"
    lr = 0.1

    [[claims]]
    says = "after onset the sharpness stays at 2/lr, which gradient flow passes"
    value = "edge_ratio(gd)"
    control = "edge_ratio(slow)"
    holds = "0.95 <= value <= 1.05 and control < 0.9"

The strings ``{seed}`` in an option are replaced by the seed of the repetition, which is also the option ``seed``.
"""

import dataclasses
import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nets.config import ConfigError, TrainConfig
from nets.fork import CHANGEABLE

from . import measures as _measures  # noqa: F401 - registers them
from .expressions import Condition, ExpressionError, Measurement, Moment
from .simulated import SimulationPlan

__all__ = ["FORMS", "Claim", "Preset", "PresetError", "RunPlan", "load_preset", "preset_names"]

LIBRARY = Path(__file__).parent / "library"
FORMS = ("quick", "full")
KINDS = ("train", "simulate")
OWN = ("kind", "fork", "at", "grid", *FORMS)


class PresetError(ValueError):
    """A preset that cannot be run; the message names the file, the entry, its requirement and the value."""


@dataclass(frozen=True)
class RunPlan:
    """One run of one repetition.

    Args:
        name: Name of its entry; the runs of a grid share it.
        folder: Its own name: that of the entry, with the values of the grid.
        config: What is trained; of a fork, with the changes made.
        simulation: What is simulated instead.
        fork: Folder of the run it branches off.
        at: Where it does.
        changes: Options that the fork changes.
    """

    name: str
    folder: str
    config: TrainConfig | None = None
    simulation: SimulationPlan | None = None
    fork: str | None = None
    at: Moment | None = None
    changes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Claim:
    """What must be seen.

    Args:
        says: One sentence.
        value: How it is measured.
        control: The same where it must not be seen; None where the claim has no control.
        holds: Condition on ``value`` and ``control``, which every seed must meet.
        forms: Forms of the preset that it is about.
        fails: Why it is known to fail, where it is; empty where it is expected to hold.
    """

    says: str
    value: Measurement
    control: Measurement | None
    holds: Condition
    forms: tuple[str, ...] = FORMS
    fails: str = ""


@dataclass(frozen=True)
class Preset:
    """A declared experiment.

    Args:
        id: Name of the file.
        path: The file.
        title: What it shows, one sentence.
        source: Where it is described.
        minutes: Of one seed, by form and device, e.g. ``quick_cpu`` (measured; 0 or left out: not measured).
        claims: Claims.
        entries: The runs as declared.
        options: Options of all runs, by form.
    """

    id: str
    path: Path
    title: str
    source: str
    minutes: Mapping[str, float]
    claims: tuple[Claim, ...]
    entries: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]

    def plans(self, form: str, seed: int, changes: Iterable[str] = ()) -> list[RunPlan]:
        """The runs of one repetition, parents before their forks.

        Args:
            form: "quick" or "full".
            seed: Seed of the repetition.
            changes: ``key=value`` for all runs, ``run.key=value`` for one; values as in TOML, or plain words.
        Raises:
            PresetError: If a run or a change cannot be carried out.
        """
        given = [_change(self, text) for text in changes]
        plans: dict[str, RunPlan] = {}
        for name in _in_order(self):
            own = dict(self.entries[name])
            asked = {key: value for run, key, value in given if run in (None, name)}
            for plan in _plans(self, name, own, form, seed, asked, plans):
                plans[plan.folder] = plan
        return list(plans.values())


def preset_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(path.stem for path in LIBRARY.glob("*.toml"))


def load_preset(name: str | Path) -> Preset:
    """A preset by its name, or the path of a file of yours.

    Raises:
        PresetError: If there is none, or it is not what a preset must be.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = LIBRARY / f"{name}.toml"
        if not path.is_file():
            raise PresetError(f"preset must be one of {', '.join(preset_names())} or a .toml file, got {name}")
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PresetError(f"{path} must be a readable TOML file: {str(error).splitlines()[0]}; correct it") from None
    preset = _read(path, content)
    for form in FORMS:  # said before anything is trained
        preset.plans(form, 0)
    return preset


def _read(path: Path, content: dict[str, Any]) -> Preset:
    known = ("title", "source", "minutes", "options", "runs", "claims")
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise PresetError(f"{path}: entries must be among {', '.join(known)}; got {', '.join(unknown)}; remove it")
    for key in ("title", "source"):
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise PresetError(f"{path}: {key} must be a sentence, got {content.get(key)!r}; write one")
    runs, claims = content.get("runs"), content.get("claims")
    if not isinstance(runs, dict) or not runs or not all(isinstance(entry, dict) for entry in runs.values()):
        raise PresetError(f"{path}: runs must be tables, [runs.NAME], got {runs!r}; declare one")
    if not isinstance(claims, list) or not claims:
        raise PresetError(f"{path}: claims must be tables, [[claims]], got {claims!r}; declare one")
    return Preset(
        path.stem,
        path,
        content["title"],
        content["source"],
        content.get("minutes", {}),
        tuple(_claim(path, claim, tuple(runs)) for claim in claims),
        runs,
        content.get("options", {}),
    )


def _claim(path: Path, entry: Mapping[str, Any], runs: tuple[str, ...]) -> Claim:
    known = tuple(field.name for field in dataclasses.fields(Claim))
    if not isinstance(entry, dict) or set(entry) - set(known) or not {"says", "value", "holds"} <= set(entry):
        raise PresetError(f"{path}: a claim must have says, value, holds and may have control, forms, fails: {entry!r}")
    forms = tuple(entry.get("forms", FORMS))
    if not set(forms) <= set(FORMS):
        raise PresetError(f"{path}: forms must be among {', '.join(FORMS)}, got {forms}; correct it")
    try:
        control = Measurement(entry["control"], runs) if "control" in entry else None
        condition = Condition(entry["holds"], control is not None)
        value = Measurement(entry["value"], runs)
    except ExpressionError as error:
        raise PresetError(f"{path}: claim {entry['says']!r}: {error}") from None
    return Claim(entry["says"], value, control, condition, forms, entry.get("fails", ""))


def _in_order(preset: Preset) -> Iterator[str]:
    """The entries, parents before their forks."""
    done: set[str] = set()
    left = list(preset.entries)
    while left:
        ready = [name for name in left if preset.entries[name].get("fork") in (None, *done)]
        if not ready:
            raise PresetError(f"{preset.path}: fork must name another run, see {', '.join(left)}; correct it")
        yield from ready
        done |= set(ready)
        left = [name for name in left if name not in done]


def _change(preset: Preset, text: str) -> tuple[str | None, str, Any]:
    left, equals, value = text.partition("=")
    run, dot, key = left.rpartition(".")
    if not equals or not key or (dot and run not in preset.entries):
        raise PresetError(f"a change must be key=value or RUN.key=value of {', '.join(preset.entries)}, got {text!r}")
    try:
        read = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        read = value
    return (run if dot else None), key, read


def _plans(
    preset: Preset,
    name: str,
    own: dict[str, Any],
    form: str,
    seed: int,
    asked: dict[str, Any],
    earlier: Mapping[str, RunPlan],
) -> Iterator[RunPlan]:
    """The runs of one entry: one, or one a combination of its grid."""
    kind, parent, at = own.get("kind", "train"), own.get("fork"), own.get("at")
    common = {key: value for key, value in preset.options.items() if key not in FORMS}
    layers = [common, preset.options.get(form, {})] if parent is None and kind == "train" else []
    layers += [{key: value for key, value in own.items() if key not in OWN}, own.get(form, {})]
    options: dict[str, Any] = {}
    for layer in layers:
        options |= layer
    grid = {**own.get("grid", {}), **options.pop("grid", {})}
    at = options.pop("at", at)
    options |= {key: value for key, value in asked.items() if parent is None or key in CHANGEABLE}
    where = f"{preset.path}: run {name}"
    if kind not in KINDS:
        raise PresetError(f"{where}: kind must be one of {', '.join(KINDS)}, got {kind!r}; choose one of them")
    if (parent is None) != (at is None):
        raise PresetError(f"{where}: fork and at must be given together, got {parent!r} and {at!r}; add the other")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        folder = "".join([name, *(f",{key}={_word(value)}" for key, value in point.items())])
        chosen = {key: _fill(value, seed) for key, value in (options | point).items()}
        try:
            if kind == "simulate":
                yield RunPlan(name, folder, simulation=SimulationPlan.from_options(chosen))
            elif parent is None:
                yield RunPlan(name, folder, config=TrainConfig.from_dict({"threads": 1, "seed": seed, **chosen}))
            else:
                base = earlier.get(parent)
                if base is None or base.config is None:
                    raise PresetError(f"fork must name one trained run, got {parent!r}; correct it")
                wrong = sorted(set(chosen) - set(CHANGEABLE))
                if wrong:
                    raise PresetError(f"a fork may change {', '.join(CHANGEABLE)}; got {', '.join(wrong)}; remove it")
                if chosen.get("optimizer", base.config.optimizer) != base.config.optimizer:
                    chosen = {"optimizer_options": (), **chosen}
                config = dataclasses.replace(base.config, **chosen)
                yield RunPlan(name, folder, config, None, parent, Moment(at), tuple(sorted(chosen.items())))
        except (ConfigError, ExpressionError, PresetError, TypeError, ValueError) as error:
            raise PresetError(f"{where}: {error}") from None


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _fill(value: Any, seed: int) -> Any:
    if isinstance(value, str):
        return value.replace("{seed}", str(seed))
    return [_fill(item, seed) for item in value] if isinstance(value, list) else value
