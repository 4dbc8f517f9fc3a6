"""Every row of the registry proves; a wrong one does not."""

import re

import pytest
import sympy as sp

import toymodels
from toymodels.derivations import Check, Derivation, Step, derivation, registry
from toymodels.derivations.render import as_document, as_latex, as_text, escape
from toymodels.symbolic import deep_linear, several_signals, two_layer


@pytest.mark.parametrize("name", list(registry()))
def test_row_proves_and_its_function_exists(name):
    row = registry()[name]
    proof = row.prove()
    assert proof.ok, proof.detail
    assert callable(row.function())


def test_a_wrong_formula_and_a_broken_check_fail():
    c = two_layer().weights[0]
    wrong = Derivation("x", "x", "x", (), "", "proved", (Step("c is conserved", lambda: two_layer().along_flow(c)),))
    assert not wrong.prove().ok
    assert "c is conserved" in wrong.prove().detail
    late = Derivation("y", "y", "y", (), "", "measured", checks=(Check("off", lambda: (2.0, 1.0)),))
    assert not late.prove().ok
    nan = Derivation("z", "z", "z", (), "", "measured", checks=(Check("nan", lambda: (float("nan"), 1.0)),))
    assert not nan.prove().ok


def test_status_needs_evidence():
    with pytest.raises(ValueError, match="requires at least one step"):
        Derivation("x", "x", "x", (), "", "proved")
    with pytest.raises(ValueError, match="requires a check"):
        Derivation("x", "x", "x", (), "", "bounded")


def test_rendering():
    rows = registry()
    for row in rows.values():
        assert row.statement in as_text(row)
        assert row.statement in as_latex(row)
    document = as_document(rows.values())
    assert document.count("\\paragraph") == len(rows)
    assert all(letter.isascii() or letter.isalpha() for letter in document)  # no symbol that an engine lacks
    bare = document.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    for row in rows.values():
        sides = [len(re.findall(rf"\\{side}(?![a-z])", row.statement)) for side in ("left", "right")]
        assert sides[0] == sides[1]
        # a command run into the next word by two joined strings
        assert not re.search(r"\\(quad|qquad|cdot|alpha|beta|eta|tau|lambda)[A-Za-z]", row.statement)
    assert escape("λ of P⁻¹H_1 & 5 %") == r"$\lambda$ of P$^{-1}$H\_1 \& 5 \%"
    with pytest.raises(ValueError, match="must have a LaTeX form"):
        escape("☃")
    with pytest.raises(ValueError, match="derivation must be one of"):
        derivation("nothing")


def test_general_models_contain_the_two_layer_one():
    general = several_signals(3)
    c, *w = general.weights
    k1, k2, k3, b1, b2, b3 = general.parameters
    cc, b, p, u = two_layer().weights
    beta, alpha = two_layer().parameters
    values = {c: cc, w[0]: b, w[1]: p, w[2]: u, k1: 1, k2: 1, k3: alpha, b1: beta, b2: 0, b3: 0}
    assert sp.expand(general.loss.subs(values) - two_layer().loss) == 0
    assert len(deep_linear(2, depth=1).weights) == 2
    assert len(deep_linear(2, depth=4).weights) == 5
    with pytest.raises(ValueError, match="depth >= 1"):
        deep_linear(1, depth=0)


def test_public_names_resolve():
    for name in toymodels.__all__:
        assert getattr(toymodels, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = toymodels.nothing  # pyright: ignore[reportAttributeAccessIssue]
