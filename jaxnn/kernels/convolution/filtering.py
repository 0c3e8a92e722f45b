"""The matrices of Winograd's minimal filtering F(m, 3), and of F(m×m, 3×3)."""

import math
from typing import NamedTuple

from jaxnn.kernels.convolution.geometry import Geometry
from jaxnn.kernels.convolution.grids import Matrix


class Filtering(NamedTuple):
    """The matrices of F(m×m, 3×3), from Lavin and Gray (2016)."""

    B: Matrix
    G: Matrix
    A: Matrix

    @property
    def tile(self) -> int:
        """m."""
        return len(self.A[0])

    def tiles(self, geometry: Geometry) -> tuple[int, int]:
        """How many rows and columns of tiles cover the output."""
        rows, columns = geometry.output_size
        return -(-rows // self.tile), -(-columns // self.tile)

    def multiplications(self, geometry: Geometry) -> int:
        """How many there are for an example, an input channel and an output channel."""
        return len(self.B) ** 2 * math.prod(self.tiles(geometry))


F2 = Filtering(
    B=((1, 0, 0, 0), (0, 1, -1, 1), (-1, 1, 1, 0), (0, 0, 0, -1)),
    G=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    A=((1, 0), (1, 1), (1, -1), (0, -1)),
)
F4 = Filtering(
    B=(
        (4, 0, 0, 0, 0, 0),
        (0, -4, 4, -2, 2, 4),
        (-5, -4, -4, -1, -1, 0),
        (0, 1, -1, 2, -2, -5),
        (1, 1, 1, 1, 1, 0),
        (0, 0, 0, 0, 0, 1),
    ),
    G=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    A=((1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1)),
)
