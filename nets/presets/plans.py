"""From the entries of a preset to the runs of one repetition: forms, grids, forks and changes."""

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nets.config import TrainConfig
from nets.fork import CHANGEABLE

from .expressions import Moment
from .simulated import SimulationPlan

__all__ = ["FORMS", "OWN", "TRAINED", "PresetError", "RunPlan", "make_plans"]

FORMS = ("quick", "full")
KINDS = ("train", "simulate")
OWN = ("kind", "fork", "at", "grid", *FORMS)
#: options of a run that is trained; its seed is that of the repetition
TRAINED = tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name != "seed")
SIMULATED = tuple(f.name for f in dataclasses.fields(SimulationPlan))
LONGEST = 200  # letters of a folder's name


class PresetError(ValueError):
    """A preset that cannot be run; the message names the file, the entry, its requirement, the value and the remedy."""


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
class Change:
    """``key=value`` for all runs that have such an option, or ``run.key=value`` for one."""

    text: str
    run: str | None
    key: str
    value: Any


def make_plans(
    path: Path,
    entries: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    form: str,
    seed: int,
    changes: Iterable[str] = (),
) -> list[RunPlan]:
    """The runs of one repetition, parents before their forks.

    Args:
        path: File of the preset, for messages.
        entries: The runs as declared.
        options: Of all runs that are trained and no forks.
        form: "quick" or "full".
        seed: Of the repetition.
        changes: ``key=value`` or ``run.key=value``.
    Raises:
        PresetError: If a run or a change cannot be carried out.
    """
    given = _read_changes(entries, changes)
    plans: dict[str, RunPlan] = {}
    for name in _in_order(path, entries):
        try:
            for plan in _plans_of(name, entries[name], options, form, seed, given, plans):
                if plan.folder in plans:
                    raise PresetError(f"grid must give each run another name, got {plan.folder} twice; leave one out")
                plans[plan.folder] = plan
        except (TypeError, ValueError) as error:
            raise PresetError(f"{path}: run {name}: {error}") from None
    return list(plans.values())


def _takes(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Options that an entry may have."""
    if entry.get("fork") is not None:
        return CHANGEABLE
    return SIMULATED if entry.get("kind") == "simulate" else TRAINED


def _read_changes(entries: Mapping[str, Mapping[str, Any]], texts: Iterable[str]) -> list[Change]:
    """The changes, those of one run after those of all."""
    found: dict[tuple[str | None, str], Change] = {}
    for text in texts:
        left, equals, value = text.partition("=")
        run, dot, key = left.rpartition(".")
        if not equals or not key or (dot and run not in entries):
            raise PresetError(
                f"a change must be key=value or RUN.key=value with a run among {', '.join(entries)}, got {text!r}; "
                "correct it"
            )
        if key == "seed" and not (dot and entries[run].get("fork")):
            raise PresetError(f"a change must not be of the seed of a repetition, got {text!r}; pass --seed")
        names = [run] if dot else list(entries)
        known = list(dict.fromkeys(key for name in names for key in _takes(entries[name])))
        if key not in known:
            raise PresetError(f"a change must be of an option among {', '.join(known)}, got {text!r}; correct it")
        if (run if dot else None, key) in found:
            raise PresetError(f"a change must be given once, got {left} twice; leave one out")
        try:
            read = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            read = value
        change = Change(text, run if dot else None, key, read)
        found[change.run, key] = change
    return sorted(found.values(), key=lambda change: change.run is not None)


def _in_order(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The entries, parents before their forks."""
    done: set[str] = set()
    left = list(entries)
    while left:
        ready = [name for name in left if entries[name].get("fork") in (None, *done)]
        if not ready:
            wrong = ", ".join(f"{name} of {entries[name]['fork']!r}" for name in left)
            raise PresetError(
                f"{path}: fork must name a run that does not itself need the fork, got forks {wrong}; correct one"
            )
        yield from ready
        done |= set(ready)
        left = [name for name in left if name not in done]


def _plans_of(
    name: str,
    entry: Mapping[str, Any],
    common: Mapping[str, Any],
    form: str,
    seed: int,
    given: Sequence[Change],
    earlier: Mapping[str, RunPlan],
) -> Iterator[RunPlan]:
    """The runs of one entry: one, or one a combination of its grid."""
    kind, parent = entry.get("kind", "train"), entry.get("fork")
    if kind not in KINDS:
        raise PresetError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}; choose one of them")
    if kind == "simulate" and parent is not None:
        raise PresetError(f"fork must be of a run that is trained, got {parent!r} for a simulated one; leave it out")
    layers: list[Mapping[str, Any]] = []
    if kind == "train" and parent is None:
        layers = [{key: value for key, value in common.items() if key not in FORMS}, common.get(form, {})]
    layers += [{key: value for key, value in entry.items() if key not in FORMS}, entry.get(form, {})]
    options: dict[str, Any] = {}
    for layer in layers:
        options |= layer
    options = {key: value for key, value in options.items() if key not in ("kind", "fork", "grid")}
    at = options.pop("at", None)
    if (parent is None) != (at is None):
        raise PresetError(f"fork and at must be given together, got {parent!r} and {at!r}; add the other")
    grid = {**_grid(entry.get("grid", {})), **_grid(entry.get(form, {}).get("grid", {}))}
    takes = _takes(entry)
    for change in given:
        if change.run in (None, name) and change.key in takes:
            if change.key in grid:
                grid |= _grid({change.key: change.value if isinstance(change.value, list) else [change.value]})
            else:
                options[change.key] = change.value
    unknown = sorted({*options, *grid} - set(takes))
    if unknown:
        what = "options that a fork may change" if parent is not None else "options"
        why = "the seed is that of the repetition; " if unknown == ["seed"] else ""
        raise PresetError(f"{what} must be among {', '.join(takes)}; got {', '.join(unknown)}; {why}remove it")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        folder = ",".join([name, *(f"{key}={_word(value)}" for key, value in point.items())])
        if len(folder) > LONGEST:
            raise PresetError(f"grid must give names of at most {LONGEST} letters, got {folder}; shorten the values")
        chosen = {key: _fill(value, seed) for key, value in (options | point).items()}
        if kind == "simulate":
            yield RunPlan(name, folder, simulation=SimulationPlan(**chosen))
        elif parent is None:
            yield RunPlan(name, folder, config=TrainConfig.from_dict({"threads": 1, "seed": seed, **chosen}))
        else:
            yield _fork(name, folder, earlier.get(parent), parent, Moment(at), chosen)


def _fork(name: str, folder: str, base: RunPlan | None, parent: str, at: Moment, changes: dict[str, Any]) -> RunPlan:
    """A branch of a planned run, which can be made where that has the moment."""
    if base is None or base.config is None:
        raise PresetError(f"fork must name one run that is trained and has no grid, got {parent!r}; choose another")
    if changes.get("optimizer", base.config.optimizer) != base.config.optimizer:
        changes = {"optimizer_options": (), **changes}
    config = dataclasses.replace(base.config, **changes)
    if at.onset and (base.config.critical_sharpness is None or not base.config.eig_every):
        raise PresetError(
            f"at must be a number of steps, since {parent} has no constant critical sharpness or does not measure it, "
            f"got {at.text!r}; give the step"
        )
    if not at.onset and not at.steps < min(base.config.steps + 1, config.steps):
        raise PresetError(
            f"at must be a step that {parent} has, and below the fork's own {config.steps} steps, got {at.text}; "
            "fork earlier or set steps"
        )
    return RunPlan(name, folder, config, None, parent, at, tuple(sorted(changes.items())))


def _grid(given: Any) -> dict[str, list[Any]]:
    if not isinstance(given, dict) or not all(isinstance(values, list) and values for values in given.values()):
        raise PresetError(f"grid must be a table of lists, got {given!r}; write e.g. {{lr = [0.1, 0.2]}}")
    return given


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    text = "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^\w.+=:-]", "_", text)


def _fill(value: Any, seed: int) -> Any:
    """The value with ``{seed}`` in its strings replaced."""
    if isinstance(value, str):
        return value.replace("{seed}", str(seed))
    return [_fill(item, seed) for item in value] if isinstance(value, list) else value
