"""A claim of a preset: what must be seen, and how its table is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .expressions import Condition, ExpressionError, Measurement
from .plans import FORMS, PresetError, RunPlan

__all__ = ["Claim", "check_claims", "read_claim"]


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


KNOWN = tuple(field.name for field in fields(Claim))
NEEDED = ("says", "value", "holds")


def read_claim(path: Path, entry: Any, runs: Sequence[str]) -> Claim:
    """The claim of a table.

    Args:
        path: File of the preset, for messages.
        entry: The table.
        runs: Names of the runs there are.
    Raises:
        PresetError: If it is none.
    """
    said = entry.get("says") if isinstance(entry, dict) else entry
    where = f"{path}: claim {said!r}"
    if not isinstance(entry, dict):
        raise PresetError(f"{where}: a claim must be a table, [[claims]], got {type(entry).__name__}; write one")
    unknown = sorted(set(entry) - set(KNOWN))
    if unknown:
        raise PresetError(f"{where}: entries must be among {', '.join(KNOWN)}; got {', '.join(unknown)}; remove it")
    for key in KNOWN:
        if key == "forms" or (key not in entry and key not in NEEDED):
            continue
        text = entry.get(key)
        if not isinstance(text, str) or not (text.strip() or key == "fails"):
            raise PresetError(f"{where}: {key} must be text, got {text!r}; write it in quotes")
    forms = entry.get("forms", list(FORMS))
    if not isinstance(forms, list) or not forms or not all(form in FORMS for form in forms):
        raise PresetError(f'{where}: forms must be a list of {", ".join(FORMS)}, got {forms!r}; write e.g. ["quick"]')
    try:
        control = Measurement(entry["control"], runs) if "control" in entry else None
        condition = Condition(entry["holds"], control is not None)
        value = Measurement(entry["value"], runs)
    except ExpressionError as error:
        raise PresetError(f"{where}: {error}") from None
    return Claim(entry["says"], value, control, condition, tuple(forms), entry.get("fails", ""))


def check_claims(path: Path, claims: Iterable[Claim], plans: Sequence[RunPlan]) -> None:
    """Refuse measures that do not fit the planned runs, as far as that is known before them.

    Raises:
        PresetError: If one does not.
    """
    for claim in claims:
        for measurement in (claim.value, claim.control):
            if measurement is None:
                continue
            try:
                measurement.check(plans)
            except ExpressionError as error:
                raise PresetError(f"{path}: claim {claim.says!r}: {error}") from None
