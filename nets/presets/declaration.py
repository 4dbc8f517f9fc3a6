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
    [runs.model]                    # the two-layer linear model, simulated
    kind = "simulate"
    lr = 0.01

    [[claims]]
    says = "after onset the sharpness is near 2/lr; with a small step size it stays below its own 2/lr"
    value = "edge_ratio(gd)"
    control = "final_ratio(slow)"
    holds = "0.9 <= value <= 1.2 and control < 0.9"

``[options]`` are those of the trained runs; a fork and a simulation have their own only. The strings ``{seed}`` in an
option are replaced by the seed of the repetition, which is also the option ``seed``.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nets.presets.measures  # noqa: F401 - registers them

from .claims import Claim, check_claims, read_claim
from .plans import FORMS, OWN, TRAINED, PresetError, RunPlan, make_plans

__all__ = ["FORMS", "Claim", "Preset", "PresetError", "RunPlan", "load_preset", "preset_names"]

LIBRARY = Path(__file__).parent / "library"
ENTRIES = ("title", "source", "minutes", "options", "runs", "claims")
MINUTES = tuple(f"{form}_{device}" for form in FORMS for device in ("cpu", "gpu"))


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
        text: The file's content.
    """

    id: str
    path: Path
    title: str
    source: str
    minutes: Mapping[str, float]
    claims: tuple[Claim, ...]
    entries: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    text: bytes

    def plans(self, form: str, seed: int, changes: Iterable[str] = ()) -> list[RunPlan]:
        """The runs of one repetition, parents before their forks.

        Args:
            form: "quick" or "full".
            seed: Seed of the repetition.
            changes: ``key=value`` for all runs that have this option, ``run.key=value`` for one, which goes before;
                values as in TOML, or plain words. In a grid a value takes the place of the list, and so does a list.
        Raises:
            PresetError: If a run or a change cannot be carried out, or a measure does not fit the runs it is of.
        """
        plans = make_plans(self.path, self.entries, self.options, form, seed, changes)
        check_claims(self.path, self.claims_of(form), plans)
        return plans

    def claims_of(self, form: str) -> tuple[Claim, ...]:
        """The claims about one form."""
        return tuple(claim for claim in self.claims if form in claim.forms)


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
        if str(name) not in preset_names():
            raise PresetError(
                f"preset must be one of {', '.join(preset_names())} or a .toml file, got {name}; choose one of them"
            )
        path = LIBRARY / f"{name}.toml"
    try:
        text = path.read_bytes()
        content = tomllib.loads(text.decode())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PresetError(f"{path} must be a readable TOML file: {str(error).splitlines()[0]}; correct it") from None
    preset = _read(path, content, text)
    for form in FORMS:  # said before anything is trained
        preset.plans(form, 0)
    return preset


def _read(path: Path, content: dict[str, Any], text: bytes) -> Preset:
    _known(str(path), "entries", content, ENTRIES)
    for key in ("title", "source"):
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise PresetError(f"{path}: {key} must be a sentence, got {content.get(key)!r}; write one")
    runs, claims = content.get("runs"), content.get("claims")
    if not isinstance(runs, dict) or not runs:
        raise PresetError(f"{path}: runs must be tables, [runs.NAME], got {runs!r}; declare one")
    for name, entry in runs.items():
        _check_run(path, name, entry)
    if not isinstance(claims, list) or not claims:
        raise PresetError(f"{path}: claims must be tables, [[claims]], got {claims!r}; declare one")
    return Preset(
        path.stem,
        path,
        content["title"],
        content["source"],
        _minutes(path, content.get("minutes", {})),
        tuple(read_claim(path, claim, tuple(runs)) for claim in claims),
        runs,
        _options(path, content.get("options", {})),
        text,
    )


def _known(where: str, what: str, table: Mapping[str, Any], names: Iterable[str]) -> None:
    unknown = sorted(set(table) - set(names))
    if unknown:
        raise PresetError(f"{where}: {what} must be among {', '.join(names)}; got {', '.join(unknown)}; remove it")


def _table(where: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PresetError(f"{where}: {name} must be a table, got {value!r}; write e.g. {{steps = 100}}")
    return value


def _minutes(path: Path, minutes: Any) -> dict[str, float]:
    _known(str(path), "minutes", _table(str(path), "minutes", minutes), MINUTES)
    for key, value in minutes.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise PresetError(f"{path}: minutes: {key} must be a number >= 0, got {value!r}; leave it out if unknown")
    return {key: float(value) for key, value in minutes.items()}


def _options(path: Path, options: Any) -> dict[str, Any]:
    """The options of all runs; their names are known, their values are seen with the runs'."""
    _known(f"{path}: [options]", "options", _table(str(path), "options", options), (*TRAINED, *FORMS))
    for form in FORMS:
        of_form = _table(f"{path}: [options]", form, options.get(form, {}))
        _known(f"{path}: [options.{form}]", "options", of_form, TRAINED)
    return options


def _check_run(path: Path, name: str, entry: Any) -> None:
    where = f"{path}: run {name}"
    if not name.isidentifier() or not name.isascii():
        raise PresetError(f"{path}: a run must have a name of letters, digits and _, got {name!r}; rename it")
    _table(str(path), f"run {name}", entry)
    for form in FORMS:
        of_form = _table(where, form, entry.get(form, {}))
        wrong = sorted(set(of_form) & (set(OWN) - {"at", "grid"}))
        if wrong:
            raise PresetError(f"{where}: {form} must hold options, at or grid, got {', '.join(wrong)}; remove it")
    if not isinstance(entry.get("fork", ""), str):
        raise PresetError(f"{where}: fork must be the name of a run, got {entry['fork']!r}; write it in quotes")
