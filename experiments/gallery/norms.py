"""Norms of the rows of a matrix, and broadcasting.

For a row x:  ‖x‖₀ = the number of xⱼ ≠ 0,  ‖x‖₁ = Σⱼ |xⱼ|,  ‖x‖₂ = √(Σⱼ xⱼ²).

Normalised rows x / ‖x‖₂ have length 1. The norms are kept as a column [rows, 1], so that the
division X / norms is broadcast: an axis of length 1 is stretched to the length it meets, axes are
matched from the last one, and a missing one counts as 1.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gallery.result import Picture, Result, Table, alone
from experiments.support import style

FORMULAS = (
    r"\|x\|_1 = \sum_j |x_j|, \quad \|x\|_2 = \sqrt{\sum_j x_j^2}, \quad "
    r"\frac{x}{\|x\|_2} \text{ has length } 1",
)

ROWS = [[4, 3], [-3, 2], [4, -1]]
ORDERS = {"L0": 0, "L1": 1, "L2": 2}


def norms() -> dict[str, np.ndarray]:
    """The L0, L1 and L2 norm of every row, and the rows divided by their L2 norm, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(ROWS, jnp.float64)
        result = {name: jnp.linalg.norm(x, order, axis=1) for name, order in ORDERS.items()}
        result["rows / L2"] = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        return {name: np.asarray(value) for name, value in result.items()}


def broadcasts() -> list[tuple[str, str, str]]:
    """Shapes that meet in a sum, and the shape of the sum, or that they do not fit."""
    pairs = [((3, 2), (3, 1)), ((3, 2), (2,)), ((3, 1), (2,)), ((5, 1, 2), (3, 1)), ((3, 2), (3,))]
    rows = []
    for a, b in pairs:
        try:
            shape = str(jnp.broadcast_shapes(a, b))
        except ValueError:
            shape = "do not fit"
        rows.append((str(a), str(b), shape))
    return rows


def draw() -> Picture:
    """The rows as arrows before and after, and the curves ‖x‖ = 1."""
    result = norms()
    figure, (left, right) = style.figure(columns=2, height=3.6)
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    for row, unit, colour in zip(ROWS, result["rows / L2"], style.COLOURS, strict=False):
        for axes, end in ((left, row), (right, unit)):
            axes.annotate("", end, (0, 0), arrowprops=arrow | {"color": colour})
        above = (0, 5 if row[1] > 0 else -13)
        left.annotate(
            style.minus(f"({row[0]}, {row[1]})"),
            row,
            above,
            textcoords="offset points",
            ha="center",
        )
    angle = np.linspace(0, 2 * np.pi, 721)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    right.plot(*circle, label="‖x‖₂ = 1", color=style.BLACK, linewidth=1)
    diamond = circle / np.abs(circle).sum(0)
    right.plot(*diamond, label="‖x‖₁ = 1", color=style.PURPLE, linewidth=1)
    left.set(title="the rows of X", xlim=(-5, 5), ylim=(-5, 5))
    right.set(title="each divided by its L2 norm", xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    for axes in (left, right):
        axes.set(xlabel="first component", ylabel="second component", aspect="equal")
    right.legend(loc="lower left")
    caption = (
        "The rows of X as arrows, and on the unit circle after division by their length. The "
        "diamond holds the vectors whose components have sizes that sum to 1: division by the L1 "
        "norm would put the rows there."
    )
    return Picture("rows", caption, figure)


def run() -> Result:
    """The norms of the example, and which shapes broadcast."""
    return Result(
        "Three norms of each row of X = [[4, 3], [−3, 2], [4, −1]]: how many components are not "
        "zero, the sum of their sizes, and the length. Divided by their length the rows lie on "
        "the unit circle. The division works by broadcasting a column against a matrix.",
        [draw()],
        [
            Table("Norms of the rows", ("quantity", "value"), list(norms().items())),
            Table("Broadcasting", ("shape of a", "shape of b", "shape of a + b"), broadcasts()),
        ],
    )


if __name__ == "__main__":
    alone("norms")
