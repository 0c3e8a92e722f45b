"""The directive ``derivation``: a derivation, line by line, each beside its reason and its code.

    ```{derivation} linear.dense
    ```

It is checked while the page is built, which fails where a line does not hold.
"""

import importlib
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from docs.derivations.derivation import Code, Derivation, Step
from docs.derivations.notation import latex


def setup(app: Any) -> None:
    """Register the directive."""
    app.add_directive("derivation", DerivationDirective)


class DerivationDirective(SphinxDirective):
    """``MODULE.NAME`` in `docs.derivations`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The forward pass, and what is derived from it."""
        module, _, name = self.arguments[0].rpartition(".")
        derivation = _found(module, name)
        self.env.note_dependency(
            str(importlib.import_module(f"docs.derivations.{module}").__file__)
        )
        compared = derivation.check()
        return [
            _box(self._row(left, [step]) for left, step in derivation.forward),
            *(_box([self._row(chain.of, chain.steps)]) for chain in derivation.chains),
            _checked(derivation, compared),
        ]

    def _row(self, left: Any, steps: Any) -> nodes.Node:
        rows = nodes.container(classes=["chain"])
        for number, step in enumerate(steps):
            rows += nodes.math_block("", latex(left)) if number == 0 else nodes.container()
            rows += nodes.math_block("", f"= {latex(step.equals)}")
            rows += self._reason(step)
        return rows

    def _reason(self, step: Step) -> nodes.Node:
        beside = nodes.container(classes=["beside"])
        if step.because:
            children, messages = self.parse_inline(step.because)
            beside += [nodes.paragraph("", "", *children), *messages]
        if step.code:
            beside += _code(step.code)
        return beside


def _found(module: str, name: str) -> Derivation:
    found = getattr(importlib.import_module(f"docs.derivations.{module}"), name)
    if not isinstance(found, Derivation):
        raise TypeError(f"derivation: expected {module}.{name} to be one, got {found!r}")
    return found


def _box(rows: Any) -> nodes.Node:
    return nodes.container("", *rows, classes=["derivation"])


def _code(code: Code) -> Iterator[nodes.Node]:
    path, line = code.place()
    text = re.sub(r"\n\s*", "\n    ", code.piece)
    yield nodes.literal_block(text, text, language="python")
    yield nodes.paragraph("", "", nodes.inline("", f"{path}, line {line}", classes=["place"]))


def _checked(derivation: Derivation, compared: int) -> nodes.Node:
    text = (
        f"Checked when this page was built: {compared} equalities, for every value of their "
        "indices at two random points: the lines with each other to 20 digits, and what "
        f"the code of {derivation.title} returns, in float64, with the lines that it stands for."
    )
    return nodes.paragraph("", text, classes=["checked"])
