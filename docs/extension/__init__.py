"""What the book needs of Sphinx: formulas without a script, derivations, pages of all names."""

from typing import Any

from docs.extension import derivations, mathml, readme, reference, source


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    for part in (mathml, readme, derivations, source, reference):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
