"""``opposing derive``: the closed forms, printed or re-proved."""

from dataclasses import dataclass
from typing import Literal

import tyro

from opposing.parsing import parser

__all__ = ["DeriveCommand", "parse", "run"]


@dataclass(frozen=True)
class DeriveCommand:
    """Print the derivations of the theory, or re-prove them.

    Attributes:
        names: Ids of the derivations; none means all.
        format: "text", "latex" (one paragraph each) or "document" (a whole .tex file).
        check: Re-prove instead of printing; exit 1 if one fails.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    format: Literal["text", "latex", "document"] = "text"
    check: bool = False


parse = parser(DeriveCommand, "derive", "opposing derive onset --format latex")


def run(command: DeriveCommand) -> int:
    """Print or prove."""
    from toymodels.derivations import derivation, registry
    from toymodels.derivations.render import as_document, as_latex, as_text

    rows = [derivation(name) for name in command.names] or list(registry().values())
    if command.check:
        proofs = [row.prove() for row in rows]
        for row, proof in zip(rows, proofs, strict=True):
            print(
                f"{'ok  ' if proof.ok else 'FAIL'} {row.id:<26}{row.status:<10}{proof.seconds:6.2f} s  {proof.detail}"
            )
        failed = sum(not proof.ok for proof in proofs)
        seconds = sum(proof.seconds for proof in proofs)
        print(f"{len(proofs) - failed} of {len(proofs)} derivations re-proved in {seconds:.0f} s")
        return 1 if failed else 0
    if command.format == "document":
        print(as_document(rows), end="")
    else:
        show = as_text if command.format == "text" else as_latex
        print("\n\n".join(show(row) for row in rows))
    return 0
