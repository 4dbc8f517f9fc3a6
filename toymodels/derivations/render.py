"""A derivation as text, as LaTeX, and all of them as a document."""

import unicodedata
from collections.abc import Iterable

from toymodels.derivations.registry import Derivation
from toymodels.notation import NOTATION

__all__ = ["as_document", "as_latex", "as_text", "escape"]

_MATH = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\epsilon", "η": r"\eta", "θ": r"\theta",
    "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "ν": r"\nu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma",
    "τ": r"\tau", "ψ": r"\psi", "ω": r"\omega", "Π": r"\Pi", "Σ": r"\Sigma", "Δ": r"\Delta", "∇": r"\nabla",
    "∂": r"\partial", "∞": r"\infty", "∫": r"\int", "√": r"\surd", "≤": r"\le", "≥": r"\ge", "≠": r"\ne",
    "≈": r"\approx", "±": r"\pm", "∓": r"\mp", "·": r"\cdot", "×": r"\times", "−": "-", "→": r"\to", "∥": r"\parallel",
    "⊥": r"\perp", "½": r"\tfrac12", "¼": r"\tfrac14", "⁻¹": "^{-1}", "²": "^2", "³": "^3", "₀": "_0", "₁": "_1",
    "₂": "_2", "ᵀ": r"^{\top}", "‖": r"\|", "ℓ": r"\ell", "∈": r"\in", "<": "<", ">": ">",
}  # fmt: skip
_PLAIN = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "^": r"\^{}", "~": r"\~{}", "$": r"\$", "–": "--", "…": r"\dots{}", "’": "'",
}  # fmt: skip


def escape(text: str) -> str:
    """Plain text with Unicode symbols as LaTeX that any engine takes.

    Raises:
        ValueError: If a character has no translation.
    """
    for symbol in sorted(_MATH, key=len, reverse=True):
        text = text.replace(symbol, f"\0{symbol}\0") if symbol == "⁻¹" else text
    parts = text.split("\0")
    found = []
    for part in parts:
        if part in _MATH:
            found.append(f"${_MATH[part]}$")
            continue
        for letter in part:
            if letter in _MATH:
                found.append(f"${_MATH[letter]}$")
            elif letter in _PLAIN:
                found.append(_PLAIN[letter])
            elif letter.isascii() or unicodedata.name(letter).startswith("LATIN"):
                found.append(letter)
            else:
                raise ValueError(f"text of a derivation must have a LaTeX form, got {letter!r} in {part!r}")
    return "".join(found)


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
    """One derivation as a LaTeX paragraph: displayed formula, what it assumes, how it is proved, where it is code."""
    lines = [rf"\paragraph{{{escape(row.title)}}} \textit{{{row.status}}} \texttt{{({escape(row.id)})}}"]
    # a formula wider than the page is shrunk to it
    lines.append(
        rf"\begin{{center}}\adjustbox{{max width=\linewidth}}{{$\displaystyle {row.statement}$}}\end{{center}}"
    )
    lines.append(rf"Domain: {escape(row.domain)}.")
    if row.assumptions:
        lines.append(rf"Assumes: {escape('; '.join(row.assumptions))}.")
    if row.steps:
        lines.append(rf"Proof steps: {escape('; '.join(s.text for s in row.steps))}.")
    if row.checks:
        lines.append(rf"Checked: {escape('; '.join(c.text for c in row.checks))}.")
    if row.numeric:
        lines.append(rf"Code: \texttt{{{escape(row.numeric)}}}.")
    lines.append(rf"Source: {escape(row.source)}.")
    return "\n".join(lines) + "\n"


def _notation() -> str:
    rows = "\n".join(
        rf"${entry.symbol}$ & \texttt{{{escape(entry.name)}}} & {_mixed(entry.meaning)} & {escape(entry.unit)} \\"
        for entry in NOTATION
    )
    head = "symbol & code & meaning & unit"
    return (
        "\\section*{Notation}\n\\begin{longtable}{lll>{\\raggedright\\arraybackslash}p{2.2cm}}\n"
        f"{head} \\\\ \\hline\n{rows}\n\\end{{longtable}}\n"
    )


def _mixed(text: str) -> str:
    """A meaning may hold LaTeX commands: those words are set as mathematics."""
    return " ".join(f"${word}$" if "\\" in word else escape(word) for word in text.split(" "))


def as_document(rows: Iterable[Derivation]) -> str:
    """A standalone LaTeX document of the given derivations, with the table of notation."""
    head = (
        "\\documentclass[10pt]{article}\n\\usepackage[margin=2cm]{geometry}\n\\usepackage{amsmath,amssymb,array}\n"
        "\\usepackage{adjustbox,longtable}\n\\emergencystretch=3em\n\\title{Dynamics of opposing signals}\n\\date{}\n"
        "\\begin{document}\n\\maketitle\n"
    )
    return (
        head
        + _notation()
        + "\\section*{Derivations}\n"
        + "\n".join(as_latex(row) for row in rows)
        + "\\end{document}\n"
    )
