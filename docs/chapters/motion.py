"""Pictures that move, as SVG with CSS: they need no script, and stand still, whole, where a reader
has asked for less motion."""

import base64
import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from IPython.display import HTML, SVG

import jaxnn as nn
from experiments.support import style

CELL = 34
MOMENT = 0.9
"""Seconds."""


@dataclass
class Film:
    """Drawn elements, and rules that say when they are seen."""

    moments: int
    elements: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def draw(self, element: str, *, until: int | None = None, since: int = 0) -> None:
        """An element that is there from a moment on, to the end or before another moment."""
        name = f"e{len(self.elements)}"
        # What goes again is not seen where nothing moves.
        still = ' opacity="0"' if until is not None else ""
        self.elements.append(element.replace("<g", f'<g class="{name}"{still}', 1))
        if since or until is not None:
            start, stop = (100 * t / self.moments for t in (since, until or self.moments))
            hidden = "0% {opacity: 0}" if since else ""
            end = f"{stop:.3f}% {{opacity: 0}}" if until else ""
            frames = f"{hidden} {start:.3f}% {{opacity: 1}} {end}"
            self.rules.append(f"@keyframes {name} {{{frames}}} .{name} {{animation-name: {name}}}")

    def show(self, width: float, height: float) -> SVG:
        """The whole film, in a loop."""
        every = (
            f"g[class] {{animation-duration: {self.moments * MOMENT}s; "
            "animation-iteration-count: infinite; animation-timing-function: step-end}"
            "@media (prefers-reduced-motion: reduce) {g[class] {animation: none !important}}"
            "text {font: 13px sans-serif; text-anchor: middle; dominant-baseline: central}"
        )
        body = "\n".join(self.elements)
        return SVG(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}"><rect width="100%" height="100%" fill="white"/>'
            f"<style>{every}\n{chr(10).join(self.rules)}</style>{body}</svg>"
        )


def sliding_window(x: Any, weight: Any, stride: int) -> SVG:
    """A `conv` of one channel without padding: the window on x, and y as it fills."""
    x, weight = np.asarray(x, np.float32), np.asarray(weight, np.float32)
    layer = nn.conv(1, weight.shape, strides=stride, padding="VALID", use_bias=False)
    params = {"weight": jnp.asarray(weight[..., None, None])}
    y = np.asarray(layer.predict(params, (), jnp.asarray(x[None, ..., None])))[0, ..., 0]
    places = list(np.ndindex(y.shape))
    film = Film(len(places) + 1)
    right, far = (x.shape[1] + 1) * CELL, (x.shape[1] + weight.shape[1] + 2) * CELL
    film.draw(_numbers(x, 0, CELL, "x"))
    film.draw(_numbers(weight, right, CELL, "W"))
    film.draw(_numbers(np.full(y.shape, np.nan), far, CELL, "y"))
    for moment, (row, column) in enumerate(places):
        corner = (column * stride * CELL, (row * stride + 1) * CELL)
        frame = _frame(*corner, weight.shape[1], weight.shape[0], style.VERMILLION)
        film.draw(f"<g>{frame}</g>", since=moment, until=moment + 1)
        value = _number(far + column * CELL, (row + 1) * CELL, y[row, column])
        film.draw(f"<g>{value}</g>", since=moment)
    return film.show(far + (y.shape[1] + 0.2) * CELL, (len(x) + 1.2) * CELL)


def there_and_back(
    names: Sequence[str], values: Sequence[Sequence[float]], deltas: Sequence[Sequence[float]]
) -> SVG:
    """Layers of units from left to right: values appear forwards, then deltas, ∂L/∂ of them,
    backwards."""
    columns, tall = len(values), max(map(len, values))
    film = Film(2 * columns + 2)
    width, height = 150, 90
    at = [
        [(width * (c + 0.5), height * (r + 0.5 + (tall - len(own)) / 2)) for r in range(len(own))]
        for c, own in enumerate(values)
    ]
    lines = [
        f'<line x1="{a[0]}" y1="{a[1]}" x2="{b[0]}" y2="{b[1]}" stroke="{style.GREY}"/>'
        for left, right in itertools.pairwise(at)
        for a in left
        for b in right
    ]
    titles = [
        f'<text x="{width * (c + 0.5)}" y="{height * tall + 12}">{name}</text>'
        for c, name in enumerate(names)
    ]
    boxes = [
        f'<rect x="{x - 52}" y="{y - 26}" width="104" height="52" rx="8" fill="white" '
        f'stroke="{style.BLACK}"/>'
        for column in at
        for x, y in column
    ]
    film.draw(f"<g>{''.join([*lines, *boxes, *titles])}</g>")
    for c, column in enumerate(at):
        for quantities, sign, dy, colour, moment in (
            (values[c], "", -11, style.BLUE, c),
            (deltas[c], "∂ ", 11, style.VERMILLION, 2 * columns - c),
        ):
            texts = [
                f'<text x="{x}" y="{y + dy}" fill="{colour}">{sign}{style.minus(f"{q:.5g}")}</text>'
                for (x, y), q in zip(column, quantities, strict=True)
            ]
            film.draw(f"<g>{''.join(texts)}</g>", since=moment)
    return film.show(width * columns, height * tall + 28)


def choice(pictures: Mapping[str, SVG], name: str) -> HTML:
    """Pictures of which a reader chooses one by a button, without a script. ``name`` is the page's
    own name for the choice."""
    buttons, shown, rules = [], [], [f".{name} > div {{display: none}}"]
    for number, (label, picture) in enumerate(pictures.items()):
        own, checked = f"{name}-{number}", " checked" if number == 0 else ""
        buttons.append(
            f'<input type="radio" name="{name}" id="{own}"{checked}>'
            f'<label for="{own}">{html.escape(label)}</label> '
        )
        data = base64.b64encode(picture.data.encode()).decode()
        image = f'<img alt="{html.escape(label)}" src="data:image/svg+xml;base64,{data}">'
        shown.append(f'<div class="{own}">{image}</div>')
        rules.append(f"#{own}:checked ~ .{own} {{display: block}}")
    inside = "".join([f"<style>{' '.join(rules)}</style>", *buttons, *shown])
    return HTML(f'<div class="{name}">{inside}</div>')


def _numbers(a: np.ndarray, left: float, top: float, title: str) -> str:
    cells = "".join(
        f'<rect x="{left + c * CELL + 0.5}" y="{top + r * CELL}" width="{CELL}" height="{CELL}" '
        f'fill="none" stroke="{style.GREY}"/>'
        + ("" if np.isnan(v) else _number(left + c * CELL, top + r * CELL, v))
        for (r, c), v in np.ndenumerate(a)
    )
    middle = left + a.shape[1] * CELL / 2
    return f'<g><text x="{middle}" y="{top - CELL / 2}">{title}</text>{cells}</g>'


def _number(left: float, top: float, value: float) -> str:
    shown = style.minus(f"{value + 0:g}")  # + 0 makes −0 a 0
    return f'<text x="{left + CELL / 2}" y="{top + CELL / 2}">{shown}</text>'


def _frame(left: float, top: float, columns: int, rows: int, colour: str) -> str:
    return (
        f'<rect x="{left + 1.5}" y="{top + 1}" width="{columns * CELL - 2}" '
        f'height="{rows * CELL - 2}" fill="{colour}" fill-opacity="0.15" stroke="{colour}" '
        'stroke-width="3"/>'
    )
