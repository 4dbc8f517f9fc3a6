"""The registry of derivations: every result of the theory, with the steps that prove it.

Each module named in ``MODULES`` defines ``ROWS``, a tuple of :class:`~toymodels.derivations.registry.Derivation`.
"""

import importlib

from toymodels.derivations.registry import Check, Derivation, Proof, Step

__all__ = ["Check", "Derivation", "Proof", "Step", "derivation", "registry"]

MODULES = (
    "core",
    "thresholds",
    "exact_flow",
    "layer",
    "descent_flow",
    "noise",
    "groups",
    "logistic",
    "edge",
    "depth",
    "imbalance",
    "gd_dynamics",
    "gd_cycles",
    "gd_boundary",
    "valley",
)


def registry() -> dict[str, Derivation]:
    """All derivations by id, in reading order."""
    rows: dict[str, Derivation] = {}
    for name in MODULES:
        for row in importlib.import_module(f"toymodels.derivations.{name}").ROWS:
            if row.id in rows:
                raise ValueError(f"derivation ids must be unique, got {row.id!r} twice")
            rows[row.id] = row
    return rows


def derivation(name: str) -> Derivation:
    """One derivation by id.

    Raises:
        ValueError: If there is none of that id; the message lists those there are.
    """
    rows = registry()
    if name not in rows:
        raise ValueError(f"derivation must be one of {', '.join(rows)}; got {name!r}")
    return rows[name]
