"""The gallery's page: one static HTML file, no script or font loaded from anywhere."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from latex2mathml.converter import convert

from experiments.gallery.result import Result, Table
from experiments.support.calling import command


class Section(NamedTuple):
    """One theme on the page."""

    theme: str
    title: str
    derivation: str
    result: Result | None
    """None where the theme was left out as a whole."""
    images: Sequence[Path]
    left_out: Sequence[str]
    """What is not shown and why."""
    seconds: float
    source: str = ""
    """The program that computed it."""
    formulas: Sequence[str] = ()
    """In LaTeX."""


_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1a1a1a; --quiet: #555; --line: #ddd;
  --code: #f5f5f2; --warning: #fdf3ec; --edge: #0005; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--page); }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
pre { padding: .8rem; overflow-x: auto; font-size: .85rem; line-height: 1.35; }
/* A shadow at the edge behind which there is more, hidden by what scrolls where there is not. */
pre, .table { --own: var(--page); background:
  linear-gradient(90deg, var(--own) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(270deg, var(--own) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(90deg, var(--edge), transparent) left / .6rem 100% no-repeat,
  linear-gradient(270deg, var(--edge), transparent) right / .6rem 100% no-repeat, var(--own); }
pre { --own: var(--code); }
figure { margin: 1rem 0; } img { width: 100%; height: auto; }
figcaption, .seconds { color: var(--quiet); font-size: .9rem; }
.table { overflow-x: auto; margin: .3rem 0 1rem; }
table { border-collapse: collapse; font-size: .85rem; }
.title { font-weight: 600; font-size: .85rem; margin: 1rem 0 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--line); }
td { font-family: ui-monospace, monospace; font-size: .8rem; }
.array { white-space: pre; }
.formula { overflow: auto hidden; margin: .2rem 0; padding: .3rem 0; font-size: 1.1rem; }
.formula math { margin-right: 1.5rem; math-style: normal; }
summary { cursor: pointer; color: var(--quiet); }
.left-out { border-left: .3rem solid #D55E00; padding: .2rem .8rem; background: var(--warning); }
@media (max-width: 40rem) { .picture { overflow-x: auto; } .picture img { min-width: 38rem; } }
@media (prefers-color-scheme: dark) {
  :root { --page: #151515; --text: #ddd; --quiet: #aaa; --line: #444; --code: #232323;
    --warning: #33241b; --edge: #fff5; }
  a { color: #8ab4f8; } img { filter: brightness(.87); }
}
"""

_NOTES = (
    "“The notes” are five sets of Japanese study notes on neural networks, whose systems and "
    "printed numbers are computed here; the page “The study notes, row by row” of the book has "
    "them all, each with its test."
)


def page(sections: Sequence[Section], machine: str) -> str:
    """The whole page.

    Args:
        sections: The themes, in order.
        machine: On what the figures were computed.
    """
    contents = "".join(
        f'<li><a href="#{escape(s.theme)}">{escape(s.title)}</a>'
        f"{' (left out)' if s.result is None else ''}</li>\n"
        for s in sections
    )
    left_out = "".join(
        f"<li>{escape(s.theme)}: {escape(reason)}</li>\n" for s in sections for reason in s.left_out
    )
    missing = f'<div class="left-out"><p>Left out:</p><ul>\n{left_out}</ul></div>\n'
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>The jaxnn gallery</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>The jaxnn gallery</h1>\n<p>{_NOTES}</p>\n<p>{escape(machine)}</p>\n"
        f"{missing if left_out else ''}<ul>\n{contents}</ul>\n"
        f"{''.join(map(_section, sections))}</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f'<h2 id="{escape(section.theme)}">{escape(section.title)}</h2>\n']
    parts += [f'<p class="left-out">Left out: {escape(r)}</p>\n' for r in section.left_out]
    if section.result is None:
        return "".join(parts)
    parts.append(_paragraph(section.result.explanation))
    for picture, image in zip(section.result.pictures, section.images, strict=True):
        caption = escape(picture.caption)
        parts.append(
            f'<figure><div class="picture"><img src="{escape(image.name)}" alt="{caption}"></div>'
            f"<figcaption>{caption}</figcaption></figure>\n"
        )
    parts += map(_table, section.result.tables)
    parts += map(_formula, section.formulas)
    parts += map(_paragraph, section.derivation.split("\n\n"))
    if section.source:
        code = escape(section.source)
        parts.append(f"<details><summary>The code</summary><pre>{code}</pre></details>\n")
    parts.append(
        f'<p class="seconds">{section.seconds:.1f} s; by itself: '
        f"<code>{escape(command(f'gallery.{section.theme}'))}</code></p>\n"
    )
    return "".join(parts)


def _formula(latex: str) -> str:
    """Typeset as MathML, in pieces that a narrow page puts below each other."""
    pieces = (convert(piece) for piece in latex.split(r", \quad "))
    # What HTML is told of MathML's name space is of no use to it.
    math = "\n".join(re.sub(r' xmlns="[^"]*"', "", piece) for piece in pieces)
    return f'<p class="formula">{math}</p>\n'


def _paragraph(text: str) -> str:
    """Prose runs on from line to line; what is set off by an indentation keeps its lines."""
    tag = "pre" if text.startswith(" ") or "\n    " in text else "p"
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return f"<{tag}>{text}</{tag}>\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in table.cells())
    return (
        f'<p class="title">{escape(table.title)}</p>\n'
        f'<div class="table"><table aria-label="{escape(table.title)}">\n'
        f"<tr>{head}</tr>\n{rows}</table></div>\n"
    )


def _cell(text: str) -> str:
    """Words may wrap on a narrow page; an array keeps its lines and columns, a number its sign."""
    kind = "" if re.search(r"[^\W\d]{2} ", text) else ' class="array"'
    return f"<td{kind}>{escape(text)}</td>"
