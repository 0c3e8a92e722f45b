"""The directive ``source``: the code of a function, method or class as it stands in its file.

```{source} jaxnn.layers.dense.dense.backward
```
"""

import inspect
import pkgutil
import textwrap
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]


def setup(app: Any) -> None:
    """Register the directive."""
    app.add_directive("source", SourceDirective)


class SourceDirective(SphinxDirective):
    """The dotted name of what is to be shown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The code, and where it stands."""
        found = inspect.unwrap(pkgutil.resolve_name(self.arguments[0]))
        lines, first = inspect.getsourcelines(found)
        file = Path(inspect.getsourcefile(found) or "").resolve()
        self.env.note_dependency(str(file))
        code = textwrap.dedent("".join(lines)).rstrip()
        place = f"{file.relative_to(ROOT).as_posix()}, line {max(first, 1)}"
        return [
            nodes.literal_block(code, code, language="python"),
            nodes.paragraph("", "", nodes.inline("", place, classes=["place"])),
        ]
