"""A derivation as text, as LaTeX, and all of them as a document."""

from collections.abc import Iterable

from toymodels.derivations.registry import Derivation

__all__ = ["as_document", "as_latex", "as_text"]


def as_text(row: Derivation) -> str:
    """Statement, assumptions, domain, evidence and code of one derivation, as plain text."""
    lines = [f"{row.id}: {row.title}  [{row.status}]", f"  {row.statement}", f"  domain: {row.domain}"]
    lines += [f"  assumes: {a}" for a in row.assumptions]
    lines += [f"  proof: {s.text}" for s in row.steps]
    lines += [f"  check: {c.text}" for c in row.checks]
    lines += [f"  code: {row.numeric}"] if row.numeric else []
    lines.append(f"  source: {row.source}")
    return "\n".join(lines)


def as_latex(row: Derivation) -> str:
    """One derivation as a LaTeX paragraph with a displayed formula."""
    assumed = "; ".join(a.replace("_", r"\_") for a in (*row.assumptions, f"domain: {row.domain}"))
    assumed = assumed.replace("^", r"\^{}")
    code = row.numeric.replace("_", r"\_")
    return f"\\paragraph{{{row.title}}} ({row.status})\n\\[ {row.statement} \\]\n{assumed}. Code: \\texttt{{{code}}}.\n"


def as_document(rows: Iterable[Derivation]) -> str:
    """A standalone LaTeX document of the given derivations."""
    head = "\\documentclass{article}\n\\usepackage{amsmath,amssymb}\n\\begin{document}\n"
    return head + "\n".join(as_latex(row) for row in rows) + "\\end{document}\n"
