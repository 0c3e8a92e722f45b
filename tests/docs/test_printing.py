"""How the formulas of derivations are printed."""

import pytest

from docs.derivations.notation import array, as_written, index, latex, partial, total

p, t = index("p", 2), index("t", 3)
x, c = array("x", 5), array("c", p)

with as_written():
    FORMULAS = {
        r"x_{2 p + t - 1}": x[2 * p + t - 1],
        r"c_{p} + x_{p} + x_{t}": c[p] + (x[p] + x[t]),
        r"\frac{c_{p}}{\sum_{t} x_{t}}": c[p] / total(x[t], t),
        r"\left(\sum_{t} x_{t}\right) c_{p}": total(x[t], t) * c[p],
        r"\frac{\partial c_{p}}{\partial x_{t}}": partial(c[p], x[t]),
    }


@pytest.mark.parametrize("printed", FORMULAS)
def test_a_formula_is_printed_as_it_is_written_without_needless_brackets(printed):
    assert latex(FORMULAS[printed]) == printed
