import numpy as np
import pytest
from helpers import assert_agree, normal

from jaxnn.kernels.convolution.grids import add_overlapping, interleave, phases, sandwich


@pytest.mark.parametrize("size", [(6, 4), (5, 4), (1, 1)])
def test_interleaved_phases_are_the_array(size, x64):
    y = normal(0, (2, 6, 4, 3))
    np.testing.assert_array_equal(interleave(phases(y), size), y[:, : size[0], : size[1]])


def test_a_sandwich_is_a_product_of_three_matrices_at_every_place(x64):
    matrix, grid = normal(0, (2, 3)), normal(1, (3, 3, 4, 5))
    expected = np.einsum("ri,ijab,cj->rcab", matrix, grid, matrix)
    rows = sandwich(matrix.tolist(), [list(row) for row in grid])
    assert_agree(np.asarray(rows), expected, 1e-12)


def test_overlapping_tiles_are_added_where_they_stand(x64):
    tiles = normal(0, (4, 4, 2, 3, 5, 1))  # rows and columns in a tile, batch, tiles, channels
    expected = np.zeros((2, 8, 12, 1))
    for i, j in np.ndindex(4, 4):
        expected[:, i : i + 6 : 2, j : j + 10 : 2] += tiles[i, j]
    summed = add_overlapping([list(row) for row in tiles])
    assert_agree(np.asarray(interleave(summed, (8, 12))), expected, 1e-12)
