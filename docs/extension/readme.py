"""The README, English and Japanese, at the head of two pages of the book."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = {"index": "README.md", "japanese": "README.ja.md"}


def setup(app: Any) -> None:
    """Put them there when the pages are read."""
    app.connect("source-read", _include)


def _include(app: Any, page: str, source: list[str]) -> None:
    if page in PAGES:
        file = ROOT / PAGES[page]
        app.env.note_dependency(str(file))
        source[0] = re.sub(r"\[([^]]*)\]\(([^)]+)\)", _link, file.read_text("utf-8")) + source[0]


def _link(match: re.Match) -> str:
    """A link from the root of the project as one from the folder of the book, if it leads there."""
    label, target = match.groups()
    if target.startswith("docs/"):
        return f"[{label}]({target.removeprefix('docs/')})"
    for page, file in PAGES.items():
        if target == file:
            return f"[{label}]({page}.md)"
    return match[0] if ":" in target else label
